# SPDX-License-Identifier: Apache-2.0
"""What a target's path stands for, whether there is room, and the target for it."""

import os
import stat
from enum import Enum
from pathlib import Path
from typing import Final

from snapvault.adapters.targets import qcow2
from snapvault.adapters.targets.device import DeviceTarget
from snapvault.adapters.targets.file import FileTarget, require_free
from snapvault.adapters.targets.problems import could_not
from snapvault.errors import RestoreError
from snapvault.ports.target import Target
from snapvault.units import format_size

RAW: Final = "raw"
QCOW2: Final = "qcow2"


class TargetKind(Enum):
    """What a path stands for, symbolic links followed."""

    FILE = "file"
    DEVICE = "block device"
    FOLDER = "folder"
    STREAM = "stream"
    """What takes bytes in order only: a pipe, a socket, a terminal, a character device."""
    MISSING = "missing"


def kind_of(path: Path) -> TargetKind:
    """Tell what a path stands for; a link to nothing is MISSING.

    Raises:
        RestoreError: that cannot be found out.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return TargetKind.MISSING
    except OSError as error:
        raise could_not(f'look up "{path}"', path.parent, error) from error
    if stat.S_ISDIR(mode):
        return TargetKind.FOLDER
    if stat.S_ISBLK(mode):
        return TargetKind.DEVICE
    return TargetKind.FILE if stat.S_ISREG(mode) else TargetKind.STREAM


def require_room(folder: Path, needed: int, *, what: str) -> None:
    """Make sure that a file system has `needed` bytes free for `what`, before anything is written.

    A file that is going to be replaced does not count as free: it stays until the commit.

    Raises:
        RestoreError: there is less, or the folder is not there.
    """
    try:
        found = os.statvfs(folder)
    except FileNotFoundError as error:
        raise RestoreError(
            f'cannot restore to folder "{folder}": it does not exist',
            hint=f'Make it first: mkdir -p "{folder}".',
        ) from error
    except OSError as error:
        raise could_not(f'look up the free space of "{folder}"', folder, error) from error
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise RestoreError(
            f'not enough room in "{folder}" for {what}:'
            f" {format_size(needed)} needed, {format_size(free)} free",
            hint=f"Free at least {format_size(needed - free)} there, or restore elsewhere.",
        )


def _refuse_file_among_devices(path: Path, final: Path) -> None:
    """Refuse a file where only devices are meant: the name of a device was mistyped."""
    devices = Path("/dev")
    folder = final.parent.resolve()
    # /dev/shm and the like are file systems of their own.
    if not folder.is_relative_to(devices) or not folder.is_dir():
        return
    if folder.stat().st_dev == devices.stat().st_dev:
        raise RestoreError(
            f'cannot restore to "{path}": it is no block device, and a file in "{folder}" '
            "would be kept in memory only",
            hint="Correct the name, or make or activate the device first.",
        )


def open_target(
    path: Path, size: int, data_bytes: int, *, force: bool, image_format: str = RAW
) -> Target:
    """Open the file or block device at `path` for a stream of `size` bytes.

    `data_bytes` of them are not zeros: a file needs room for those only. Room is checked
    before anything is created. `image_format` is RAW or QCOW2, which only a file can be.

    Raises:
        TargetNotEmptyError: without `force`, something would be overwritten.
        RestoreError: the path stands for something else, or there is no room.
    """
    kind = kind_of(path)
    if image_format != RAW and kind not in (TargetKind.FILE, TargetKind.MISSING):
        raise RestoreError(
            f'cannot restore to "{path}" as {image_format}: it is no file',
            hint="Leave out --format: what a device holds is raw.",
        )
    if kind is TargetKind.DEVICE:
        return DeviceTarget.open(path, size, force=force)
    if kind is TargetKind.STREAM:
        raise RestoreError(
            f'cannot restore to "{path}" as a file: it takes bytes in order only',
            hint='Restore to "-" and send the standard output there.',
        )
    final = require_free(path, force=force)
    _refuse_file_among_devices(path, final)
    needed = data_bytes if image_format == RAW else qcow2.room_for(size, data_bytes)
    require_room(final.parent, needed, what=f'file "{path}"')
    if image_format == QCOW2:
        return qcow2.Qcow2Target.create(path, size, force=force)
    return FileTarget.create(path, size, force=force)
