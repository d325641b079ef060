# SPDX-License-Identifier: Apache-2.0
"""Copy the restore points of a vault to another store, as they are: docs/copies.md.

Nothing is opened, and nothing that the copy has is replaced or removed. No lock is taken: what a
prune of either side does meanwhile is seen before it can do harm.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from snapvault import clock
from snapvault.engine import copy_target, fetch, notes
from snapvault.engine.copy_plan import Choice, CopyPlan, Lacking, Target, look_at_target, plan
from snapvault.engine.extract import VOLUMES_AT_ONCE
from snapvault.engine.notes import Notes
from snapvault.engine.pipeline import ordered, threads
from snapvault.engine.references import References
from snapvault.engine.vault import Held, Vault, prove_manifest, sync
from snapvault.errors import IntegrityError, SnapVaultError
from snapvault.formats import names
from snapvault.model.notes import PruneRecord, RemovedPoint
from snapvault.model.point import ObjectRecord, ParentRecord
from snapvault.ports.events import Progress

_SMALL: Final = 1 << 20  # bytes; what is larger waits on the disk and not in memory
_GROUP_POINTS: Final = 32
_GROUP_OBJECTS: Final = 512
_GROUP_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Options:
    """How to copy.

    `grace` is the copy's: how long its prunes leave alone what they doomed. `folder` takes objects
    on their way, and nobody else uses it meanwhile.
    """

    folder: Path
    grace: timedelta
    host: str
    tool: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A point that was not copied, and why. `is_damaged`: trying again does not help."""

    held: Held
    reason: str
    is_damaged: bool


