# SPDX-License-Identifier: Apache-2.0
"""Raw image files and block devices as a source.

Nothing holds them still: finish() tells whether they stayed so. An unchanged file is
crash-consistent. A block device cannot tell whether it was written to, so it is worth
nothing unless the kernel has it read-only, as a snapshot's device is.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from snapvault import clock
from snapvault.adapters.sources.disk import read_whole, shrank
from snapvault.adapters.sources.reading import QuietReader
from snapvault.errors import ConfigError, SourceError
from snapvault.ports.source import NO_MARKS, Changes, Consistency, Finding, Outcome
from snapvault.units import format_size

_SMALLEST_HOLE = 64 << 10  # bytes; a shorter one costs less to read than to skip
_BLKROGET = 0x125E  # linux/fs.h

# The first bytes of image formats that are not raw, each with its name in qemu-img.
_FORMATS = ((b"QFI\xfb", "qcow2"), (b"KDMV", "vmdk"), (b"vhdxfile", "vhdx"))


class ImageSource:
    """Disks by stream name, each a raw image file or a block device."""

    def __init__(
        self, name: str, disks: Mapping[str, Path], *, surely_raw: Collection[str] = ()
    ) -> None:
        """`surely_raw` are the streams whose disks may begin like another format."""
        if not disks:
            raise ConfigError(f'source "{name}" has no disks')
        self._name = name
        self._disks = dict(disks)
        self._surely_raw = frozenset(surely_raw)

    @property
    def name(self) -> str:
        """The source's name, unique in its vault."""
        return self._name

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> "_View":
        """Open every disk, or none; nothing tells what changed, so marks mean nothing."""
        with ExitStack() as stack:
            disks = tuple(self._disk(stream, stack) for stream in self._disks)
            return _View(disks, clock.now(), stack.pop_all())

    def check(self) -> Iterator[Finding]:
        """Open each disk."""
        for stream in self._disks:
            try:
                with ExitStack() as stack:
                    disk = self._disk(stream, stack)
                    yield Finding(stream, f"{disk}, {format_size(disk.size)}, can be read")
            except SourceError as error:
                yield Finding(stream, str(error), error)

    def _disk(self, stream: str, stack: ExitStack) -> "_Disk":
        guarded = stream not in self._surely_raw
        return _open(stream, self._disks[stream], stack, guarded=guarded)


@dataclass(frozen=True, slots=True)
class _State:
    """What shows that somebody wrote to a file: any of these differs.

    LIMIT: a write in the same tick of the kernel's clock as the one before (some
    milliseconds) leaves the same times on kernels before 6.13.
    """

    size: int
    modified: int
    changed: int


class _Disk:
    """One open file or block device; its size is the one it had when it was opened."""

    def __init__(self, name: str, path: Path, descriptor: int, reader: QuietReader) -> None:
        self._name = name
        self._path = path
        self._descriptor = descriptor
        self._reader = reader
        self._is_device = stat.S_ISBLK(os.fstat(descriptor).st_mode)
        self._before = self._state()

    @property
    def name(self) -> str:
        return self._name

    @property
    def size(self) -> int:
        return self._before.size

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges as the file system tells; a block device is one range."""
        start = end = 0
        for next_start, next_end in self._extents():
            if next_start - end >= _SMALLEST_HOLE and end > start:
                yield start, end
            if next_start - end >= _SMALLEST_HOLE or end == start:
                start = next_start
            end = next_end
        if end > start:
            yield start, end

    def changes(self) -> Changes | None:
        return None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        read_whole(self._reader, offset, buffer, size=self.size, disk=str(self))

    @property
    def facts(self) -> dict[str, str]:
        """Where it is: the definition of its machine knows it by that."""
        return {"file": str(self._path)}

    def finish(self) -> Consistency:
        after = self._state()
        if after.size < self.size:
            raise shrank(str(self))
        if self._is_device:
            return Consistency.CRASH if self._is_read_only() else Consistency.NONE
        return Consistency.CRASH if after == self._before else Consistency.NONE

    def __str__(self) -> str:
        return f'{"block device" if self._is_device else "image"} "{self._path}"'

    def _state(self) -> _State:
        found = os.fstat(self._descriptor)
        if self._is_device:
            return _State(os.lseek(self._descriptor, 0, os.SEEK_END), 0, 0)
        return _State(found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def _extents(self) -> Iterator[tuple[int, int]]:
        """Yield the file's data as the file system has it; disjoint also while it is written."""
        if self._is_device:
            yield 0, self.size
            return
        position = 0
        while position < self.size:
            try:
                start = os.lseek(self._descriptor, position, os.SEEK_DATA)
                position = os.lseek(self._descriptor, start, os.SEEK_HOLE)
            except OSError as error:
                # ENXIO: only a hole is left, or the file shrank, which finish() finds.
                if error.errno != errno.ENXIO:
                    yield position, self.size
                return
            # A hole punched between the two calls gives an empty range, or a start past the size.
            if start < min(position, self.size):
                yield start, min(position, self.size)

    def _is_read_only(self) -> bool:
        answer = fcntl.ioctl(self._descriptor, _BLKROGET, bytes(4))
        return any(answer)


