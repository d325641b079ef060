# SPDX-License-Identifier: Apache-2.0
"""Prune: expired manifests first; after a grace, the objects that no manifest needs.

Nothing is locked. What a prune is about to do it writes down, signed, before it does it; so it
may be killed anywhere, run twice at once, and beside backups: docs/retention.md has the reasons.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType

from snapvault import clock
from snapvault.engine import notes, removing
from snapvault.engine.notes import Doom
from snapvault.engine.prune_plan import Judged, Plan, Rules, needed_now, plan
from snapvault.engine.vault import Vault, sync
from snapvault.errors import IntegrityError, NoRestorePointError
from snapvault.formats import names
from snapvault.model.notes import PruneRecord, RemovedPoint

NO_RULE = "no rule wants it"
FORGOTTEN = "somebody said that it may be gone"

NO_LOCKS: Mapping[str, datetime | None] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Options:
    """How to prune: what is doomed for less than `grace` stays. Who does it is for people.

    `paid_days` are the days for which objects of a storage class are paid for, however early they
    are deleted: until then they stay.
    """

    grace: timedelta
    host: str
    tool: str
    is_rehearsal: bool = False
    paid_days: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune did; of a rehearsal, what one would do now.

    `removed` are points; `deleted` objects went, `waiting` ones go after the grace, and
    `orphans` no point ever needed: they stay for a run to be resumed; `locked` ones would have
    gone but for their locks, of which the first ends at `unlocked_at`. Each with its bytes.
    `paid` are those of the waiting ones whose grace is over, and that are paid for still, the last
    of them until `paid_until`. `sizes` are the bytes of deleted and waiting ones by storage class,
    as far as the store says it. `refusal` is why nothing, `doubt` why no object was removed.
    """

    judged: tuple[Judged, ...]
    removed: tuple[Judged, ...]
    deleted: tuple[int, int]
    waiting: tuple[int, int]
    orphans: tuple[int, int]
    paid: tuple[int, int] = (0, 0)
    paid_until: datetime | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    refusal: tuple[str, ...] = ()
    doubt: tuple[str, ...] = ()
    locked: tuple[int, int] = (0, 0)
    unlocked_at: datetime | None = None


def prune(vault: Vault, rules: Mapping[str, Rules], options: Options) -> Pruned:
    """Prune a vault once. Sources without rules keep all.

    Raises:
        StoreError, SealError: the vault could not be read or written. Running it again goes on.
    """
    found = plan(vault, rules)
    if found.problems:
        return _told(found, (), frozenset(), found.released)
    doomed = frozenset() if found.doubts else found.released | found.aged
    due = frozenset() if found.doubts else _due(found.waiting, clock.now(), options.grace)
    if options.grace <= timedelta(0):
        due |= doomed
    paid = _paid(found, due, options.paid_days)
    due -= paid.keys()
    if options.is_rehearsal:
        return _told(found, found.expiring, due, doomed, paid)
    if not found.expiring and not doomed and not due:
        return _told(found, (), due, doomed, paid)
    record = PruneRecord(
        id=names.new_note_id(),
        at=clock.now(),
        host=options.host,
        tool=options.tool,
        grace=options.grace,
        points=tuple(_removal(each) for each in found.expiring),
        doomed=tuple(sorted(doomed)),
    )
    # ORDER: the record goes before anything else. It tells a point that expired from one that
    # was deleted, and a backup what it may not build upon.
    name = notes.put_prune(vault, record)
    removed = _remove_points(vault, found)
    deleted = frozenset[str]()
    locks: dict[str, datetime | None] = {}
    if due:
        due = _due_by_the_store(vault, name, found, due - doomed, options.grace) | (due & doomed)
        try:
            deleted, locks = _sweep(vault, found, due)
        except IntegrityError as error:
            found = replace(found, doubts=(*found.doubts, str(error)))
    vault.events.emit("prune.done", points=len(removed), objects=len(deleted))
    return _told(found, removed, deleted, doomed, paid, locks)


def accept_gone(vault: Vault, points: Collection[str], options: Options) -> tuple[str, ...]:
    """Note that points which vanished were meant to, and return their ids.

    Raises:
        NoRestorePointError: nothing is known of a point of that id that is gone.
    """
    gone = {each.point: each for each in sync(vault).gone}
    for point in points:
        if point not in gone:
            raise NoRestorePointError(
                f'restore point "{point}" is not one that was in vault "{vault.name}" and is gone',
                hint='"snapvault list" says which ones are gone, with their whole ids.',
            )
    chosen = [gone[point] for point in dict.fromkeys(points)]
    record = PruneRecord(
        id=names.new_note_id(),
        at=clock.now(),
        host=options.host,
        tool=options.tool,
        grace=options.grace,
        points=tuple(
            RemovedPoint(each.point, each.source, each.name, each.sha256, FORGOTTEN)
            for each in chosen
        ),
        doomed=(),
    )
    notes.put_prune(vault, record)
    return tuple(each.point for each in chosen)


