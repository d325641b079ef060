# SPDX-License-Identifier: Apache-2.0
"""A block device as a target."""

import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from snapvault.adapters.targets.alone import require_alone
from snapvault.adapters.targets.problems import could_not
from snapvault.adapters.targets.quiet import ALIGNMENT, QuietFile
from snapvault.errors import RestoreError, TargetNotEmptyError
from snapvault.model.ranges import Range
from snapvault.units import format_size

_BLKZEROOUT = 0x127F  # linux/fs.h; takes offset and length in bytes, both u64
_ZERO_STEP = 256 << 20  # bytes; the call cannot be interrupted

_NO_ZEROOUT = {errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.EREMOTEIO}


class DeviceTarget:
    """The first `size` bytes of a block device; what lies beyond them stays.

    A device cannot appear at once: it is being overwritten from the first write on, and
    after `abort` it holds a part of what was restored among what was there. For the same
    reason a range that is neither written nor zeroed keeps what was there.

    LIMIT: the kernel refuses a device that is mounted, in use as swap, or held by LVM, RAID
    or another program that asked for it alone; QEMU and others lock what they use. A program
    that merely opened it is not seen.
    """

    def __init__(self, path: Path, descriptor: int, *, size: int, device_size: int) -> None:
        """Take over an open descriptor; `open` is the way in."""
        self._label = f'block device "{path}"'
        self._path = path
        self._file = QuietFile(descriptor, size=size, label=self._label, where=path)
        self._size = size
        self._beyond = device_size - size
        self._zeros = memoryview(mmap.mmap(-1, 1 << 20))
        self._open = True

    @classmethod
    def open(cls, path: Path, size: int, *, force: bool) -> Self:
        """Open an existing block device for a stream of `size` bytes.

        Raises:
            TargetNotEmptyError: without `force`, always: a device is never known to be empty.
            RestoreError: it is no block device, is in use, or is too small.
        """
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise could_not(f'open block device "{path}"', path, error) from error
        if not stat.S_ISBLK(mode):
            raise RestoreError(f'cannot restore to "{path}": it is not a block device')
        if not force:
            raise TargetNotEmptyError(
                f'cannot restore to block device "{path}": it would be overwritten',
                hint="Make sure that it is the right one, then use --force.",
            )
        descriptor = _open_alone(path)
        try:
            require_alone(descriptor, f'block device "{path}"')
            device_size = os.lseek(descriptor, 0, os.SEEK_END)
            if device_size < size:
                raise RestoreError(
                    f'block device "{path}" is too small: it has {format_size(device_size)}'
                    f" ({device_size} bytes), and {format_size(size)} ({size} bytes) are needed",
                    hint="Enlarge it, or name a larger one.",
                )
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, size=size, device_size=device_size)

    @property
    def bytes_beyond(self) -> int:
        """How many bytes of the device lie beyond the stream, and stay as they are."""
        return self._beyond

    @property
    def present_bytes(self) -> int:
        """How many bytes are there for the stream: as many as it has."""
        return self._size

    def data_ranges(self) -> Iterator[Range]:
        """Yield all of it: nothing tells what is zeros."""
        if self._size:
            yield 0, self._size

    def resize(self) -> None:
        """Do nothing: a device keeps its size."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data`."""
        self._file.write(offset, data)

    def reserve(self, offset: int, length: int) -> None:
        """Do nothing: a device has all its room."""

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros: by the device itself where it can."""
        self._file.require_inside(offset, length)
        end = offset + length
        first = min(end, offset + -offset % ALIGNMENT)
        last = max(first, end - end % ALIGNMENT)
        self._write_zeros(offset, first)
        for start in range(first, last, _ZERO_STEP):
            stop = min(last, start + _ZERO_STEP)
            if not self._zero_out(start, stop):
                self._write_zeros(start, stop)
        self._write_zeros(last, end)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Read back what was written."""
        self._file.read_into(offset, buffer)

    def commit(self) -> None:
        """Make it durable and let go of the device."""
        self._file.sync()
        self._close()

    def abort(self) -> None:
        """Let go of the device, which is left half-written."""
        if self._open:
            self._close()

    def _close(self) -> None:
        self._open = False
        self._file.close()

    def _zero_out(self, start: int, stop: int) -> bool:
        """Ask the kernel; return whether it did."""
        try:
            fcntl.ioctl(self._file.descriptor, _BLKZEROOUT, struct.pack("=QQ", start, stop - start))
        except OSError as error:
            if error.errno in _NO_ZEROOUT:
                return False
            raise could_not(f"write {self._label} at offset {start}", self._path, error) from error
        return True

    def _write_zeros(self, start: int, stop: int) -> None:
        while start < stop:
            # The first piece ends at a multiple of the buffer, so that the others are aligned.
            piece = min(stop - start, self._zeros.nbytes - start % self._zeros.nbytes)
            self._file.write(start, self._zeros[:piece])
            start += piece


def _open_alone(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise RestoreError(
                f'cannot restore to block device "{path}": it is in use',
                hint='Unmount it, or stop what uses it; "lsblk" shows mounts, LVM, RAID and swap.',
            ) from error
        raise could_not(f'open block device "{path}"', path, error) from error
