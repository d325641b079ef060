# SPDX-License-Identifier: Apache-2.0
"""Sources: a consistent, readable view of what is protected."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from enum import Enum
from typing import Protocol, runtime_checkable

from snapvault.ports.store import Readable


class Consistency(Enum):
    """What a restore point can promise, weakest first."""

    NONE = "none"  # changed while it was read, and no snapshot held it still
    CRASH = "crash"  # as after a power cut
    FILE_SYSTEM = "file-system"  # file systems were frozen
    APPLICATION = "application"  # the application itself took part


@runtime_checkable
class DiskStream(Protocol):
    """Random access to a disk of a fixed size. Read from several threads at once."""

    @property
    def name(self) -> str:
        """The stream's name, unique in its source."""
        ...

    @property
    def size(self) -> int:
        """Bytes; fixed while the view is open; any number, zero too."""
        ...

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the half-open ranges that may hold more than zeros: sorted, disjoint, not empty."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `offset` on.

        Buffers that start at a page and offsets that are a multiple of 4096 may be read
        past the operating system's cache; any others work too.

        Raises:
            SourceError: reading failed, or the disk ends before the buffer is full.
        """
        ...


class ByteStream(Protocol):
    """Bytes of unknown number that come once, in order."""

    @property
    def name(self) -> str:
        """The stream's name, unique in its source."""
        ...

    def open(self) -> AbstractContextManager[Readable]:
        """Start it. Called once. `read` raises SourceError when the stream broke.

        Reading to the end and leaving the context without an exception means the stream was whole;
        a producer that failed raises SourceError, at the latest when `read` would return
        the empty end.
        """
        ...


class View(Protocol):
    """One source, held still, between `Source.open` and `close`."""

    @property
    def taken_at(self) -> datetime:
        """The moment the view shows, in UTC."""
        ...

    @property
    def streams(self) -> tuple[DiskStream | ByteStream, ...]:
        """Its streams in the order to read them; never empty."""
        ...

    def finish(self) -> Consistency:
        """Say what the view was worth, after all streams were read.

        Raises:
            SourceError: what was read must not become a restore point.
        """
        ...

    def close(self) -> None:
        """Release everything, whatever happened before. Safe to repeat."""
        ...


class Source(Protocol):
    """One thing protected."""

    @property
    def name(self) -> str:
        """The source's name, unique in its vault."""
        ...

    def open(self) -> View:
        """Bring the source to rest and return a view of it; nothing is left behind on failure.

        Raises:
            SourceError: a file, a device or a program is missing or refuses.
        """
        ...
