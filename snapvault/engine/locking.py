# SPDX-License-Identifier: Apache-2.0
"""Renew the locks of what restore points still need, so that it never is without one.

The host that backs a source up does so, since it is there every night and may not delete; prune
does so as well, where it runs. What is decided is in snapvault/model/locking.py.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from snapvault import clock
from snapvault.engine import notes, underneath
from snapvault.engine.files import write_durably
from snapvault.engine.pipeline import WORKERS, ordered, threads
from snapvault.engine.prune_plan import Judged, Rules, judge_points
from snapvault.engine.references import References
from snapvault.engine.vault import Vault, sync
from snapvault.errors import IntegrityError, ObjectMissingError, StoreDeniedError
from snapvault.formats import names
from snapvault.model.locking import ObjectLock, Renewal, Stored, renewals
from snapvault.ports.versions import StoreVersions, Version

BUDGET: Final = 20_000
"""Objects that one pass asks about; what is left is for the next run."""

_FILE: Final = "locks.json"
_OFTEN: Final = timedelta(days=1)
_PARTS_OF_PERIOD: Final = 8
_SLACK: Final = timedelta(hours=1)  # by which a lock may end early: clocks differ, stores round
_PASSING: Final = ("probe/", names.DRILLS)  # locked when they are put, and no longer
_JUDGED: Final = (names.POINTS, names.META, names.LISTS, names.VOLUMES)


@dataclass(frozen=True, slots=True)
class State:
    """How far the last pass came; lost, every object is asked about once more.

    `began` is when the first pass did, `since` up to when all is renewed, `points` are the ids of
    those whose objects were looked after then.
    """

    lock: ObjectLock
    began: datetime
    since: datetime | None
    is_whole: bool
    points: frozenset[str]


@dataclass(frozen=True, slots=True)
class Renewed:
    """What a pass did: objects it asked about, locks it renewed, and whether some are left.

    `hidden` are names of objects that points need and that somebody removed or replaced.
    """

    asked: int
    renewed: int
    is_whole: bool
    hidden: tuple[str, ...]


def renew(
    vault: Vault,
    rules: Mapping[str, Rules],
    *,
    budget: int | None = BUDGET,
    is_forced: bool = False,
) -> Renewed | None:
    """Renew locks, for the sources that have rules and for points that are held.

    None: the vault has no locks, or a pass was made not long ago. Those that no rule wants and
    nobody holds are left to their locks' ends.

    Raises:
        StoreDeniedError: the credentials may not see versions or locks, or not renew them.
        StoreError: the store could not be asked; the next pass does it all.
    """
    if vault.lock is None or vault.versions is None:
        return None
    state, now = _read(vault, vault.lock), clock.now()
    often = min(_OFTEN, vault.lock.period / _PARTS_OF_PERIOD)
    if (
        not is_forced
        and state is not None
        and state.is_whole
        and state.since is not None
        and timedelta(0) <= now - state.since < often
    ):
        return None
    own = underneath.by_name(vault.versions.versions())
    filled = {name: right for name, all_of in own.items() if (right := _right(all_of)) is not None}
    staying = _staying(vault, rules, filled.values())
    ids = frozenset(each.held.point.point for each in staying)
    if state is None:
        state = State(vault.lock, now, None, False, ids)
        _write(vault, state)
    needed, fresh = _needed(vault, staying, state.points)
    needed |= {name for name in filled if not name.startswith((*_JUDGED, *_PASSING))}
    due = renewals(
        (Stored(name, filled[name].stored_at) for name in needed if name in filled),
        vault.lock.period,
        since=state.since,
        began=state.began,
        now=now,
        at_once=frozenset(fresh),
        budget=budget,
    )
    done = _carry_out(vault.versions, due.renewals, filled, vault.lock)
    points = ids if due.is_all else state.points
    _write(vault, State(vault.lock, state.began, due.since, due.is_all, points))
    hidden = tuple(sorted(name for name in needed if _is_hidden(own.get(name, ()))))
    vault.events.emit("locks.renewed", asked=len(due.renewals), renewed=done, whole=due.is_all)
    return Renewed(len(due.renewals), done, due.is_all, hidden)


def _staying(vault: Vault, rules: Mapping[str, Rules], stored: Iterable[Version]) -> list[Judged]:
    """Return the points that a rule of this host or a hold wants."""
    held = {
        point: "; ".join(each.reason for each in some)
        for point, some in notes.held_points(notes.holds(vault)).items()
    }
    present = [each for each in sync(vault).held if not each.missing]
    latest = max((each.stored_at for each in stored), default=clock.now())
    judged = judge_points(present, rules, {}, held, min(clock.now(), latest + timedelta(days=1)))
    return [
        each
        for each in judged
        if each.held.point.point in held or (each.verdict.stays and each.held.point.source in rules)
    ]


def _needed(
    vault: Vault, staying: Sequence[Judged], known: frozenset[str]
) -> tuple[set[str], set[str]]:
    """Return what the points need, and what of it none needed that was looked after before."""
    references = References(vault)

    def named_by(some: Iterable[Judged]) -> set[str]:
        chosen = [each.held for each in some]
        found = {name for each in chosen for name in (each.manifest.name, each.point.hash_key.name)}
        try:
            return found | references.named_by([each.point for each in chosen])
        except IntegrityError:
            pass  # a list is lost or damaged: what the others need is to be had all the same
        for each in chosen:
            try:
                found |= references.named_by([each.point])
            except IntegrityError as error:
                vault.events.warn("vault.damaged", str(error), point=each.point.point)
        return found

    before = named_by(each for each in staying if each.held.point.point in known)
    after = named_by(each for each in staying if each.held.point.point not in known)
    return before | after, after - before


def _carry_out(
    versions: StoreVersions,
    wanted: Sequence[Renewal],
    filled: Mapping[str, Version],
    lock: ObjectLock,
) -> int:
    """Renew the locks that end too early, and return how many those were."""

    def one(renewal: Renewal) -> bool:
        version = filled[renewal.name]
        try:
            until = versions.locked_until(version)
            if until is not None and until >= renewal.until - _SLACK:
                return False
            try:
                versions.lock(version, renewal.until)
            except StoreDeniedError:
                if until is None or until < clock.now() + lock.period:
                    raise
                return False  # of a mode that nobody may change
        except ObjectMissingError:
            return False  # removed beside us
        return True

    with threads(WORKERS, "lock") as pool:
        return sum(ordered(one, wanted, ahead=2 * WORKERS, pool=pool))


def _right(all_of: Iterable[Version]) -> Version | None:
    """Return the version that we put: names are new, so others can only have come after it."""
    filled = [each for each in all_of if not each.is_marker]
    return filled[-1] if filled else None


def _is_hidden(all_of: Sequence[Version]) -> bool:
    right = _right(all_of)
    latest = next((each for each in all_of if each.is_latest), None)
    return right is not None and latest is not None and not underneath.is_same(latest, right)


def _read(vault: Vault, lock: ObjectLock) -> State | None:
    """Return how far the last pass came; None: there was none with these settings."""
    try:
        note = json.loads((vault.state / _FILE).read_bytes())
        if (note["mode"], note["seconds"]) != (lock.mode.value, lock.period.total_seconds()):
            return None
        return State(
            lock,
            clock.from_text(note["began"]),
            clock.from_text(note["since"]) if note["since"] else None,
            note["whole"] is True,
            frozenset(note["points"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(vault: Vault, state: State) -> None:
    note = {
        "mode": state.lock.mode.value,
        "seconds": state.lock.period.total_seconds(),
        "began": clock.to_text(state.began),
        "since": clock.to_text(state.since) if state.since else None,
        "whole": state.is_whole,
        "points": sorted(state.points),
    }
    with suppress(OSError):  # then everything is asked about once more
        vault.state.mkdir(parents=True, exist_ok=True)
        write_durably(vault.state / _FILE, [json.dumps(note).encode("ascii")])
