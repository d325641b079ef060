# SPDX-License-Identifier: Apache-2.0
"""What a prune finds: verdicts on restore points, and objects that no point needs."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from typing import Final

from snapvault import clock
from snapvault.engine import notes, removing
from snapvault.engine.notes import Doom
from snapvault.engine.references import References
from snapvault.engine.vault import Held, Inventory, Vault, sync
from snapvault.errors import IntegrityError
from snapvault.formats import names
from snapvault.model import retention
from snapvault.model.notes import RemovedPoint
from snapvault.model.policy import Retention
from snapvault.model.retention import Candidate, Verdict
from snapvault.ports.store import StoredObject

KEEP_ORPHANS: Final = timedelta(days=30)
"""How long objects that never had a restore point stay: for a run at work, or to be resumed."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The retention of a source's policy, and the zone in which its days begin."""

    retention: Retention | None
    zone: tzinfo


@dataclass(frozen=True, slots=True)
class Judged:
    """A point and its verdict; `suspicion` is why it takes no good one's place.

    `locked_until`: no rule wants it, but its lock holds until then.
    """

    held: Held
    verdict: Verdict
    suspicion: str | None = None
    locked_until: datetime | None = None

    @property
    def goes(self) -> bool:
        """Whether it is to go now."""
        return not self.verdict.stays and self.locked_until is None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a prune is to do.

    `problems` are why nothing at all may be removed, `doubts` why no object may. `released` is
    what expiring points alone needed, `orphans` what no point ever did, as far as anybody knows;
    `aged` are those old enough to be doomed. `waiting` has what is doomed and not needed.
    `references` knows the lists that were read.
    """

    judged: tuple[Judged, ...]
    problems: tuple[str, ...]
    doubts: tuple[str, ...]
    gone: tuple[RemovedPoint, ...]
    objects: Mapping[str, StoredObject]
    released: frozenset[str]
    orphans: frozenset[str]
    aged: frozenset[str]
    waiting: Mapping[str, Doom]
    references: References

    @property
    def expiring(self) -> tuple[Judged, ...]:
        """The points that go."""
        return tuple(each for each in self.judged if each.goes)

    def size_of(self, objects: "frozenset[str] | Mapping[str, object]") -> int:
        """Return the bytes of some objects."""
        return sum(self.objects[name].size for name in objects)


def plan(vault: Vault, rules: Mapping[str, Rules]) -> Plan:
    """Look at the whole vault, and decide; `rules` are by source.

    Raises:
        StoreError: the vault cannot be listed or read.
    """
    inventory = sync(vault)
    found_holds, records = notes.holds(vault), notes.prunes(vault)
    problems = tuple(
        dict.fromkeys(
            str(each) for each in (*inventory.problems, *found_holds.problems, *records.problems)
        )
    )
    objects = listed(vault)
    references = References(vault)
    present = [each for each in inventory.held if not each.missing]
    lacking = references.problems([each.point for each in present], objects)
    held = notes.held_points(found_holds)
    reasons = {point: "; ".join(each.reason for each in some) for point, some in held.items()}
    judged = judge_points(present, rules, lacking, reasons, latest_known(objects))
    if problems:
        # Verdicts on what cannot be trusted are worth nothing; nobody acts on them.
        return _nothing(judged, problems, inventory, references, objects)
    judged = _with_locks(vault, judged)
    staying = [each.held.point for each in judged if not each.goes]
    expiring = [each.held.point for each in judged if each.goes]
    doubts = [
        f'restore point "{point.point}": {lacking[point.point]}'
        for point in staying
        if point.point in lacking
    ]
    try:
        needed = references.named_by(staying)
        released = references.named_by(expiring)
    except IntegrityError as error:
        return _nothing(judged, (), inventory, references, objects, (*doubts, str(error)))
    doomed = notes.doomed(records)
    unneeded = [name for name in objects if name not in needed]
    orphans = frozenset(name for name in unneeded if name not in released and name not in doomed)
    bound = clock.now() - KEEP_ORPHANS
    return Plan(
        judged,
        (),
        tuple(doubts),
        inventory.gone,
        objects,
        frozenset(name for name in unneeded if name in released),
        orphans,
        frozenset(name for name in orphans if _is_before(objects[name].stored_at, bound)),
        {name: doomed[name] for name in unneeded if name in doomed and name not in released},
        references,
    )


def needed_now(vault: Vault, references: References) -> set[str]:
    """Look again, and return what the points need that are in the vault now.

    Raises:
        IntegrityError: what is there cannot be trusted.
        StoreError: the vault cannot be listed or read.
    """
    inventory = sync(vault)
    if inventory.problems:
        raise inventory.problems[0]
    present = [each.point for each in inventory.held if not each.missing]
    return references.named_by(present)


def listed(vault: Vault) -> dict[str, StoredObject]:
    """Return the objects that live as long as a manifest names them, by name."""
    return {
        found.name: found
        for prefix in (names.META, names.LISTS, names.VOLUMES)
        for found in vault.store.names(prefix)
        if names.is_prunable(found.name)
    }


def latest_known(objects: Mapping[str, StoredObject]) -> datetime:
    """Return the time, as far as host and store agree that it has come."""
    now = clock.now()
    stored = [found.stored_at for found in objects.values() if found.stored_at is not None]
    # A point cannot be younger than all that was ever stored, but by the length of a run's end.
    return min(now, max(stored) + timedelta(days=1)) if stored else now


def _is_before(moment: datetime | None, bound: datetime) -> bool:
    return moment is not None and moment <= bound


def _nothing(
    judged: tuple[Judged, ...],
    problems: tuple[str, ...],
    inventory: Inventory,
    references: References,
    objects: Mapping[str, StoredObject],
    doubts: tuple[str, ...] = (),
) -> Plan:
    """Return the plan of one who does not know what is needed."""
    none: frozenset[str] = frozenset()
    return Plan(judged, problems, doubts, inventory.gone, objects, none, none, none, {}, references)


def _with_locks(vault: Vault, judged: Sequence[Judged]) -> tuple[Judged, ...]:
    """Find out which of the points that are to go are locked."""
    going = [each.held.manifest.name for each in judged if each.goes]
    locks = removing.locks_of(vault, going)
    return tuple(
        replace(each, locked_until=locks.get(each.held.manifest.name)) if each.goes else each
        for each in judged
    )


def judge_points(
    present: Sequence[Held],
    rules: Mapping[str, Rules],
    lacking: Mapping[str, str],
    holds: Mapping[str, str],
    now: datetime,
) -> tuple[Judged, ...]:
    """Judge points by the rules of their sources; nothing of locks is known yet.

    `lacking` says of points what they lack, `holds` why they are held, both by id.
    """
    sources: dict[str, dict[str, Held]] = defaultdict(dict)
    for each in present:
        # By the manifest's name, which has the id: two points of one id stay apart.
        sources[each.point.source][each.manifest.name] = each
    judged: list[Judged] = []
    for source, by_name in sorted(sources.items()):
        own = rules.get(source)
        small = retention.shrunken(
            (name, each.point.taken_at, each.point.size) for name, each in by_name.items()
        )
        broken = {name for name, each in by_name.items() if each.point.point in lacking}

        def judge(
            bad: Collection[str],
            own: Rules | None = own,
            by_name: Mapping[str, Held] = by_name,
        ) -> tuple[Verdict, ...]:
            candidates = [
                Candidate(
                    name,
                    each.point.sequence,
                    each.point.taken_at,
                    name not in bad,
                    holds.get(each.point.point),
                )
                for name, each in by_name.items()
            ]
            if own is None:
                return tuple(Verdict(each.point, (retention.NO_POLICY,)) for each in candidates)
            return retention.judge(candidates, own.retention, zone=own.zone, now=now)

        # Twice: a listing that hides objects makes points look broken, and may spare none so.
        first, second = judge(small), {each.point: each for each in judge(small | broken)}
        for verdict in first:
            kept = verdict if verdict.stays else second[verdict.point]
            told = lacking.get(by_name[verdict.point].point.point)
            if told is None and verdict.point in small:
                told = "much smaller than those before"
            judged.append(Judged(by_name[verdict.point], kept, told))
    return tuple(judged)
