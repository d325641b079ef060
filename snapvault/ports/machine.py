# SPDX-License-Identifier: Apache-2.0
"""Machines that are started from disks of a restore point, cut off from every network."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

DEFAULT_MEMORY: Final = 1 << 30


class Firmware(StrEnum):
    """What starts the system on the first disk; `AUTO` looks at its partition table."""

    AUTO = "auto"
    BIOS = "bios"
    UEFI = "uefi"


class Bus(StrEnum):
    """How disks are attached: `VIRTIO` is the fastest, `SATA` needs no driver of its own."""

    VIRTIO = "virtio"
    SATA = "sata"


class OnError(StrEnum):
    """What the guest sees of a disk that cannot be read for now, or an overlay without room.

    With `WAIT` it stands still, and goes on when the disk can be read again; with `REPORT` it gets
    an I/O error.
    """

    WAIT = "wait"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class MachineDisk:
    """One disk, in the order in which the machine gets them. Never written to.

    `location` is an absolute path, or an NBD address (`nbd+unix:///root?socket=/run/x`); `format`
    is `raw` or `qcow2`. What the guest writes goes to `overlay`, a qcow2 image that is made
    unless it exists, or, if None, to one that is gone when the machine ends. An overlay that has
    all of the disk in it is used alone.
    """

    name: str
    location: str
    format: str = "raw"
    overlay: Path | None = None


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What to start. `memory` is in bytes.

    `forwards` are TCP ports of the guest that can be reached from here, at free ports of 127.0.0.1;
    without any the machine has no network card at all. Nothing of the guest gets out of it either
    way. `boot_disk` is the disk that firmware is chosen by and started from. `variables` is a file
    with the settings of a UEFI firmware, made unless it exists; None: they begin empty each time.
    """

    disks: tuple[MachineDisk, ...]
    memory: int = DEFAULT_MEMORY
    cpus: int = 1
    firmware: Firmware = Firmware.AUTO
    bus: Bus = Bus.VIRTIO
    forwards: tuple[int, ...] = ()
    boot_disk: int = 0
    on_error: OnError = OnError.REPORT
    variables: Path | None = None


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a program in the guest did; outputs are cut to 64 KiB each."""

    status: int
    output: str
    errors: str


class Machine(Protocol):
    """A machine that runs. Safe to close from another thread; every wait then ends."""

    @property
    def firmware(self) -> Firmware:
        """What it was started with, never `AUTO`."""
        ...

    @property
    def pid(self) -> int:
        """The process of the machine."""
        ...

    @property
    def is_running(self) -> bool:
        """Whether the guest still runs: not powered off, not crashed."""
        ...

    def console(self) -> str:
        """Return what the guest wrote to its serial console: the last MiB of it."""
        ...

    def wait_for_console(self, pattern: str, limit: timedelta) -> str:
        """Wait until a line of the console matches a regular expression; return that line.

        Raises:
            MachineError: it did not within `limit`, or the guest ended, panicked, or loops in its
                boot loader; the message says which, and ends with the last line that was seen.
        """
        ...

    def wait_for_agent(self, limit: timedelta) -> None:
        """Wait until the guest agent answers.

        Raises:
            MachineError: as above.
        """
        ...

    def wait_for_port(self, port: int, limit: timedelta) -> None:
        """Wait until a TCP port of the guest, one of `forwards`, takes a connection and keeps it.

        Raises:
            MachineError: as above.
        """
        ...

    def run(self, words: Sequence[str], limit: timedelta) -> CommandResult:
        """Run a program in the guest through its agent.

        Raises:
            MachineError: no agent answers, there is no such program, or it did not end in time.
        """
        ...

    def screenshot(self) -> bytes | None:
        """Return the screen as a PNG; None: it has none to show."""
        ...

    def address_of(self, port: int) -> tuple[str, int]:
        """Return where a port of the guest can be reached from here."""
        ...

    def close(self) -> None:
        """End it at once, as a power cut would, and remove all that belongs to it. Repeatable."""
        ...


class Machines(Protocol):
    """What starts machines."""

    def check(self) -> None:
        """Make sure that machines can be started here.

        Raises:
            MachineError: a program is missing; the hint is the command that installs it.
        """
        ...

    def start(self, spec: MachineSpec, folder: Path) -> Machine:
        """Start a machine. `folder` (private, short enough for sockets) takes what it needs.

        Raises:
            MachineError: it cannot be started.
        """
        ...
