# SPDX-License-Identifier: Apache-2.0
"""How a source is rehearsed: started as a machine, loaded as a database, or compared as files."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

LEAST_MEMORY: Final = 16 << 20
"""Bytes without which no machine starts."""

MOST_CPUS: Final = 64
"""Processors of a machine, at the most."""


class Choice(StrEnum):
    """Which restore point is rehearsed: the newest, any of a window, or the oldest kept."""

    LATEST = "latest"
    RANDOM = "random"
    OLDEST = "oldest"


@dataclass(frozen=True, slots=True)
class ConsoleCheck:
    """A line of the serial console must match a regular expression."""

    pattern: str


@dataclass(frozen=True, slots=True)
class AgentCheck:
    """The guest agent must answer."""


@dataclass(frozen=True, slots=True)
class PortCheck:
    """A TCP port of the guest must take a connection."""

    port: int


@dataclass(frozen=True, slots=True)
class CommandCheck:
    """A program in the guest, run by its agent, must end with `status` and print `output`.

    `output` is a regular expression that must be found; None: anything will do.
    """

    run: tuple[str, ...]
    status: int = 0
    output: str | None = None


BootCheck = ConsoleCheck | AgentCheck | PortCheck | CommandCheck


@dataclass(frozen=True, slots=True)
class BootDrill:
    """Start the machine and look. `memory` is in bytes; `firmware` is `auto`, `bios` or `uefi`.

    With `instant` it starts from the vault and fetches what it reads; else from disks restored
    in full, all of whose blocks are proven. `timeout` bounds each check, from the start on.
    """

    checks: tuple[BootCheck, ...]
    memory: int = 1 << 30
    cpus: int = 1
    firmware: str = "auto"
    bus: str = "virtio"
    instant: bool = False
    timeout: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class SqlCheck:
    """A statement's first value must match a regular expression, or be at least a number.

    `expect` must match the whole value; exactly one of `expect` and `at_least` is given.
    """

    sql: str
    database: str | None = None
    expect: str | None = None
    at_least: float | None = None


@dataclass(frozen=True, slots=True)
class DatabaseDrill:
    """Load the dumps into a private server, ask it, and compare its tables with the backup's."""

    checks: tuple[SqlCheck, ...] = ()
    compare_tables: bool = True
    timeout: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class FilesDrill:
    """Prove a sample of the data against its digests; `paths` must be in a folder's archive.

    With `compare_live`, files of a folder that did not change since are compared with it.
    """

    sample_percent: float = 100.0
    paths: tuple[str, ...] = ()
    compare_live: bool = False


DrillKind = BootDrill | DatabaseDrill | FilesDrill

KIND_NAMES: Mapping[type[DrillKind], str] = {
    BootDrill: "boot",
    DatabaseDrill: "database",
    FilesDrill: "files",
}


@dataclass(frozen=True, slots=True)
class DrillStep:
    """One source, rehearsed one way."""

    source: str
    kind: DrillKind
