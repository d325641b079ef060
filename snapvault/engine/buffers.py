# SPDX-License-Identifier: Apache-2.0
"""Memory that starts at a page, for direct I/O, and is dense or sparse as its use asks."""

import ctypes
import mmap
from contextlib import suppress

_HUGE_PAGE = 2 << 20  # bytes; of x86-64 and of ARM with 4 KiB pages


def dense(size: int) -> memoryview:
    """Return zeroed memory that is written over and over: in huge pages where the kernel has them.

    Direct I/O from it costs less, since the kernel pins fewer pages.
    """
    memory = _anonymous(-(-max(size, 1) // _HUGE_PAGE) * _HUGE_PAGE)
    with suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)[:size]


def sparse(size: int) -> memoryview:
    """Return zeroed memory whose pages take no room until they are written; reading takes none."""
    memory = _anonymous(max(size, 1))
    with suppress(OSError):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memoryview(memory)[:size]


def give_back() -> None:
    """Return to the system what was allocated in small pieces, and is free between others."""
    with suppress(AttributeError):  # a C library other than GNU's
        ctypes.CDLL(None).malloc_trim(0)


def _anonymous(size: int) -> mmap.mmap:
    # Private: pages of shared memory are allocated as soon as they are read.
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
