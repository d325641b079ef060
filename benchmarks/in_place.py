# SPDX-License-Identifier: Apache-2.0
"""How much of a full restore a restore in place fetches: python -m benchmarks.in_place.

A disk of real files is backed up; then 1 % of the blocks that hold data differ, in several ways,
and each time the disk is restored in place and held against what was backed up.
"""

import argparse
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import disks, material
from benchmarks.measure import BenchmarkError
from snapvault import clock
from tests.acceptance.program import Host, image
from tests.support import keys

BLOCK = disks.BLOCK
_SHARE = 0.01


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=2, help="GiB of files on a disk of twice that")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    size = int(options.gib * (1 << 30))
    with tempfile.TemporaryDirectory(prefix="svb-", dir="/var/tmp") as name:
        _run(Path(name), size, options.seed)


def _run(folder: Path, size: int, seed: int) -> None:
    files = material.gather(folder / "material", size, seed=seed)
    disk = folder / "disk.img"
    disks.make(disk, 2 * size, files.files)
    with keys.host_home() as host_home, keys.recovery_home() as recovery_home:
        store = {"store": f"file://{folder}/vault"}
        host = Host(folder / "host", host_home, store).set_up()
        recovery = Host(folder / "recovery", recovery_home, store).set_up()
        host.protect({"web01": image(disk)})
        host.does("init")
        print(
            f"{'1 % of the blocks differ':30} {'differ':>10} {'volumes':>9} {'fetched':>9} seconds"
        )
        ways: dict[str, Callable[[], object]] = {
            "one night later": lambda: disks.change(
                disk, files.pool, share=_SHARE, seed=seed, level=1
            ),
            "in one place": lambda: _overwrite(disk, _in_places(disk, seed, 1), seed),
            "in ten places": lambda: _overwrite(disk, _in_places(disk, seed, 10), seed),
            "anywhere": lambda: _overwrite(disk, _anywhere(disk, seed), seed),
        }
        host.does("backup")
        for way, change in ways.items():
            _measure(way, recovery, disk, change)
        hot = _anywhere(disk, seed)
        for night in range(1, 4):
            _overwrite(disk, hot, seed + night)
            host.does("backup")
        _measure(
            "anywhere, but as every night", recovery, disk, lambda: _overwrite(disk, hot, seed)
        )


def _measure(way: str, recovery: Host, disk: Path, change: Callable[[], object]) -> None:
    """Change a disk, and bring back the newest point of it."""
    was = disks.fingerprint(disk)
    change()
    started = clock.monotonic()
    done = recovery.does("restore", "web01", "--to", str(disk), "--in-place", "--json")
    seconds = clock.monotonic() - started
    if disks.fingerprint(disk) != was:
        raise BenchmarkError(f'the disk is not what was backed up, after "{way}"')
    report: dict[str, Any] = done.json
    share = report["fetched_bytes"] / report["full_bytes"]
    volumes = f"{report['fetched_volumes']}/{report['full_volumes']}"
    differ = report["restored"][0]["different_bytes"] >> 10
    print(f"{way:30} {differ:6} KiB {volumes:>9} {share:9.1%} {seconds:7.1f}", flush=True)


def _blocks(disk: Path) -> list[int]:
    return [
        number
        for start, stop in disks.data_ranges(disk)
        for number in range(-(-start // BLOCK), stop // BLOCK)
    ]


def _in_places(disk: Path, seed: int, places: int) -> list[int]:
    chance, blocks = random.Random(seed), _blocks(disk)
    length = round(len(blocks) * _SHARE / places)
    starts = [chance.randrange(len(blocks) - length) for _ in range(places)]
    return [number for start in starts for number in blocks[start : start + length]]


def _anywhere(disk: Path, seed: int) -> list[int]:
    blocks = _blocks(disk)
    return random.Random(seed).sample(blocks, round(len(blocks) * _SHARE))


def _overwrite(disk: Path, blocks: list[int], seed: int) -> None:
    chance = random.Random(seed)
    with disk.open("r+b", buffering=0) as file:
        for number in blocks:
            os.pwrite(file.fileno(), chance.randbytes(BLOCK), number * BLOCK)
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()