def _remove_points(vault: Vault, found: Plan) -> tuple[Judged, ...]:
    """Delete the manifests of expiring points, but for those that are held by now."""
    if not found.expiring:
        return ()
    # ORDER: holds are read again after the record is there. Whoever holds a point looks for the
    # record after the hold is there: so one of the two sees the other.
    holds = notes.holds(vault)
    if holds.problems:
        raise holds.problems[0]
    held = notes.held_points(holds)
    removed = tuple(each for each in found.expiring if each.held.point.point not in held)
    locked = removing.remove(vault, [each.held.manifest.name for each in removed])
    removed = tuple(each for each in removed if each.held.manifest.name not in locked)
    for each in removed:
        vault.events.emit(
            "point.expired", source=each.held.point.source, point=each.held.point.point
        )
    vault.catalog.mark_missing([each.held.manifest.name for each in removed], missing=True)
    return removed


def _sweep(
    vault: Vault, found: Plan, due: frozenset[str]
) -> tuple[frozenset[str], dict[str, datetime | None]]:
    """Delete objects that are due, unless a point needs them by now; return which, and locks."""
    # SAFETY: each was doomed a grace ago, in a record that every backup reads before it commits;
    # so a backup that needs it committed before, and this second look finds its manifest.
    gone = frozenset(due) - needed_now(vault, found.references)
    locked = removing.remove(vault, gone)
    return gone - locked.keys(), locked


def _due(waiting: Mapping[str, Doom], now: datetime, grace: timedelta) -> frozenset[str]:
    """Return what was doomed at least a grace ago by the clocks of hosts."""
    return frozenset(name for name, doom in waiting.items() if doom.at + grace <= now)


def _paid(found: Plan, due: frozenset[str], days: Mapping[str, int]) -> dict[str, datetime]:
    """Return until when those of some objects are paid for that are so still.

    A wrong clock can cost days of storage here, and nothing else.
    """
    until = {
        name: at + timedelta(days=days.get(found.objects[name].storage_class or "", 0))
        for name in due
        if (at := found.objects[name].stored_at) is not None
    }
    now = clock.now()
    return {name: moment for name, moment in until.items() if moment > now}


def _due_by_the_store(
    vault: Vault, record: str, found: Plan, due: frozenset[str], grace: timedelta
) -> frozenset[str]:
    """Return what of it was doomed, and stored, a grace ago by the store's clock as well.

    What the store says of the record that was put just now tells its time.
    """
    listed = {each.name: each.stored_at for each in vault.store.names(names.PRUNES)}
    now = listed.get(record)
    if now is None:
        return frozenset()

    def is_past(moment: datetime | None) -> bool:
        return moment is not None and moment + grace <= now

    return frozenset(
        name
        for name in due
        if is_past(found.waiting[name].stored_at) and is_past(found.objects[name].stored_at)
    )


def _removal(each: Judged) -> RemovedPoint:
    point, stored = each.held.point, each.held.manifest
    return RemovedPoint(point.point, point.source, stored.name, stored.sha256, NO_RULE)


def _sizes(found: Plan, objects: frozenset[str]) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for name in objects:
        kept_as = found.objects[name].storage_class
        if kept_as is not None:
            sizes[kept_as] += found.objects[name].size
    return dict(sizes)


def _told(
    found: Plan,
    removed: tuple[Judged, ...],
    deleted: frozenset[str],
    doomed: frozenset[str],
    paid: Mapping[str, datetime] = MappingProxyType({}),
    locks: Mapping[str, datetime | None] = NO_LOCKS,
) -> Pruned:
    waiting = (frozenset(found.waiting) | doomed) - deleted - locks.keys()
    orphans = found.orphans - doomed
    return Pruned(
        judged=found.judged,
        removed=removed,
        deleted=(len(deleted), found.size_of(deleted)),
        waiting=(len(waiting), found.size_of(waiting)),
        orphans=(len(orphans), found.size_of(orphans)),
        paid=(len(paid), found.size_of(paid)),
        paid_until=max(paid.values(), default=None),
        sizes=_sizes(found, waiting | deleted),
        refusal=found.problems,
        doubt=found.doubts,
        locked=(len(locks), found.size_of(frozenset(locks))),
        unlocked_at=min((each for each in locks.values() if each is not None), default=None),
    )
