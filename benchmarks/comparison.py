# SPDX-License-Identifier: Apache-2.0
"""The nights of a workload, backed up and restored by every program in turn.

Whatever is restored is compared with what was backed up that night; a difference ends everything.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import disks, pagecache
from benchmarks.lab import Done
from benchmarks.measure import BenchmarkError, Usage
from benchmarks.programs import Program, SnapVault
from benchmarks.workloads import Workload

Document = dict[str, Any]
Say = Callable[[str], None]
Maker = Callable[[str], Program]


@dataclass(frozen=True, slots=True)
class Plan:
    """How often everything is done.

    Of the nights, either all are restored or the first and the last alone. First backups and
    restores are done `repeat` times; after the last night, with `idle`, everything is backed up
    once more, unchanged.
    """

    restores_all: bool
    repeat: int
    idle: bool


def compare(
    folder: Path, workload: Workload, programs: Sequence[Maker], plan: Plan, say: Say
) -> Document:
    """Do everything and return what was measured, as a document for the report.

    Each of `programs` makes a program with a vault or repository of its own, of the name that it
    is given.

    Raises:
        BenchmarkError: a program failed, or did not restore what it had backed up.
    """
    bench = _Bench(folder, workload, say)
    bench.rivals = [_Rival(make(workload.name)) for make in programs]
    for rival in bench.rivals:
        rival.program.set_up()
    path = Path()
    for number in range(workload.nights + 1):
        path = workload.prepare(number)
        bench.look(path)
        for rival in bench.rivals:
            rival.backups.append(bench.back_up(rival.program, path, number))
        if number == 0:
            bench.repeat_first(programs, path, plan.repeat)
    if plan.idle:
        for rival in bench.rivals:
            os.utime(path)  # as that of a disk in use: no program may go by the file's time alone
            rival.idle = bench.back_up(rival.program, path, None)
    bench.restore_all(plan)
    return bench.document()


@dataclass(slots=True)
class _Rival:
    """One program, and what was measured of it."""

    program: Program
    backups: list[Document] = field(default_factory=list)
    idle: Document | None = None
    restores: list[Document] = field(default_factory=list)
    fetched: list[Document] = field(default_factory=list)

    def document(self) -> Document:
        found: Document = {"backups": self.backups, "restores": self.restores}
        if self.idle is not None:
            found["idle"] = self.idle
        if self.fetched:
            found["fetched"] = self.fetched
        return found


@dataclass(slots=True)
class _Bench:
    folder: Path
    workload: Workload
    say: Say
    rivals: list[_Rival] = field(default_factory=list)
    prints: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    data: list[int] = field(default_factory=list)

    def look(self, path: Path) -> None:
        """Remember what the file is in this night."""
        self.prints.append(disks.fingerprint(path))
        self.sizes.append(path.stat().st_size)
        self.data.append(disks.data_bytes(path))

    def back_up(self, program: Program, path: Path, number: int | None) -> Document:
        """Back the file up, a quarter of it in the page cache the first time, nothing later."""
        pagecache.evict(path)
        if number == 0:
            pagecache.warm(path, path.stat().st_size // 4)
        cached = pagecache.cached_bytes(path)
        stored = program.stored()
        asked = program.requests()
        done = program.back_up(path)
        document = _document(done, program.requests() - asked)
        now = program.stored()
        document["stored_bytes"] = now.size - stored.size
        document["stored_objects"] = now.objects - stored.objects
        document["kept_bytes"] = program.kept()
        document["cached_before_bytes"] = cached
        document["cached_after_bytes"] = pagecache.cached_bytes(path)
        if done.report and done.report.get("consistency") == "none":
            raise BenchmarkError(f"{program.name} says that the file changed while it was read")
        what = "unchanged" if number is None else f"backup {number}"
        self._tell(program, what, done.usage, f", {document['stored_bytes'] / 1e6:.2f} MB")
        return document

    def repeat_first(self, programs: Sequence[Maker], path: Path, repeat: int) -> None:
        """Back the file up again as a first backup, each time into a new place."""
        for rival, make in zip(self.rivals, programs, strict=True):
            for number in range(2, repeat + 1):
                other = make(f"{self.workload.name}-{number}")
                other.set_up()
                again = self.back_up(other, path, 0)
                rival.backups[0].setdefault("again", []).append(again)

    def restore_all(self, plan: Plan) -> None:
        """Restore nights, those at the ends as often as planned, by all programs in turn."""
        ends = [0, self.workload.nights]
        numbers = list(range(self.workload.nights + 1)) if plan.restores_all else ends
        for number in [*numbers, *(ends * (plan.repeat - 1))]:
            for rival in self.rivals:
                rival.restores.append(self._restore(rival.program, number))
        for rival in self.rivals:
            if isinstance(rival.program, SnapVault) and self.workload.kind == "image":
                rival.fetched = [self._fetched(rival.program, number) for number in ends]

    def document(self) -> Document:
        return {
            "kind": self.workload.kind,
            "nights": self.workload.nights,
            "size_bytes": self.sizes,
            "data_bytes": self.data,
            "facts": dict(self.workload.facts()),
            "programs": {rival.program.name: rival.document() for rival in self.rivals},
        }

    def _restore(self, program: Program, number: int) -> Document:
        with self._target() as folder:
            asked = program.requests()
            done, path = program.restore(number, folder)
            document = {**_document(done, program.requests() - asked), "night": number}
            document["cached_after_bytes"] = pagecache.cached_bytes(path)
            document["written_bytes"] = disks.data_bytes(path)
            self._check(program, path, number)
        self._tell(program, f"restore of {number}", done.usage, "")
        return document

    def _fetched(self, program: SnapVault, number: int) -> Document:
        with self._target() as folder:
            fetches, path = program.volume_fetches(number, folder)
            self._check(program, path, number)
        most = max(fetches.values(), default=0)
        return {"night": number, "volumes": len(fetches), "most_fetches_of_a_volume": most}

    def _check(self, program: Program, path: Path, number: int) -> None:
        if disks.fingerprint(path) != self.prints[number]:
            raise BenchmarkError(
                f"{program.name} did not restore night {number} of {self.workload.name} as it was"
            )

    @contextmanager
    def _target(self) -> Iterator[Path]:
        folder = self.folder / "restored"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def _tell(self, program: Program, step: str, usage: Usage, more: str) -> None:
        noise = f", noise {usage.others:.1f} CPU s" if usage.others > 0.1 * usage.wall else ""
        self.say(
            f"{self.workload.name}: {program.name}: {step}: {usage.cpu:.1f} CPU s, "
            f"{usage.wall:.1f} s, {usage.peak_pss / 1e6:.0f} MB of memory{more}{noise}"
        )


def _document(done: Done, requests: Mapping[str, int]) -> Document:
    return {**done.usage.document(), "requests": dict(requests), "report": done.report}
