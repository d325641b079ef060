# SPDX-License-Identifier: Apache-2.0
"""What the operating system says of a target, as errors with a remedy."""

import errno
from pathlib import Path

from snapvault.errors import RestoreError
from snapvault.units import format_size

_TOO_LARGE = (
    'Restore to another file system, or raise the limit on the size of files (see "ulimit -f").'
)
_ELSEWHERE = {
    errno.ENOSPC: 'Free space on the file system of "{}", or restore to another one.',
    errno.EDQUOT: 'Raise the quota on the file system of "{}", or restore to another one.',
    errno.EROFS: 'Make "{}" writable, or restore elsewhere.',
}
_DENIED = {errno.EACCES, errno.EPERM}
_GONE = {errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.EREMOTEIO}


def could_not(what: str, where: Path, error: OSError) -> RestoreError:
    """Make the error for something tried on the file system, or the device, at `where`."""
    reason = (error.strerror or str(error)).lower()
    return RestoreError(f"could not {what}: {reason}", hint=_hint(where, error.errno))


def too_large(what: str, size: int) -> RestoreError:
    """Make the error for a size that a file system, or a limit on this process, refuses."""
    return RestoreError(
        f"could not make {what} {format_size(size)} large: file too large",
        hint=_TOO_LARGE,
    )


def not_a_file(path: Path) -> RestoreError:
    """Make the error for a folder where a file is meant."""
    return RestoreError(
        f'cannot restore to "{path}": it is a folder, a file is meant',
        hint=f'Name a file in it, such as "{path / "disk.img"}".',
    )


def _hint(where: Path, number: int | None) -> str | None:
    if number == errno.EFBIG:
        return _TOO_LARGE
    if number in _DENIED:
        return f'Run as a user who may write to "{where}", or restore elsewhere.'
    if number in _GONE:
        return "Look at the kernel's log: the disk, or the way to it, fails."
    sentence = _ELSEWHERE.get(number or 0)
    return sentence and sentence.format(where)
