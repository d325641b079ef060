# SPDX-License-Identifier: Apache-2.0
"""A file that is there already, to be changed where it lies."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from snapvault.adapters.targets.alone import require_alone, require_no_loop_device
from snapvault.adapters.targets.holes import allocate, data_ranges, make_zeros
from snapvault.adapters.targets.problems import could_not, too_large
from snapvault.adapters.targets.quiet import QuietFile
from snapvault.errors import RestoreError
from snapvault.model.ranges import Range

# The first bytes of image formats that are not raw, each with its name in qemu-img.
_FORMATS = ((b"QFI\xfb", "qcow2"), (b"KDMV", "vmdk"), (b"vhdxfile", "vhdx"))


class ExistingFile:
    """A raw image that becomes `size` bytes long; its owner, mode and other names stay.

    What lies beyond its present end reads as zeros. `open` is the way in.
    """

    def __init__(self, path: Path, descriptor: int, *, size: int) -> None:
        """Take over an open descriptor."""
        self._path = path
        self._label = f'file "{path}"'
        self._size = size
        self._present = os.fstat(descriptor).st_size
        self._file = QuietFile(descriptor, size=size, label=self._label, where=path.parent)
        self._open = True

    @classmethod
    def open(cls, path: Path, size: int, *, force: bool) -> Self:
        """Open a file that nobody else has open, for a stream of `size` bytes.

        `force` follows a symbolic link, and takes what looks like an image of another format.

        Raises:
            RestoreError: it is not there, is in use, or is no raw image.
        """
        if path.is_symlink() and not force:
            raise RestoreError(
                f'"{path}" is a symbolic link to "{path.readlink()}"',
                hint="Name what it points to, or use --force to restore there.",
            )
        final = Path(os.path.realpath(path))
        label = f'file "{path}"'
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(final, flags)
        except OSError as error:
            raise could_not(f"open {label}", final, error) from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RestoreError(f'cannot restore to "{path}": it is there, and is not a file')
            require_no_loop_device(final, label)
            require_alone(descriptor, label)
            if not force:
                _require_raw(descriptor, label)
            return cls(final, descriptor, size=size)
        except BaseException:
            os.close(descriptor)
            raise

    @property
    def present_bytes(self) -> int:
        """How long it was when it was opened."""
        return self._present

    @property
    def bytes_beyond(self) -> int:
        """Nothing: what is beyond the stream is cut off."""
        return 0

    def data_ranges(self) -> Iterator[Range]:
        """Yield what may be other than zeros, of what shall stay."""
        return data_ranges(self._file.descriptor, min(self._present, self._size))

    def resize(self) -> None:
        """Make it as long as the stream."""
        try:
            os.ftruncate(self._file.descriptor, self._size)
        except OSError as error:
            if error.errno in (errno.EFBIG, errno.EINVAL):
                raise too_large(self._label, self._size) from error
            raise could_not(f"resize {self._label}", self._path.parent, error) from error
        self._present = self._size

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data`."""
        self._file.write(offset, data)

    def reserve(self, offset: int, length: int) -> None:
        """Take room for a range; what is there stays."""
        self._file.require_inside(offset, length)
        try:
            allocate(self._file.descriptor, offset, length)
        except OSError as error:
            raise could_not(f"write {self._label}", self._path.parent, error) from error

    def zero(self, offset: int, length: int) -> None:
        """Make a range a hole."""
        self._file.require_inside(offset, length)
        make_zeros(self._file, offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Read what is there, and zeros beyond its end."""
        here = max(0, min(buffer.nbytes, self._present - offset))
        if here:
            self._file.read_into(offset, buffer[:here])
        buffer[here:] = bytes(buffer.nbytes - here)

    def commit(self) -> None:
        """Make it durable and close it."""
        self._file.sync()
        self.abort()

    def abort(self) -> None:
        """Close it, as it is now."""
        if self._open:
            self._open = False
            self._file.close()


def _require_raw(descriptor: int, label: str) -> None:
    head = os.pread(descriptor, 16, 0)
    for magic, name in _FORMATS:
        if head.startswith(magic):
            raise RestoreError(
                f"cannot restore to {label} in place: it is in {name} format, and what comes back"
                " is a raw disk",
                hint="Restore to a new file and convert that with qemu-img, or use --force if"
                " the file is a raw disk that only looks like it.",
            )
