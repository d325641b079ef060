# SPDX-License-Identifier: Apache-2.0
"""Writes that leave the page cache of the machine as it was found.

Large aligned pieces go past the cache (O_DIRECT). Small ones go through it, because each
direct write into a hole costs an allocation of its own: measured on ext4, with both cores
busy, 16 KiB pieces took 2.2 to 3.1 CPU seconds per GiB direct and 1.5 to 1.9 through the
cache, 64 KiB pieces the same on both ways, 256 KiB pieces 0.24 and 0.54, 1 MiB pieces 0.11
and 0.32. What went through the cache is written out and dropped in steps, so that the
dirty pages stay few.
"""

import ctypes
import errno
import os
from pathlib import Path
from threading import Lock

from snapvault.adapters.targets.problems import could_not
from snapvault.errors import RestoreError

ALIGNMENT = 4096  # bytes; enough for every device and file system we know of
DIRECT_FROM = 128 << 10  # bytes; shorter writes cost less through the cache
_STEP = 32 << 20  # bytes written through the cache before they are pushed out

_WAIT_BEFORE_AND_WRITE = 1 | 2  # SYNC_FILE_RANGE_*, linux/fs.h

_libc = ctypes.CDLL(None, use_errno=True)


class QuietFile:
    """An open file or block device of which the first `size` bytes may be written and read.

    Takes over the descriptor. May be used from several threads, except for `close`.
    `label` names it in messages, `where` is what hints name.
    """

    def __init__(self, descriptor: int, *, size: int, label: str, where: Path) -> None:
        self._descriptor = descriptor
        self._size = size
        self._label = label
        self._where = where
        self._direct = _open_direct(descriptor)
        self._lock = Lock()
        self._unsettled = 0
        # Without this, reading a tail would fetch what follows it into the cache.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    @property
    def descriptor(self) -> int:
        """The descriptor that goes through the cache."""
        return self._descriptor

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data`.

        Raises:
            RestoreError: there is no room, or the disk failed.
        """
        self.require_inside(offset, data.nbytes)
        done = 0
        try:
            if data.nbytes >= DIRECT_FROM:
                done = self._write_direct(offset, data)
            if done < data.nbytes:
                self._write_cached(offset + done, data[done:])
        except OSError as error:
            raise could_not(
                f"write {self._label} at offset {offset}", self._where, error
            ) from error

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Read to fill the whole buffer.

        Raises:
            RestoreError: the disk failed, or somebody made the file shorter.
        """
        self.require_inside(offset, buffer.nbytes)
        try:
            done = self._read_direct(offset, buffer)
            if done < buffer.nbytes:
                done += self._read_cached(offset + done, buffer[done:])
        except OSError as error:
            what = f"read {self._label} at offset {offset}"
            raise could_not(what, self._where, error) from error
        if done < buffer.nbytes:
            raise RestoreError(f"{self._label} became shorter while it was restored")

    def sync(self) -> None:
        """Make what was written durable.

        Raises:
            RestoreError: some of it could not be written.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise could_not(f"write {self._label}", self._where, error) from error
        self._drop(0, 0)

    def close(self) -> None:
        """Close both descriptors; once."""
        if self._direct is not None:
            os.close(self._direct)
        os.close(self._descriptor)

    def require_inside(self, offset: int, length: int) -> None:
        """Refuse a range that does not lie within the size: what is beyond is not ours."""
        if offset < 0 or offset + length > self._size:
            raise ValueError(
                f"{length} bytes at offset {offset} are not within {self._size} bytes"
                f" of {self._label}"
            )

    def _write_direct(self, offset: int, data: memoryview) -> int:
        """Write what can go past the cache, and return how much that was."""
        done = 0
        if self._direct is None or not _is_aligned(offset):
            return done
        whole = data.nbytes - data.nbytes % ALIGNMENT
        while done < whole and _is_aligned(done):
            try:
                done += os.pwrite(self._direct, data[done:whole], offset + done)
            except OSError as error:
                # The memory, or the offset on this device, is not aligned well enough.
                if error.errno == errno.EINVAL:
                    break
                raise
        return done

    def _write_cached(self, offset: int, data: memoryview) -> None:
        done = 0
        while done < data.nbytes:
            done += os.pwrite(self._descriptor, data[done:], offset + done)
        # Waiting with the lock held holds back the other writers too: that is what bounds
        # the dirty pages, at two steps.
        with self._lock:
            self._unsettled += done
            if self._unsettled >= _STEP:
                self._unsettled = 0
                _push_out(self._descriptor)
                self._drop(0, 0)

    def _read_direct(self, offset: int, buffer: memoryview) -> int:
        done = 0
        if self._direct is None or not _is_aligned(offset):
            return done
        whole = buffer.nbytes - buffer.nbytes % ALIGNMENT
        while done < whole and _is_aligned(done):
            try:
                read = os.preadv(self._direct, [buffer[done:whole]], offset + done)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    break
                raise
            if read == 0:
                break
            done += read
        return done

    def _read_cached(self, offset: int, buffer: memoryview) -> int:
        done = 0
        while done < buffer.nbytes:
            read = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            if read == 0:
                break
            done += read
        first = offset - offset % ALIGNMENT
        # The kernel drops whole pages only, so the last one is named to its end.
        self._drop(first, max(ALIGNMENT, offset + done + ALIGNMENT - 1 - first))
        return done

    def _drop(self, offset: int, length: int) -> None:
        os.posix_fadvise(self._descriptor, offset, length, os.POSIX_FADV_DONTNEED)


def _is_aligned(number: int) -> bool:
    return number % ALIGNMENT == 0


def _open_direct(descriptor: int) -> int | None:
    """Open the same file once more, past the cache; None where that does not work."""
    try:
        return os.open(
            f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC | os.O_NONBLOCK
        )
    except OSError:
        return None


def _push_out(descriptor: int) -> None:
    """Wait for what was being written out, and start with what is dirty now."""
    # fdatasync would also flush the disk's own cache, at every step.
    push = getattr(_libc, "sync_file_range", None)
    if push is not None:
        answer = push(
            descriptor, ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_uint(_WAIT_BEFORE_AND_WRITE)
        )
        if answer == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL, errno.ESPIPE):
            raise OSError(number, os.strerror(number))
    os.fdatasync(descriptor)
