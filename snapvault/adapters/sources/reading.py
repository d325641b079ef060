# SPDX-License-Identifier: Apache-2.0
"""Reading disks without disturbing the page cache of the machine that uses them.

Aligned reads go past the cache (O_DIRECT). What cannot is read through it: a read's
first pages stay cached as far as they were, the rest of it is dropped again.
"""

import ctypes
import errno
import os
from typing import Self

ALIGNMENT = 4096  # bytes; enough for every device and file system we know of


class QuietReader:
    """Positioned reads of an open file or block device; a context manager.

    Safe from several threads. The descriptor stays its owner's.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._direct = _open_direct(descriptor)
        self._direct_works = self._direct is not None
        self._tells_cached = True
        # Reading ahead would cache what nobody cached, and hide what somebody did.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None
            self._direct_works = False

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill a writable buffer and return its bytes; fewer only at the end of the file."""
        with buffer.cast("B") as view:
            done = self._read_direct(offset, view)
            done += self._read_if_cached(offset + done, view[done:])
            while done < len(view):
                count = self._read_and_drop(offset + done, view[done:])
                if count == 0:
                    break
                done += count
            return done

    def _read_direct(self, offset: int, view: memoryview) -> int:
        """Read whole pages past the cache; returns how far it came, which may be nowhere."""
        length = len(view) - len(view) % ALIGNMENT
        if self._direct is None or not self._direct_works or offset % ALIGNMENT or not length:
            return 0
        if ctypes.addressof(ctypes.c_char.from_buffer(view)) % ALIGNMENT:
            return 0
        done = 0
        while done < length:
            try:
                count = os.preadv(self._direct, [view[done:length]], offset + done)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # The file system takes the flag but not these reads.
                self._direct_works = False
                break
            done += count
            if count == 0 or count % ALIGNMENT:
                break  # the end of the file
        return done

    def _read_if_cached(self, offset: int, view: memoryview) -> int:
        """Read up to the first page that is not cached, which may be nowhere.

        Asking makes newer kernels start to read that page and those after it, so nobody
        can tell cheaply whether these were cached.
        """
        if not self._tells_cached or not view:
            return 0
        try:
            return os.preadv(self._descriptor, [view], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            self._tells_cached = False
            return 0

    def _read_and_drop(self, offset: int, view: memoryview) -> int:
        """Read through the cache and drop the pages that were read; written ones stay."""
        count = os.preadv(self._descriptor, [view], offset)
        # Only whole pages are dropped.
        start = offset - offset % ALIGNMENT
        end = offset + count + -(offset + count) % ALIGNMENT
        os.posix_fadvise(self._descriptor, start, end - start, os.POSIX_FADV_DONTNEED)
        return count


def _open_direct(descriptor: int) -> int | None:
    """Open the same file a second time, past the cache; None where that does not work."""
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:
        return None
