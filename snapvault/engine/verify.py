# SPDX-License-Identifier: Apache-2.0
"""Prove that what a vault holds is whole, at three levels; the first two without a private key."""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from snapvault.engine import damages, drill_reports, fetch, notes, sequence, uncovering, underneath
from snapvault.engine.commit import cached_list
from snapvault.engine.contents import BlockDigest, Contents, look_up
from snapvault.engine.extract import VOLUMES_AT_ONCE, Pieces, Plan, extract
from snapvault.engine.forecast import Used, reads, scaled
from snapvault.engine.mixed import Assembly
from snapvault.engine.pipeline import ordered, threads
from snapvault.engine.vault import Held, Inventory, Vault, read_record
from snapvault.errors import (
    IntegrityError,
    ObjectArchivedError,
    ObjectMissingError,
    StoreError,
    StoreUnavailableError,
)
from snapvault.formats import names
from snapvault.model.point import ObjectRecord
from snapvault.model.usage import Usage


class Level(Enum):
    """How deep to look."""

    OBJECTS = "objects"  # every object is there, with its size
    DATA = "data"  # every stored byte fits its SHA-256
    FULL = "full"  # every stream comes back with its content digest


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong: what, and the ids of the restore points that it hurts."""

    message: str
    points: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What was looked at, and what was found. Whole when there are no findings.

    `archived` are volumes (level `data`) or points (`full`) that could not be read, as volumes lie
    in an archive.
    """

    level: Level
    points: int
    objects: int
    read_bytes: int
    findings: tuple[Finding, ...]
    archived: int = 0


