# SPDX-License-Identifier: Apache-2.0
"""What the LVM source asks of the device mapper itself, through dmsetup.

Devices are named by their numbers, as LVM and the kernel tell them, never by names built here.
Source: the kernel's Documentation/admin-guide/device-mapper, snapshot.rst and
thin-provisioning.rst.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from snapvault.adapters import command
from snapvault.adapters.sources.lvm_commands import environment
from snapvault.errors import SourceError
from snapvault.units import format_size

_SECONDS: Final = 120.0
_SECTOR: Final = 512  # bytes

Device = tuple[int, int]  # major and minor number


@dataclass(frozen=True, slots=True)
class Space:
    """What a thick snapshot has used of its copy-on-write space, and whether it is still good."""

    used: int
    size: int
    is_valid: bool

    def __str__(self) -> str:
        return f"{format_size(self.used)} of {format_size(self.size)}"


@dataclass(frozen=True, slots=True)
class Thin:
    """Where a thin volume's data is: its pool's device, and its number in there."""

    pool: Device
    thin_id: int
    has_external_origin: bool


def read_space(device: Device, size: int) -> Space:
    """Return how full a thick snapshot is; `size` is what it has if the kernel no longer says.

    Raises:
        SourceError: it is no active snapshot.
    """
    words = _line(device, "status", "snapshot")
    used, _, total = words[0].partition("/")
    if used.isdecimal() and total.isdecimal():
        return Space(int(used) * _SECTOR, int(total) * _SECTOR, is_valid=True)
    return Space(size, size, is_valid=False)  # "Invalid", "Overflow"


def read_thin(device: Device) -> Thin:
    """Return where an active thin volume's data is.

    Raises:
        SourceError: it is no active thin volume.
    """
    pool, thin_id, *external = _line(device, "table", "thin")
    major, _, minor = pool.partition(":")
    try:
        return Thin((int(major), int(minor)), int(thin_id), has_external_origin=bool(external))
    except ValueError as error:
        raise _not_understood(device) from error


def metadata_snapshot_of(pool: Device) -> str | None:
    """Return the block that a pool's metadata snapshot is in; None: nobody holds one.

    Raises:
        SourceError: it is no active thin pool.
    """
    words = _line(pool, "status", "thin-pool")
    if len(words) < 4:  # "Fail", "Error"
        raise SourceError(
            f"the thin pool on device {pool[0]}:{pool[1]} has failed",
            hint='Look at it with "lvs -a" and "dmesg"; lvconvert --repair may mend it.',
        )
    return None if words[3] == "-" else words[3]


def message(device: Device, text: str) -> None:
    """Send a message to a device's target.

    Raises:
        SourceError: it refuses.
    """
    _change(message_argv(device, text))


def message_argv(device: Device, text: str) -> list[str]:
    """Return the command that sends a message."""
    return ["dmsetup", "message", *_numbers(device), "0", text]


def suspend(paths: Sequence[str]) -> None:
    """Let nobody write to devices, or read from them, once what is under way is done; in order.

    A file system that is mounted from one is frozen first.

    Raises:
        SourceError: one could not be suspended; others may be.
    """
    _run(["dmsetup", "suspend", *paths])


def resume_argv(paths: Sequence[str]) -> list[str]:
    """Return the command that resumes devices; those that are not suspended stay as they are."""
    return ["dmsetup", "resume", *paths]


def resume(paths: Sequence[str]) -> None:
    """Resume devices; those that are not suspended stay as they are.

    Raises:
        SourceError: one could not be resumed; the others are.
    """
    try:
        _change(resume_argv(paths))  # goes on after one that fails
    except SourceError as error:
        raise SourceError(
            f"could not resume what was suspended: {error}",
            hint=f'At once, so that what uses it goes on: run "{" ".join(resume_argv(paths))}".',
        ) from error


def _line(device: Device, what: str, target: str) -> list[str]:
    """Return what dmsetup tells of a device with one line and this target."""
    done = _run(["dmsetup", what, *_numbers(device)])
    lines = done.stdout.decode(errors="replace").splitlines()
    words = lines[0].split() if lines else []
    if len(lines) != 1 or len(words) < 4 or words[2] != target:
        raise _not_understood(device)
    return words[3:]


def _run(argv: Sequence[str]) -> command.Finished:
    return command.run(argv, environment=environment(), timeout=_SECONDS)


def _change(argv: Sequence[str]) -> None:
    """Run a program that a signal must not keep from what it does."""
    command.run_whole(argv, environment=environment(), timeout=_SECONDS)


def _numbers(device: Device) -> list[str]:
    return ["--major", str(device[0]), "--minor", str(device[1])]


def _not_understood(device: Device) -> SourceError:
    return SourceError(
        f"device {device[0]}:{device[1]} is not what LVM says it is",
        hint="Has it been changed meanwhile? Run the backup again.",
    )
