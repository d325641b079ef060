# SPDX-License-Identifier: Apache-2.0
"""Everything that can be measured, by name: what is compared, with whom, and what else there is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import clones, daemons, duplicity, hints, peers, platforms, prunes, years
from benchmarks.comparison import Document, Say
from benchmarks.copied import Clone
from benchmarks.databases import Dump, Innodb
from benchmarks.lab import Lab
from benchmarks.nights import Disk
from benchmarks.options import GIB, MIB, Sizes
from benchmarks.programs import Program, SnapVault
from benchmarks.workloads import Kind, Workload


@dataclass(frozen=True, slots=True)
class Compared:
    """A workload that all programs do; `room` is how many bytes of data it is about.

    Where peers are not `asked`, they do it only when they are named.
    """

    about: str
    make: Callable[[Path, Sizes, int], Workload]
    room: Callable[[Sizes], int]
    asked: bool = True
    idle: bool = False


COMPARED: Mapping[str, Compared] = {
    "disk": Compared(
        "a disk with real files; and the same when nothing changed",
        lambda folder, sizes, seed: Disk(
            folder, disk=sizes.disk, data=sizes.data, nights=sizes.nights, seed=seed
        ),
        lambda sizes: sizes.data,
        idle=True,
    ),
    "innodb": Compared(
        "a disk with a database in use",
        lambda folder, sizes, seed: Innodb(
            folder, size=sizes.innodb, nights=sizes.nights, seed=seed
        ),
        lambda sizes: 2 * sizes.innodb,
    ),
    "dump": Compared(
        "a database as SQL",
        lambda folder, sizes, seed: Dump(folder, size=sizes.dump, nights=sizes.nights, seed=seed),
        lambda sizes: 2 * sizes.dump,
    ),
    "clone": Compared(
        "two disks made of one image",
        lambda folder, sizes, seed: Clone(folder, size=sizes.clone, seed=seed),
        lambda sizes: 2 * sizes.clone,
    ),
    "big": Compared(
        "the files of disk on a large sparse one; peers only with --programs",
        lambda folder, sizes, seed: Disk(
            folder, disk=sizes.big, data=sizes.data, nights=1, seed=seed, name="big"
        ),
        lambda sizes: sizes.data,
        asked=False,
    ),
}


@dataclass(frozen=True, slots=True)
class Rival:
    """A program that is compared: how it is made for a workload, and for which it makes sense."""

    make: Callable[[Lab, str, Kind], Program]
    kinds: tuple[Kind, ...] = ("image", "dump")


PROGRAMS: Mapping[str, Rival] = {
    "snapvault": Rival(SnapVault),
    "restic": Rival(lambda lab, what, _: peers.Restic(lab, what)),
    "borg": Rival(lambda lab, what, _: peers.Borg(lab, what)),
    "borg-fixed": Rival(
        lambda lab, what, _: peers.Borg(lab, what, "borg fixed", peers.BORG_FIXED), ("image",)
    ),
    "duplicity": Rival(lambda lab, what, _: duplicity.Duplicity(lab, what)),
    "duplicity-tuned": Rival(duplicity.tuned),
}


def install(programs: Sequence[str]) -> None:
    """Have the peers among the programs installed.

    Raises:
        BenchmarkError: one is missing, and could not be installed.
    """
    wanted = {each.partition("-")[0] for each in programs}
    peers.install(sorted(wanted & {"restic", "borg"}))
    if "duplicity" in wanted:
        duplicity.install()


def _lookup_size(sizes: Sizes) -> int:
    # One file may be as long as 64 MiB, and more than what was asked for.
    return max(sizes.clone, 256 * MIB)


@dataclass(frozen=True, slots=True)
class Alone:
    """Something that SnapVault alone does. `room` is how many bytes of disk it takes."""

    about: str
    measure: Callable[[Path, Sizes, int, Say], Document]
    room: Callable[[Sizes], int] = lambda _: GIB
    require: Callable[[], None] = lambda: None


ALONE: Mapping[str, Alone] = {
    "hints": Alone(
        "what is read of disks that tell what changed",
        lambda folder, sizes, seed, say: hints.measure(folder, sizes.hints, seed=seed, say=say),
        lambda sizes: 8 * sizes.hints,  # four copies of a disk twice as large
        platforms.require_programs,
    ),
    "daemon": Alone(
        "a daemon that waits",
        lambda folder, sizes, _, say: daemons.measure(folder, seconds=sizes.idle, say=say),
    ),
    "prune": Alone(
        "one point of many that expires",
        lambda folder, _sizes, _seed, say: prunes.measure(folder, say=say),
    ),
    "years": Alone(
        "a thousand nights",
        lambda folder, sizes, seed, say: years.measure(
            folder, nights=sizes.years, seed=seed, say=say
        ),
    ),
    "lookup": Alone(
        "what looking for blocks that the vault has costs",
        lambda folder, sizes, seed, say: clones.measure(
            folder, _lookup_size(sizes), repeat=sizes.repeat, seed=seed, say=say
        ),
        lambda sizes: 9 * _lookup_size(sizes),  # three disks, a restored one, and the vaults
    ),
}