@dataclass(slots=True)
class Verification:
    """One verification of some points of a vault.

    `sample` is the share, in percent, of volumes (level `data`) or of points (level `full`) that
    is read; metadata and the newest point of each source are always among them. `folder`
    takes spools.
    """

    vault: Vault
    inventory: Inventory
    level: Level
    sample: float
    folder: Path
    random: random.Random
    _read_bytes: int = 0
    _bad: set[str] = field(default_factory=set)
    _sound: set[str] = field(default_factory=set)
    _archived: int = 0

    def run(self, source: str | None = None) -> Report:
        """Look at the points of one source, or of all.

        Volumes and metadata that are not right are remembered on this host, so that the next
        backups do not build upon them, until they are found to be right.
        """
        held = self._held(source)
        findings = [Finding(str(problem), ()) for problem in self.inventory.problems]
        findings += self._vault_record()
        findings += self._emergency_script()
        users, broken = self._references(held)
        findings += broken
        lost = self._missing(users)
        findings += self._findings(lost, users)
        findings += self._hidden_records()
        known = {record for record, _ in lost}
        if self.level is Level.DATA:
            findings += self._findings(self._damaged(users, known), users)
        elif self.level is Level.FULL:
            # A restore reads neither manifests, which the catalog has, nor signatures.
            metadata = [each for each in users if not each.name.startswith(names.VOLUMES)]
            findings += self._findings(self._damaged(metadata, known), users)
            findings += self._restorable(held)
        if self.level is not Level.OBJECTS and source is None:
            findings += self._drill_reports()
            findings += self._notes()
        damages.remember(self.vault, self._bad, self._sound - self._bad)
        return Report(
            self.level,
            len(held),
            len(users),
            self._read_bytes,
            tuple(dict.fromkeys(findings)),
            self._archived,
        )

    def forecast(self, source: str | None, used: Used) -> Usage:
        """Foresee what `run` will ask of the store; exactly, unless a sample is left to chance.

        Looks at what is there, as `run` does, and reads maps for the level `full`, but no volumes.

        Raises: as `run`; also what it finds missing.
        """
        held = self._held(source)
        for record in {record for each in held for record in each.point.lists}:
            cached_list(self.vault, record)
        before = used()
        self._vault_record()
        self._emergency_script()
        users, _ = self._references(held)
        self._missing(users)
        self._hidden_records()
        asked = used() - before
        if self.level is Level.DATA:
            metadata, volumes = _apart(users)
            count = self._sample_size(len(volumes))
            asked += reads(metadata) + scaled(reads(volumes), count / max(1, len(volumes)))
        elif self.level is Level.FULL:
            metadata, _ = _apart(users)
            asked += reads(metadata)
            newest = {each.point.source: each for each in held}
            for each in held:
                is_sure = newest[each.point.source] is each
                asked += scaled(self._rebuilding(each, used), 1 if is_sure else self.sample / 100)
        if self.level is not Level.OBJECTS and source is None:
            self._notes()  # a host fetches them once
            before = used()
            self._notes()
            found = drill_reports.listed(self.vault).values()
            asked += used() - before
            reports = [each for each in found if names.parse_drill_report(each.name) is not None]
            asked += Usage(gets=len(reports), bytes_down=sum(each.size for each in reports))
        return asked

    def _rebuilding(self, held: Held, used: Used) -> Usage:
        """Return what it takes to bring every stream of a point back."""
        before = used()
        contents = look_up(self.vault, held.point, held.point.streams)
        asked = used() - before
        disks = [stream.engine == "blocks" for stream in contents.streams]
        parts = [contents.only(disks)]
        for number, is_disk in enumerate(disks):
            if not is_disk:
                parts.append(contents.only([index == number for index in range(len(disks))]))
        for part in parts:
            asked += reads(fetch.object_of(volume) for volume in part.plan().volumes)
        return asked

    def _held(self, source: str | None) -> list[Held]:
        return [
            each
            for each in self.inventory.held
            if not each.missing and source in {None, each.point.source}
        ]

    def _vault_record(self) -> list[Finding]:
        """Hold `vault.json` against what the vault was opened with."""
        try:
            if read_record(self.vault.store) == self.vault.record:
                return []
        except IntegrityError as error:
            return [Finding(str(error), ())]
        return [Finding(f'object "{names.VAULT}" is missing or was replaced', ())]

    def _emergency_script(self) -> list[Finding]:
        """Hold `restore.py` against the copy of it that a trusted host signed."""
        try:
            script = self.vault.store.get(names.EMERGENCY_SCRIPT)
            signed = self.vault.sealer.read_signed(self.vault.store.get(names.EMERGENCY_SIGNED))
        except (ObjectMissingError, IntegrityError) as error:
            return [Finding(f"the emergency script cannot be trusted: {error}", ())]
        if signed.fingerprint not in self.vault.sealer.trusted or signed.content != script:
            return [
                Finding(f'object "{names.EMERGENCY_SCRIPT}" is not what a trusted host signed', ())
            ]
        return []

    def _drill_reports(self) -> list[Finding]:
        """Prove the signatures of drill reports, which no manifest vouches for."""
        reports = list(drill_reports.listed(self.vault).values())
        self._read_bytes += sum(found.size for found in reports)
        problems = drill_reports.check_signatures(self.vault, reports)
        return [Finding(str(problem), ()) for problem in problems]

    def _notes(self) -> list[Finding]:
        """Prove the signatures of holds and of records of prunes."""
        problems = (*notes.holds(self.vault).problems, *notes.prunes(self.vault).problems)
        return [Finding(str(problem), ()) for problem in problems]

    def _references(
        self, held: Iterable[Held]
    ) -> tuple[dict[ObjectRecord, list[str]], list[Finding]]:
        """Return every object that points vouch for with its users, and unreadable lists."""
        users: dict[ObjectRecord, list[str]] = defaultdict(list)
        lists: dict[ObjectRecord, list[str]] = defaultdict(list)
        for each in held:
            for record in (*each.point.objects, each.point.hash_key, each.manifest):
                users[record].append(each.point.point)
            for record in each.point.lists:
                lists[record].append(each.point.point)
        findings = []
        for record, points in lists.items():
            try:
                for volume in fetch.get_list(self.vault.store, record):
                    users[fetch.object_of(volume)] += points
            except IntegrityError as error:
                self._bad.add(record.name)
                findings.append(Finding(str(error), tuple(points)))
            else:
                self._sound.add(record.name)
        return users, findings

    def _missing(self, users: Iterable[ObjectRecord]) -> list[tuple[ObjectRecord, IntegrityError]]:
        sizes = {
            found.name: found.size
            for prefix in (names.META, names.POINTS, names.VOLUMES, "keys/")
            for found in self.vault.store.names(prefix)
        }
        problems = []
        for record in users:
            if record.name not in sizes:
                problems.append((record, fetch.missing(record)))
            elif sizes[record.name] != record.size:
                problems.append((record, fetch.damaged(record)))
        return problems

    def _damaged(
        self, users: Iterable[ObjectRecord], known: set[ObjectRecord]
    ) -> list[tuple[ObjectRecord, IntegrityError]]:
        wanted = sorted(
            (record for record in users if record not in known), key=lambda record: record.name
        )
        volumes = [record for record in wanted if record.name.startswith(names.VOLUMES)]
        left_out = set(volumes) - set(self._sampled(volumes))
        wanted = [record for record in wanted if record not in left_out]
        progress = self.vault.events.progress(
            "verifying", total=sum(record.size for record in wanted)
        )

        def check(record: ObjectRecord) -> IntegrityError | ObjectArchivedError | None:
            try:
                fetch.digest_of(self.vault.store, record, progress.advance)
            except (IntegrityError, ObjectArchivedError) as error:
                return error
            return None

        self._read_bytes += sum(record.size for record in wanted)
        try:
            with threads(VOLUMES_AT_ONCE, "verify") as pool:
                results = list(ordered(check, wanted, ahead=VOLUMES_AT_ONCE, pool=pool))
        finally:
            progress.close()
        problems: list[tuple[ObjectRecord, IntegrityError]] = []
        for record, error in zip(wanted, results, strict=True):
            if isinstance(error, ObjectArchivedError):
                self._archived += 1
                self._read_bytes -= record.size
                continue
            self._sound.add(record.name)
            if error is not None:
                problems.append((record, error))
        return problems

    def _sampled(self, items: Sequence[ObjectRecord]) -> list[ObjectRecord]:
        if self.sample >= 100:
            return list(items)
        return self.random.sample(items, self._sample_size(len(items)))

    def _sample_size(self, count: int) -> int:
        return count if self.sample >= 100 else min(count, max(1, round(count * self.sample / 100)))

    def _findings(
        self,
        problems: Iterable[tuple[ObjectRecord, IntegrityError]],
        users: dict[ObjectRecord, list[str]],
    ) -> list[Finding]:
        found = list(problems)
        self._bad.update(record.name for record, _ in found)
        hidden = underneath.look_up(self.vault.versions, (record for record, _ in found))
        return [
            Finding(
                f"{error}: {underneath.told(hidden[record.name])}"
                if record.name in hidden
                else str(error),
                tuple(users[record]),
            )
            for record, error in found
        ]

    def _hidden_records(self) -> list[Finding]:
        """Look for manifests and notes that are only hidden, whether this host knew them or not."""
        try:
            hidden = uncovering.hidden_records(self.vault)
        except StoreUnavailableError:
            raise
        except StoreError:
            return []  # a store without versions, or credentials that may not see them
        return [Finding(f'object "{each.name}" is {underneath.told(each)}', ()) for each in hidden]

    def _restorable(self, held: Sequence[Held]) -> list[Finding]:
        newest = {each.point.source: each for each in held}
        findings = []
        for each in held:
            always = newest[each.point.source] is each
            if not always and self.random.random() * 100 >= self.sample:
                continue
            try:
                self._rebuild(look_up(self.vault, each.point, each.point.streams))
            except IntegrityError as error:
                # The error names the object, if it is one that does it.
                self._bad.update(re.findall(r'"([^"]+)"', str(error)))
                findings.append(Finding(str(error), (each.point.point,)))
            except ObjectArchivedError:
                self._archived += 1
        return findings

    def _rebuild(self, contents: Contents) -> None:
        """Bring every stream of a point back to nowhere, and check its digest."""
        disks = [stream.engine == "blocks" for stream in contents.streams]
        work = contents.only(disks)
        plan = work.plan()
        self._prove_disks(work, plan)
        self._read_bytes += plan.data_bytes
        for number, is_disk in enumerate(disks):
            if not is_disk:
                one = contents.only([index == number for index in range(len(disks))])
                sequence.stream_out(self.vault, one, sequence.arrange(one), self.folder, _nowhere)
                self._read_bytes += one.streams[0].size

    def _prove_disks(self, work: Contents, plan: Plan) -> None:
        with ExitStack() as stack:
            digests = []
            for number, stream in enumerate(work.streams):
                joined = stack.enter_context(Assembly(plan, number, stream, self.folder))
                digests.append(BlockDigest(stream, work.hash_key, joined.take))
            progress = self.vault.events.progress("verifying", total=plan.data_bytes)

            def deliver(number: int, pieces: Pieces, data: memoryview) -> None:
                digests[number].add(pieces, data)
                progress.advance(len(data))

            try:
                extract(self.vault.store, self.vault.sealer, plan, deliver)
            finally:
                progress.close()
            for digest in digests:
                digest.check(work.point)


def _apart(records: Iterable[ObjectRecord]) -> tuple[list[ObjectRecord], list[ObjectRecord]]:
    """Return what is not a volume, and the volumes."""
    metadata: list[ObjectRecord] = []
    volumes: list[ObjectRecord] = []
    for each in records:
        (volumes if each.name.startswith(names.VOLUMES) else metadata).append(each)
    return metadata, volumes


def _nowhere(data: memoryview) -> None:
    del data
