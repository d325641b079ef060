# SPDX-License-Identifier: Apache-2.0
"""What the command line of the benchmarks asks for."""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Sizes:
    """How big everything is in bytes, and how often it is done.

    `nights` follow each first backup; `years` are the nights of the workload of that name, and
    `idle` the seconds for which a daemon that waits is watched.
    """

    disk: int
    data: int
    innodb: int
    dump: int
    clone: int
    big: int
    hints: int
    nights: int
    repeat: int
    years: int
    idle: float


FULL = Sizes(
    disk=4 * GIB,
    data=2 * GIB,
    innodb=GIB,
    dump=GIB,
    clone=2 * GIB,
    big=200 * GIB,
    hints=GIB,
    nights=5,
    repeat=1,
    years=1000,
    idle=300,
)
SMALL = Sizes(
    disk=512 * MIB,
    data=32 * MIB,
    innodb=8 * MIB,
    dump=16 * MIB,
    clone=16 * MIB,
    big=4 * GIB,
    hints=256 * MIB,
    nights=2,
    repeat=1,
    years=100,
    idle=60,
)
_IN_MIB = ("disk", "data", "innodb", "dump", "clone", "big", "hints")
_COUNTS = ("nights", "repeat", "years")


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured, and where its files lie meanwhile and the report afterwards."""

    sizes: Sizes
    workloads: Sequence[str]
    programs: Sequence[str]
    peers_everywhere: bool
    restores_all: bool
    seed: int
    folder: Path
    output: Path
    add: bool
    readme: bool
    publish: bool

    @property
    def is_full(self) -> bool:
        """Whether the data are of the sizes that the targets are about."""
        return all(
            getattr(self.sizes, each.name) == getattr(FULL, each.name)
            for each in fields(Sizes)
            if each.name not in {"repeat", "years", "idle", "hints"}
        )


def parse(
    words: Sequence[str] | None,
    about: str,
    *,
    compared: Sequence[str],
    alone: Sequence[str],
    programs: Sequence[str],
    output: Path,
) -> Options:
    """Read the command line; a wrong one ends the program, with a line that says what is."""
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=about)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="the sizes of the targets (default)")
    size.add_argument("--small", action="store_true", help="small ones, in five minutes")
    what = f"some of {','.join([*compared, *alone])} (default: {','.join(compared)})"
    parser.add_argument("--only", default=",".join(compared), help=what)
    with_whom = parser.add_mutually_exclusive_group()
    with_whom.add_argument("--programs", help=f"some of {','.join(programs)}")
    with_whom.add_argument("--without-peers", action="store_true", help="SnapVault alone")
    for name in _IN_MIB:
        parser.add_argument(f"--{name}-mib", type=_positive, help=f"size of {name} in MiB")
    parser.add_argument("--nights", type=_positive, help="after each first backup")
    parser.add_argument("--years", type=_positive, help="nights of years")
    parser.add_argument("--repeat", type=_positive, help="runs of first backups and restores")
    parser.add_argument("--restores", choices=("all", "ends"), help="nights that are restored")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--output", type=Path, default=output)
    after = parser.add_mutually_exclusive_group()
    after.add_argument(
        "--add", action="store_true", help="keep what the last run measured of other workloads"
    )
    after.add_argument(
        "--readme", action="store_true", help="run nothing, print the last run's short table"
    )
    after.add_argument(
        "--publish", action="store_true", help="run nothing, put the last run into the documents"
    )
    given = parser.parse_args(words)
    chosen = given.only.split(",")
    if unknown := set(chosen) - {*compared, *alone}:
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    named = given.programs.split(",") if given.programs else list(programs)
    if unknown := set(named) - set(programs):
        parser.error(f"no such program: {', '.join(sorted(unknown))}")
    if given.without_peers:
        named = ["snapvault"]
    sizes = {name: getattr(given, f"{name}_mib") for name in _IN_MIB}
    changes = {name: mib * MIB for name, mib in sizes.items() if mib}
    changes |= {name: getattr(given, name) for name in _COUNTS if getattr(given, name)}
    return Options(
        sizes=replace(SMALL if given.small else FULL, **changes),
        workloads=[each for each in (*compared, *alone) if each in chosen],
        programs=[each for each in programs if each in named],
        peers_everywhere=given.programs is not None,
        restores_all=given.restores == "all" if given.restores else not given.small,
        seed=given.seed,
        folder=given.folder,
        output=given.output,
        add=given.add,
        readme=given.readme,
        publish=given.publish,
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("not a positive number")
    return number
