# SPDX-License-Identifier: Apache-2.0
"""Room and holes in files: calls that Python does not have."""

import ctypes
import errno
import os
from collections.abc import Iterator

from snapvault.adapters.targets.quiet import QuietFile

_PUNCH_HOLE = 1 | 2  # FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE, linux/falloc.h
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_libc = ctypes.CDLL(None, use_errno=True)


def allocate(descriptor: int, offset: int, length: int) -> None:
    """Take room for a range without writing to it; nothing happens where that does not work.

    Raises:
        OSError: there is no room.
    """
    # QUIRK: glibc's posix_fallocate writes to every block where the file system cannot allocate.
    call = getattr(_libc, "fallocate", None)
    if call is None:
        return
    if call(descriptor, 0, ctypes.c_int64(offset), ctypes.c_int64(length)):
        number = ctypes.get_errno()
        if number in _NO_ROOM:
            raise OSError(number, os.strerror(number))


def make_zeros(file: QuietFile, offset: int, length: int) -> None:
    """Make a range of a file a hole, or write zeros where the file system has no holes."""
    if length == 0 or _punch(file.descriptor, offset, length):
        return
    zeros = memoryview(bytes(min(length, 1 << 20)))
    for start in range(offset, offset + length, len(zeros)):
        file.write(start, zeros[: offset + length - start])


def data_ranges(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a file that may be other than zeros, as its file system tells."""
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
            position = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # that one says that only a hole is left
                yield position, size
            return
        if start < min(position, size):
            yield start, min(position, size)


def _punch(descriptor: int, offset: int, length: int) -> bool:
    """Make a range a hole; return False where the file system cannot."""
    call = getattr(_libc, "fallocate", None)
    if call is None:
        return False
    answer = call(descriptor, _PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(length))
    return bool(answer == 0)
