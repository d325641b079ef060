# SPDX-License-Identifier: Apache-2.0
"""A source that is read no faster than a throttle lets it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

from snapvault.adapters.throttle import take_all
from snapvault.ports.source import (
    NO_MARKS,
    ByteStream,
    Changes,
    DiskStream,
    Finding,
    Outcome,
    Source,
    View,
)
from snapvault.ports.store import Readable
from snapvault.ports.throttle import Throttle


class ThrottledSource:
    """Passes everything on; what is read of its streams passes the throttle, samples as well."""

    def __init__(self, inner: Source, throttle: Throttle) -> None:
        self._inner = inner
        self._throttle = throttle

    @property
    def name(self) -> str:
        """The source's name, unique in its vault."""
        return self._inner.name

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> View:
        """Open the source."""
        return _View(self._inner.open(marks), self._throttle)

    def check(self) -> Iterator[Finding]:
        """Look at the source."""
        return self._inner.check()


class _View:
    def __init__(self, inner: View, throttle: Throttle) -> None:
        self._inner = inner
        self._throttle = throttle

    @property
    def taken_at(self) -> datetime:
        return self._inner.taken_at

    @property
    def streams(self) -> tuple[DiskStream | ByteStream, ...]:
        return tuple(
            _Disk(stream, self._throttle)
            if isinstance(stream, DiskStream)
            else _Bytes(stream, self._throttle)
            for stream in self._inner.streams
        )

    def finish(self) -> Outcome:
        return self._inner.finish()

    def committed(self, point: str) -> None:
        self._inner.committed(point)

    def close(self) -> None:
        self._inner.close()


class _Disk:
    def __init__(self, inner: DiskStream, throttle: Throttle) -> None:
        self._inner = inner
        self._throttle = throttle

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def size(self) -> int:
        return self._inner.size

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        return self._inner.data_ranges()

    def changes(self) -> Changes | None:
        return self._inner.changes()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        take_all(self._throttle, len(buffer))
        self._inner.read_into(offset, buffer)


class _Bytes:
    def __init__(self, inner: ByteStream, throttle: Throttle) -> None:
        self._inner = inner
        self._throttle = throttle

    @property
    def name(self) -> str:
        return self._inner.name

    @contextmanager
    def open(self) -> Iterator[Readable]:
        with self._inner.open() as readable:
            yield _Readable(readable, self._throttle)


class _Readable:
    def __init__(self, inner: Readable, throttle: Throttle) -> None:
        self._inner = inner
        self._throttle = throttle

    def read(self, size: int, /) -> bytes:
        data = self._inner.read(size)
        # Paid for afterwards: only now it is known how much a pipe had to give.
        take_all(self._throttle, len(data))
        return data