class _View:
    """Open disks."""

    def __init__(self, disks: tuple[_Disk, ...], taken_at: datetime, stack: ExitStack) -> None:
        self._disks = disks
        self._taken_at = taken_at
        self._stack = stack

    @property
    def taken_at(self) -> datetime:
        return self._taken_at

    @property
    def streams(self) -> tuple[_Disk, ...]:
        return self._disks

    def finish(self) -> Outcome:
        weakest = min((disk.finish() for disk in self._disks), key=tuple(Consistency).index)
        return Outcome(weakest, facts={disk.name: disk.facts for disk in self._disks})

    def committed(self, point: str) -> None:
        pass

    def close(self) -> None:
        self._stack.close()


def _open(stream: str, path: Path, stack: ExitStack, *, guarded: bool) -> _Disk:
    """Open one disk and leave its closing to `stack`; `guarded`: not if it looks like no disk."""
    try:
        # Without O_NONBLOCK, opening a pipe would wait for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _cannot_open(path, error) from error
    stack.callback(os.close, descriptor)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise _wrong_kind(path, mode)
    reader = stack.enter_context(QuietReader(descriptor))
    if guarded and stat.S_ISREG(mode):
        _require_raw(path, reader)
    return _Disk(stream, path, descriptor, reader)


def _cannot_open(path: Path, error: OSError) -> SourceError:
    hint = None
    if isinstance(error, FileNotFoundError):
        hint = "Correct the path, or mount or activate what it is on."
    elif isinstance(error, PermissionError):
        hint = "Run as a user who may read it: root, or a member of the group that owns it."
    return SourceError(
        f'could not open image "{path}": {(error.strerror or "").lower()}', hint=hint
    )


def _wrong_kind(path: Path, mode: int) -> SourceError:
    if stat.S_ISDIR(mode):
        return SourceError(
            f'cannot read "{path}" as a disk: it is a folder',
            hint='For a folder the kind is "directory"; here, name a raw image or a block device.',
        )
    return SourceError(
        f'cannot read "{path}" as a disk: it is neither a file nor a block device',
        hint="For what can be read once only, use a command such as cat.",
    )


def _require_raw(path: Path, reader: QuietReader) -> None:
    head = bytearray(16)
    try:
        reader.read_into(0, memoryview(head))
    except OSError as error:
        raise SourceError(f'could not read image "{path}": {error.strerror}') from error
    for magic, name in _FORMATS:
        if head.startswith(magic):
            raise SourceError(
                f'image "{path}" is not raw: it is in {name} format',
                hint=_hint_for(name),
            )


def _hint_for(format_name: str) -> str:
    first = (
        "Set format: qcow2 to read the disk that it holds, convert"
        if (format_name == "qcow2")
        else "Convert"
    )
    return (
        f"{first} it with qemu-img convert -f {format_name} -O raw, or set format: raw if a"
        " machine uses it as a raw disk; back up a running machine with qemu."
    )
