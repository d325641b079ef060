# SPDX-License-Identifier: Apache-2.0
"""What of a file is in the machine's page cache: mincore(2)."""

import ctypes
import mmap
import os
from pathlib import Path

_WINDOW = 1 << 30  # bytes asked about at once
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_longlong,
]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
_FAILED = ctypes.c_void_p(-1).value


def cached_bytes(path: Path) -> int:
    """Return how many bytes of a file are in the page cache; the caller must own the file."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        pages = sum(
            _cached_pages(file.fileno(), at, min(_WINDOW, size - at))
            for at in range(0, size, _WINDOW)
        )
    return pages * mmap.PAGESIZE


def _cached_pages(descriptor: int, offset: int, length: int) -> int:
    address = _LIBC.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, offset)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), "mmap")
    try:
        count = -(-length // mmap.PAGESIZE)
        vector = ctypes.create_string_buffer(count)
        if _LIBC.mincore(address, length, vector) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
        # Only the lowest bit of each byte has a meaning.
        return sum(vector.raw.count(value) for value in range(1, 256, 2)) if any(vector.raw) else 0
    finally:
        _LIBC.munmap(address, length)


def evict(path: Path) -> None:
    """Write a file's changes down and drop it from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(path: Path, length: int) -> None:
    """Read the first `length` bytes of a file through the page cache."""
    with path.open("rb") as file:
        left = length
        while left > 0 and (data := file.read(min(left, 1 << 20))):
            left -= len(data)
