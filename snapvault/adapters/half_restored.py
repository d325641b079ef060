# SPDX-License-Identifier: Apache-2.0
"""Marks of disks that are being restored in place: neither what they were nor what they shall be.

A disk that is overwritten in place looks whole at every moment. So a mark says that it is not,
from before the first write until after the last: beside a file, in its folder; for a block device,
beside which nothing can be, in a folder of this host. Backups refuse what is marked.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from snapvault.errors import RestoreError

DEVICES: Final = "restoring"
"""The folder, in the state folder, for marks of block devices."""

_SUFFIX = ".snapvault-restoring"
_LONGEST_NAME = 255  # bytes; LIMIT: Linux file systems
_DIGITS = 16
_FILE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Mark:
    """The mark of one disk: `file` is there while the disk is half restored."""

    file: Path

    def read(self) -> dict[str, str] | None:
        """Return what is being restored; None if the disk is not marked.

        A mark that cannot be read counts too: it says little, but it is there.
        """
        try:
            found = json.loads(self.file.read_bytes())
        except (OSError, ValueError):
            return {} if os.path.lexists(self.file) else None
        return found if isinstance(found, dict) else {}

    def set(self, words: Mapping[str, str]) -> None:
        """Mark the disk; durable on return. One that is marked is marked anew.

        Raises:
            RestoreError: it cannot be written; the disk is as it was then.
        """
        part = self.file.with_name(f"{self.file.name[: -len(_SUFFIX)]}.part{_SUFFIX}")
        try:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(part, flags, _FILE_MODE), "w", encoding="utf-8") as file:
                json.dump(words, file, ensure_ascii=True)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.file)
            _sync_folder(self.file.parent)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise RestoreError(
                f'could not write mark "{self.file}": {(error.strerror or str(error)).lower()}',
                hint="A restore in place needs it, to tell a half-restored disk from a whole one.",
            ) from error

    def clear(self) -> None:
        """Take the mark away; durable on return. Without effect if there is none.

        Raises:
            RestoreError: it is there and cannot be removed.
        """
        try:
            self.file.unlink()
            _sync_folder(self.file.parent)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise RestoreError(
                f'could not remove mark "{self.file}": {(error.strerror or str(error)).lower()}',
                hint="All of the disk is restored: remove the mark yourself.",
            ) from error


def mark_of(disk: Path, devices: Path) -> Mark:
    """Return the mark of a file or a block device; symbolic links are followed.

    `devices` is the folder for marks of block devices.
    """
    disk = Path(os.path.realpath(disk))
    with suppress(OSError):
        found = disk.stat()
        if stat.S_ISBLK(found.st_mode):
            name = hashlib.sha256(_identity(disk, found.st_rdev).encode()).hexdigest()[:_DIGITS]
            return Mark(devices / f"{name}{_SUFFIX}")
    return Mark(disk.with_name(_beside(disk.name)))


def _beside(name: str) -> str:
    """Return the name of the mark of a file; one that would be too long is cut and made unique."""
    raw = os.fsencode(name)
    room = _LONGEST_NAME - len(f"..part{_SUFFIX}")
    if len(raw) > room:
        digest = hashlib.sha256(raw).hexdigest()[:_DIGITS]
        name = f"{os.fsdecode(raw[: room - _DIGITS - 1])}-{digest}"
    return f".{name}{_SUFFIX}"


def _identity(device: Path, number: int) -> str:
    """Return what a block device is known by, after a restart too if the kernel can tell.

    LIMIT: a disk without any serial number or id is known by its name, which another may get.
    """
    facts = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if uuid := _line(facts / "dm/uuid"):
        return f"mapped {uuid}"
    if backing := _line(facts / "loop/backing_file"):
        return f"loop {backing}"
    part = _line(facts / "partition")
    disk = Path(os.path.realpath(facts)).parent if part else facts
    for each in ("wwid", "device/wwid", "serial", "device/serial"):
        if known := _line(disk / each):
            return f"disk {known} {part}"
    return f"name {device}"


def _line(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # QUIRK: some network file systems cannot sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
