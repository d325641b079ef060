# SPDX-License-Identifier: Apache-2.0
"""Sources over bytes in memory: real sources that record, and fail when they are told to.

A test changes `disks` or `contents` between two nights; a view holds what was there when it
was opened. Everything is safe from several threads.
"""

import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from snapvault.errors import SourceError
from snapvault.ports.source import (
    NO_MARKS,
    ByteStream,
    Changes,
    Consistency,
    DiskStream,
    Finding,
    Outcome,
)
from snapvault.ports.store import Readable

FIRST_NIGHT = datetime(2026, 11, 20, 1, 30, tzinfo=UTC)
HOLE_GRAIN = 4096  # bytes


@dataclass(slots=True)
class Faults:
    """What goes wrong, and when; counted in bytes over all streams of one view.

    `after_bytes` lets that many bytes through, then every read raises `error`.
    """

    after_bytes: int | None = None
    on_open: bool = False
    on_finish: bool = False
    on_committed: bool = False
    error: BaseException = field(default_factory=lambda: SourceError('source "memory" broke'))


@dataclass(slots=True)
class Record:
    """What happened to a source so far, over all its views."""

    opened: int = 0
    closed: int = 0
    bytes_read: int = 0
    committed: list[str] = field(default_factory=list)
    marks_given: list[dict[str, str]] = field(default_factory=list)
    reads: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def left_open(self) -> int:
        """Views that were opened and not closed."""
        return self.opened - self.closed


class _Meter:
    """Counts the bytes that one view gives out, and cuts them off where the faults say."""

    def __init__(self, faults: Faults, record: Record) -> None:
        self._faults = faults
        self._record = record
        self._given = 0
        self._lock = threading.Lock()

    def take(self, stream: str, offset: int, length: int) -> None:
        with self._lock:
            limit = self._faults.after_bytes
            if limit is not None and self._given + length > limit:
                raise self._faults.error
            self._given += length
            self._record.bytes_read += length
            self._record.reads.append((stream, offset, length))


class MemoryDisk:
    """A disk in memory. Its holes are the aligned pages of zeros."""

    def __init__(
        self, name: str, content: bytes, meter: _Meter, changes: Changes | None = None
    ) -> None:
        self._changes = changes
        self._name = name
        self._content = content
        self._meter = meter

    @property
    def name(self) -> str:
        return self._name

    @property
    def size(self) -> int:
        return len(self._content)

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        start: int | None = None
        for offset in range(0, self.size, HOLE_GRAIN):
            if any(self._content[offset : offset + HOLE_GRAIN]):
                start = offset if start is None else start
            elif start is not None:
                yield start, offset
                start = None
        if start is not None:
            yield start, self.size

    def changes(self) -> Changes | None:
        return self._changes

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if offset + len(buffer) > self.size:
            raise SourceError(f'disk "{self._name}" ends at {self.size} bytes')
        self._meter.take(self._name, offset, len(buffer))
        buffer[:] = self._content[offset : offset + len(buffer)]


class MemoryStream:
    """A byte stream in memory; gives at most `piece` bytes a read."""

    def __init__(self, name: str, content: bytes, meter: _Meter, piece: int) -> None:
        self._name = name
        self._content = content
        self._meter = meter
        self._piece = piece
        self._opened = False

    @property
    def name(self) -> str:
        return self._name

    @contextmanager
    def open(self) -> Iterator[Readable]:
        if self._opened:
            raise ValueError(f'stream "{self._name}" was opened twice')
        self._opened = True
        yield _MeteredReader(self._name, self._content, self._meter, self._piece)


class _MeteredReader:
    def __init__(self, name: str, content: bytes, meter: _Meter, piece: int) -> None:
        self._name = name
        self._content = io.BytesIO(content)
        self._meter = meter
        self._piece = piece

    def read(self, size: int, /) -> bytes:
        offset = self._content.tell()
        data = self._content.read(min(size, self._piece))
        self._meter.take(self._name, offset, len(data))
        return data


class MemoryView:
    """What a memory source held when it was opened."""

    def __init__(
        self,
        streams: Sequence[DiskStream | ByteStream],
        taken_at: datetime,
        consistency: Consistency,
        faults: Faults,
        record: Record,
        marks: Mapping[str, str] = NO_MARKS,
    ) -> None:
        self._marks = marks
        self._streams = tuple(streams)
        self._taken_at = taken_at
        self._consistency = consistency
        self._faults = faults
        self._record = record
        self._closed = False

    @property
    def taken_at(self) -> datetime:
        return self._taken_at

    @property
    def streams(self) -> tuple[DiskStream | ByteStream, ...]:
        return self._streams

    def finish(self) -> Outcome:
        if self._faults.on_finish:
            raise self._faults.error
        return Outcome(self._consistency, self._marks)

    def committed(self, point: str) -> None:
        self._record.committed.append(point)
        if self._faults.on_committed:
            raise self._faults.error

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._record.closed += 1


class MemoryDiskSource:
    """Disks by stream name. Each opening is taken `interval` after the one before."""

    def __init__(
        self,
        name: str,
        disks: Mapping[str, bytes | bytearray],
        *,
        taken_at: datetime = FIRST_NIGHT,
        interval: timedelta = timedelta(days=1),
        consistency: Consistency = Consistency.CRASH,
        faults: Faults | None = None,
    ) -> None:
        self._name = name
        self.disks = dict(disks)
        self.next_taken_at = taken_at
        self.interval = interval
        self.consistency = consistency
        self.faults = faults or Faults()
        self.record = Record()

    @property
    def name(self) -> str:
        return self._name

    def check(self) -> Iterator[Finding]:
        yield Finding("memory", "is there")

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> MemoryView:
        self.record.marks_given.append(dict(marks))
        if self.faults.on_open:
            raise self.faults.error
        meter = _Meter(self.faults, self.record)
        streams = [MemoryDisk(name, bytes(disk), meter) for name, disk in self.disks.items()]
        return _view(self, streams)


class MemoryByteSource:
    """Byte streams by name; otherwise as `MemoryDiskSource`. `piece` is in bytes."""

    def __init__(
        self,
        name: str,
        contents: Mapping[str, bytes | bytearray],
        *,
        taken_at: datetime = FIRST_NIGHT,
        interval: timedelta = timedelta(days=1),
        consistency: Consistency = Consistency.APPLICATION,
        piece: int = 1 << 20,
        faults: Faults | None = None,
    ) -> None:
        self._name = name
        self.contents = dict(contents)
        self.next_taken_at = taken_at
        self.interval = interval
        self.consistency = consistency
        self.piece = piece
        self.faults = faults or Faults()
        self.record = Record()

    @property
    def name(self) -> str:
        return self._name

    def check(self) -> Iterator[Finding]:
        yield Finding("memory", "is there")

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> MemoryView:
        self.record.marks_given.append(dict(marks))
        if self.faults.on_open:
            raise self.faults.error
        meter = _Meter(self.faults, self.record)
        streams = [
            MemoryStream(name, bytes(content), meter, self.piece)
            for name, content in self.contents.items()
        ]
        return _view(self, streams)


def _view(
    source: MemoryDiskSource | MemoryByteSource, streams: Sequence[DiskStream | ByteStream]
) -> MemoryView:
    view = MemoryView(
        streams, source.next_taken_at, source.consistency, source.faults, source.record
    )
    source.next_taken_at += source.interval
    source.record.opened += 1
    return view
