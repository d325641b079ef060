# SPDX-License-Identifier: Apache-2.0
"""How much of a disk is read where the platform tells what changed.

A disk full of random bytes is backed up, changed and backed up again, and so on; a second one,
twice as large, has the same number of bytes changed. All figures of a night are the counters in its
signed manifest, but for what the platform itself says was read.
"""

import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from benchmarks import disks
from benchmarks.lab import make_surroundings, program, surroundings, write_settings
from benchmarks.measure import BenchmarkError, Runner
from benchmarks.platforms import PLATFORMS, SOURCE, Disk, Platform, mirror_of, vault_of
from snapvault.model.ranges import Range, align
from tests.support import keys

Document = dict[str, Any]

TARGET_SHARE = 0.01  # of a disk changed; the target is what is read then
SHARES = (0.001, TARGET_SHARE, 0.05)
PAGE = 4 << 10  # bytes: what databases and file systems write at least
_COUNTERS = ("changed_bytes", "read_bytes", "sampled_bytes", "stored_bytes")
_AT_ONCE = 2  # platforms
_RUNS = 4
_PIECE = 4 << 20


@dataclass(frozen=True, slots=True)
class Night:
    """What changes: so many bytes, in whole chunks, or scattered in pages."""

    kind: str  # "chunks" or "pages"
    size: int

    def ranges(self, disk: int, grain: int, seed: int) -> list[Range]:
        """Choose the ranges that change on a disk of so many bytes."""
        chance = random.Random(seed)
        if self.kind == "pages":
            return _scattered(disk, PAGE, self.size, chance)
        return _in_chunks(disk, grain, self.size, chance)


def measure(folder: Path, size: int, *, seed: int, say: Callable[[str], None]) -> Document:
    """Measure every platform with disks of about `size` bytes and twice that.

    Raises:
        BenchmarkError: something did not work, or was not restored as it was.
    """
    over = Event()

    def measured(platform: Platform) -> list[Document]:
        found = []
        with closing(_measure_platform(platform, folder, size, seed=seed, say=say)) as rows:
            for row in rows:
                if over.is_set():
                    raise BenchmarkError("the measurement was stopped")
                found.append(row)
        return found

    # Nothing here is timed for the report, and a guest that is emulated keeps one core busy.
    with ThreadPoolExecutor(_AT_ONCE, "platform") as pool:
        try:
            return {"rows": [row for rows in pool.map(measured, PLATFORMS) for row in rows]}
        finally:
            over.set()


def _measure_platform(
    platform: Platform, folder: Path, size: int, *, seed: int, say: Callable[[str], None]
) -> Generator[Document, None, None]:
    base = _size_of(platform, size)
    small = [Night("chunks", round(base * share)) for share in SHARES]
    worst = Night("pages", round(base * TARGET_SHARE))
    same = Night("chunks", round(base * TARGET_SHARE))
    for disk, nights in ((base, [*small, worst]), (2 * base, [same])):
        work = Path(tempfile.mkdtemp(dir=folder))
        with closing(_measure_disk(platform, work, disk, nights, seed=seed)) as rows:
            for found in rows:
                row = {"platform": platform.name, "disk_bytes": disk, **found}
                say(f"hints: {_line(row)}")
                yield row
        shutil.rmtree(work)


def _size_of(platform: Platform, size: int) -> int:
    return max(1, size // platform.divisor // platform.unit) * platform.unit


def _measure_disk(
    platform: Platform, folder: Path, size: int, nights: Sequence[Night], *, seed: int
) -> Generator[Document, None, None]:
    host, recovery = folder / "host", folder / "recovery"
    host.mkdir()
    with ExitStack() as stack:
        disk = stack.enter_context(platform.open(host, size))
        home = stack.enter_context(keys.recovery_home())
        everything = [(0, size)]
        for number, night in enumerate([None, *nights]):
            ranges = everything
            if night is not None:
                ranges = night.ranges(size, disk.grain, seed + number)
            _fill(mirror_of(disk), size, ranges, seed + number)
            disk.copy(ranges)
            before, started = disk.bytes_read(), time.monotonic()
            point = disk.back_up()
            seconds = time.monotonic() - started
            counted = disk.bytes_read() - before
            counters = _restore(recovery, home, disk, str(point["id"]))
            if counters["hint_mismatches"]:
                raise BenchmarkError(f"{platform.name} told what is not so")
            yield {
                "kind": night.kind if night else "first",
                "grain_bytes": disk.grain,
                "written_bytes": _total(ranges),
                "touched_bytes": _total(align(ranges, disk.grain, size)),
                "counted_bytes": counted,
                "wall_seconds": round(seconds, 1),
                **{name: counters[name] for name in _COUNTERS},
            }


def _restore(folder: Path, home: Path, disk: Disk, point: str) -> Document:
    """Restore a point where there is nothing but the keys, and return its counters."""
    folder.mkdir()
    make_surroundings(folder)
    write_settings(folder, {"store": f"file://{vault_of(disk)}"}, home)
    runner = Runner(surroundings(folder))

    def run(*words: str) -> Any:
        return json.loads(runner.run(program(folder, *words), cwd=folder).output)

    shown = run("show", point)
    (stream,) = (each["name"] for each in shown["streams"] if each["kind"] == "disk")
    target = folder / "restored"
    run("restore", SOURCE, "--point", point, "--stream", stream, "--to", str(target))
    if disks.fingerprint(target) != disks.fingerprint(mirror_of(disk)):
        raise BenchmarkError(f"restore point {point} is not what was backed up")
    shutil.rmtree(folder)
    counters: Document = shown["counters"]
    return counters


def _fill(mirror: Path, size: int, ranges: Sequence[Range], seed: int) -> None:
    """Write new random bytes to ranges of the mirror."""
    chance = np.random.default_rng(seed)
    with mirror.open("r+b" if mirror.exists() else "w+b", buffering=0) as file:
        file.truncate(size)
        for begin, end in ranges:
            for at in range(begin, end, _PIECE):
                os.pwrite(file.fileno(), chance.bytes(min(_PIECE, end - at)), at)


def _in_chunks(disk: int, grain: int, size: int, chance: random.Random) -> list[Range]:
    """Choose whole chunks: half of them in four runs, the others one by one, anywhere."""
    total = disk // grain
    wanted = max(1, round(size / grain))
    run = wanted // 2 // _RUNS
    quarter = total // _RUNS
    chosen: set[int] = set()
    for number in range(_RUNS):
        first = number * quarter + chance.randrange(quarter - run)
        chosen.update(range(first, first + run))
    others = [number for number in range(total) if number not in chosen]
    chosen.update(chance.sample(others, wanted - len(chosen)))
    return list(align(((at * grain, (at + 1) * grain) for at in sorted(chosen)), grain, disk))


def _scattered(disk: int, page: int, size: int, chance: random.Random) -> list[Range]:
    """Choose single pages anywhere."""
    chosen = sorted(chance.sample(range(disk // page), max(1, size // page)))
    return list(align(((at * page, (at + 1) * page) for at in chosen), page, disk))


def _total(ranges: Iterable[Range]) -> int:
    return sum(end - begin for begin, end in ranges)


def _line(row: Document) -> str:
    mib = 1 << 20
    return (
        f"{row['platform']}, {row['disk_bytes'] // mib} MiB: {row['kind']}: "
        f"{row['written_bytes'] / mib:.1f} MiB written, {row['read_bytes'] / mib:.1f} MiB read, "
        f"{row['wall_seconds']:.1f} s"
    )