@dataclass(slots=True)
class Copied:
    """What a copy did; of a rehearsal, what one would do now.

    `points` were copied, `there` were there, `expired` had been pruned in the copy. `objects` and
    `bytes` count what was put. `problems` are what is wrong on either side.
    """

    points: list[Held] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    there: int = 0
    expired: int = 0
    objects: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether the copy has all that it should have."""
        return not self.left_out and not self.problems


def rehearse(source: Vault, target: Target, choice: Choice) -> Copied:
    """Say what a copy would do now, and write nothing.

    Raises:
        StoreError: the vault cannot be listed or read.
    """
    work = plan(source, target, choice)
    told = _begun(work)
    lacking = Lacking(source, target.sizes)
    wanted = {each.point.point for each in work.wanted}
    seen: set[str] = set()
    for each in (*work.there, *work.wanted):
        is_wanted = each.point.point in wanted
        try:
            needs = list(lacking.of(each.point))
        except IntegrityError as error:
            if is_wanted:
                told.left_out.append(LeftOut(each, str(error), is_damaged=True))
            else:
                told.problems.append(str(error))
            continue
        if is_wanted:
            told.points.append(each)
            told.bytes += each.manifest.size
            told.objects += 1
        for record in needs:
            if record.name not in seen:
                seen.add(record.name)
                told.objects += 1
                told.bytes += record.size
    return told


def copy(source: Vault, target: Vault, choice: Choice, options: Options) -> Copied:
    """Copy what the copy lacks. Killed anywhere, the next one goes on with what is missing then.

    A point whose objects are damaged is left out; the others are copied.

    Raises:
        StoreError, SealError: a side could not be read or written. Running it again goes on.
    """
    problems = copy_target.put_surroundings(source, target)
    before = look_at_target(target)
    work = plan(source, before, choice)
    run = _Run(source, target, before, work, options)
    run.told.problems += [str(each) for each in problems]
    run.carry_out()
    if before.inventory.problems:
        # Some may be mended by now: what had vanished from the copy was copied again.
        run.told.problems += [f'vault "{target.name}": {each}' for each in sync(target).problems]
    return run.told


def _begun(work: CopyPlan) -> Copied:
    return Copied(
        there=len(work.there),
        expired=len(work.expired),
        problems=list(work.problems),
    )


class _Run:
    """One copy at work."""

    def __init__(
        self, source: Vault, target: Vault, before: Target, work: CopyPlan, options: Options
    ) -> None:
        self._source = source
        self._target = target
        self._work = work
        self._options = options
        self.told = _begun(work)
        self._lacking = Lacking(source, before.sizes)
        self._there = {each.point.point for each in before.inventory.held if not each.missing}
        self._lost = {each.point.point for each in before.inventory.held if each.missing}
        self._put: dict[str, float] = {}  # names, and when, by `clock.monotonic`
        self._bad: dict[str, IntegrityError] = {}
        self._references = References(source)
        self._source_prunes = notes.prunes(source)
        self._explained: set[tuple[str, str]] = set()

    def carry_out(self) -> None:
        """Put objects and manifests, group by group."""
        work = self._work
        groups = list(self._groups((*work.there, *work.wanted)))
        progress = self._target.events.progress("copying", total=self._total(groups))
        spool = self._options.folder
        for path in spool.iterdir():  # what a copy that was killed has left
            path.unlink()
        try:
            with threads(VOLUMES_AT_ONCE, "copy") as pool:

                def send(record: ObjectRecord) -> tuple[ObjectRecord, IntegrityError | None]:
                    return record, self._send(record, spool, progress)

                for points, objects in groups:
                    for record, error in ordered(
                        send, objects, ahead=2 * VOLUMES_AT_ONCE, pool=pool
                    ):
                        self._note(record, error)
                    self._commit([each for each in points if self._is_whole(each)])
        finally:
            progress.close()

    def _groups(self, points: Sequence[Held]) -> Iterator[tuple[list[Held], list[ObjectRecord]]]:
        """Divide the work, so that points appear one after the other and not all at the end."""
        seen: set[str] = set()
        group: list[Held] = []
        objects: list[ObjectRecord] = []
        for each in points:
            try:
                needs = [
                    record for record in self._lacking.of(each.point) if record.name not in seen
                ]
            except IntegrityError:
                needs = []  # it is told when its turn comes
            seen.update(record.name for record in needs)
            group.append(each)
            objects += needs
            if (
                len(group) >= _GROUP_POINTS
                or len(objects) >= _GROUP_OBJECTS
                or sum(record.size for record in objects) >= _GROUP_BYTES
            ):
                yield group, objects
                group, objects = [], []
        if group:
            yield group, objects

    def _total(self, groups: Sequence[tuple[list[Held], list[ObjectRecord]]]) -> int:
        return sum(record.size for _, objects in groups for record in objects)

    def _send(self, record: ObjectRecord, spool: Path, progress: Progress) -> IntegrityError | None:
        """Bring one object over, held against its record on the way."""
        source, target = self._source.store, self._target.store
        path = spool / record.name.replace("/", "-")
        try:
            if record.size <= _SMALL:
                target.put(record.name, fetch.get(source, record))
            else:
                with path.open("wb") as file:
                    fetch.download(source, record, file.write)
                target.put_file(record.name, path, size=record.size, sha256=record.sha256)
        except IntegrityError as error:
            return error
        finally:
            path.unlink(missing_ok=True)
        progress.advance(record.size)
        return None

    def _note(self, record: ObjectRecord, error: IntegrityError | None) -> None:
        if error is None:
            self._put[record.name] = clock.monotonic()
            self.told.objects += 1
            self.told.bytes += record.size
        else:
            self._bad[record.name] = error

    def _is_whole(self, each: Held) -> bool:
        """Tell whether a point can be committed; if it is to be told why not, tell."""
        error: IntegrityError | None = None
        try:
            error = next(
                (
                    self._bad[record.name]
                    for record in self._lacking.of(each.point)
                    if record.name in self._bad
                ),
                None,
            )
        except IntegrityError as found:
            error = found
        is_there = each.point.point in self._there
        if error is None:
            return not is_there
        if is_there:
            if str(error) not in self.told.problems:
                self.told.problems.append(str(error))
        else:
            self._drop(each, error)
        return False

    def _drop(self, each: Held, error: IntegrityError) -> None:
        """Leave a point out, and tell why unless a prune took it away meanwhile."""
        if not self._has_expired(each):
            self._leave_out(each, str(error), is_damaged=True)

    def _has_expired(self, each: Held) -> bool:
        """Tell whether a prune has taken a point of the vault away while we copied."""
        with suppress(IntegrityError):
            fetch.get(self._source.store, each.manifest)
            return False
        self._source_prunes = notes.prunes(self._source)
        pruned = notes.removed_points(self._source_prunes)
        return (each.point.point, each.manifest.sha256) in pruned

    def _leave_out(self, each: Held, reason: str, *, is_damaged: bool) -> None:
        self.told.left_out.append(LeftOut(each, reason, is_damaged))
        self._target.events.emit(
            "copy.left_out", source=each.point.source, point=each.point.point, reason=reason
        )

    def _commit(self, points: Sequence[Held]) -> None:
        """Put the manifests of points whose objects are all there."""
        if not points:
            return
        # ORDER: the records of prunes are read after all objects of these points are there, and
        # before their manifests. What a prune of the copy dooms later than this look, it removes
        # a grace later, and only if no manifest names it: by then these do.
        records = notes.prunes(self._target)
        pruned = notes.removed_points(records)
        doomed = self._doomed_of(points, frozenset(notes.doomed(records)))
        going = []
        for each in points:
            if (each.point.point, each.manifest.sha256) in pruned:
                self.told.expired += 1
            elif (name := doomed.get(each.point.point)) is not None:
                told = f'a prune of vault "{self._target.name}" is about to remove "{name}"'
                self._leave_out(each, told, is_damaged=False)
            else:
                going.append(each)
        proven = []
        for each in going:
            try:
                message = fetch.get(self._source.store, each.manifest)
                proven.append(
                    (each, message, prove_manifest(self._target, each.manifest.name, message))
                )
            except IntegrityError as error:
                self._drop(each, error)
        self._explain([each for each, _, _ in proven], records)
        # ORDER: manifests go last, and parents before their children: each point that the copy
        # shows is whole, and no child shows without what it follows.
        proven.sort(key=lambda each: (each[0].point.source, each[0].point.sequence))
        for at, (each, message, row) in enumerate(proven):
            try:
                self._target.store.put(each.manifest.name, message)
            except IntegrityError as error:
                self._drop(each, error)
                self._explain([each for each, _, _ in proven[at + 1 :]], records)
                continue
            with suppress(SnapVaultError):  # the catalog learns of it at the next look
                self._target.catalog.add([row])
            self._there.add(each.point.point)
            self.told.points.append(each)
            self.told.objects += 1
            self.told.bytes += each.manifest.size
            self._target.events.emit(
                "point.copied", source=each.point.source, point=each.point.point
            )

    def _doomed_of(self, points: Sequence[Held], doomed: frozenset[str]) -> dict[str, str]:
        """Return an object that a prune of the copy may delete at any time, by point."""
        if not doomed:
            return {}
        risky = doomed & self._references.named_by(each.point for each in points)
        # SAFETY: what we have put is younger than a grace, by the store's clock too, and nothing
        # younger is deleted. Half of it, because copying a point may take its time.
        young = clock.monotonic() - self._options.grace.total_seconds() / 2
        risky -= {name for name in risky if self._put.get(name, young) > young}
        if risky:
            # SAFETY: what a manifest of the copy names is doomed anew, and waits for a grace from
            # then on, before anybody deletes it.
            present = [each.point for each in sync(self._target).held if not each.missing]
            risky -= References(self._target).named_by(present)
        if not risky:
            return {}
        found = {}
        for each in points:
            needed = risky & self._references.named_by([each.point])
            if needed:
                found[each.point.point] = min(needed)
        return found

    def _explain(self, points: Sequence[Held], records: Notes[PruneRecord]) -> None:
        """Note why parents of these points are not in the copy, where that is as it should be.

        ORDER: before the manifests, which else would tell of a point that is gone.
        """
        here = self._there | {each.point.point for each in points}
        known = self._explained | notes.explained_points(records).keys()
        absent = []
        for each in points:
            parent = each.point.parent
            if parent is None or parent.point in here | self._lost:
                continue
            reason = self._reason(parent)
            if reason is not None and (parent.point, parent.sha256) not in known:
                absent.append(
                    RemovedPoint(
                        parent.point,
                        each.point.source,
                        parent.name,
                        parent.sha256,
                        reason,
                        absent=True,
                    )
                )
        if absent:
            record = PruneRecord(
                id=names.new_note_id(),
                at=clock.now(),
                host=self._options.host,
                tool=self._options.tool,
                grace=self._options.grace,
                points=tuple(absent),
                doomed=(),
            )
            notes.put_prune(self._target, record)
            self._explained |= {(each.point, each.sha256) for each in absent}

    def _reason(self, parent: ParentRecord) -> str | None:
        """Return why a parent is not copied; None: it vanished, and that is to be seen."""
        if any(each.held.point.point == parent.point for each in self.told.left_out):
            return f'it could not be copied from vault "{self._source.name}"'
        key = (parent.point, parent.sha256)
        if key in notes.explained_points(self._source_prunes):
            return f'it had expired in vault "{self._source.name}"'
        if any(
            each.point.point == parent.point and not each.missing
            for each in self._work.inventory.held
        ):
            return "it was not asked for"
        return None
