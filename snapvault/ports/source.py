# SPDX-License-Identifier: Apache-2.0
"""Sources: a consistent, readable view of what is protected, and what changed in it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import Final, Protocol, runtime_checkable

from snapvault.errors import SnapVaultError
from snapvault.ports.store import Readable

NO_MARKS: Final[Mapping[str, str]] = MappingProxyType({})


class Consistency(Enum):
    """What a restore point can promise, weakest first."""

    NONE = "none"  # changed while it was read, and no snapshot held it still
    CRASH = "crash"  # as after a power cut
    FILE_SYSTEM = "file-system"  # file systems were frozen
    APPLICATION = "application"  # the application itself took part


class Trust(Enum):
    """How a platform knows what changed. Neither is believed: a sample of the rest is read."""

    COMPARED = "compared"  # two snapshots that nobody writes to were held against each other
    TRACKED = "tracked"  # writes were noted as they came; one that went another way is missing


@dataclass(frozen=True, slots=True)
class Changes:
    """What may differ from the same stream at the parent restore point, as the platform tells.

    `ranges` are half-open, sorted, disjoint, not empty and inside the disk; the platform claims
    that everything outside of them is byte for byte as it was. `grain` is the platform's chunk in
    bytes: what it keeps its books in, and the smallest piece worth reading. `told_by` names the
    platform's means for people: `thin_delta`.
    """

    ranges: Sequence[tuple[int, int]]
    grain: int
    trust: Trust
    told_by: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a view was worth, once all its streams were read.

    `marks` name, by stream, the state that the view showed in the platform's own terms (a
    snapshot's id, a bitmap's name); the next run gets them back in `Source.open`. `facts` are what
    else is worth keeping of a stream (a binlog position, the format of an archive), for people
    and for the restore. Both go into the signed manifest, which is readable: no secrets.
    """

    consistency: Consistency
    marks: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


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
        """Yield the half-open ranges that may hold more than zeros: sorted, disjoint, not empty.

        Holes are certain: what lies between the ranges reads as zeros.
        """
        ...

    def changes(self) -> Changes | None:
        """Tell what may differ from the state that `Source.open` was given a mark of.

        None: the platform cannot tell, and every data range is to be read.
        """
        ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `offset` on, holes with zeros.

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

    def finish(self) -> Outcome:
        """Say what the view was worth, after all streams were read.

        Raises:
            SourceError: what was read must not become a restore point.
        """
        ...

    def committed(self, point: str) -> None:
        """Hear that the restore point with this id exists: called once, after `finish`.

        Now, and not before, what only the parent's mark needed is let go, and what the marks of
        this view name is kept beyond `close`. Where this is never called, `close` leaves the
        platform as `Source.open` found it, so that the next run can still go on from the parent.

        Raises:
            SourceError: something could not be let go; the restore point is good all the same.
        """
        ...

    def close(self) -> None:
        """Release everything, whatever happened before. Safe to repeat."""
        ...


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a source needs, looked at.

    `error` is why a backup would fail. A `remedy` without an error is a warning. With neither
    all is well.
    """

    check: str
    message: str
    error: SnapVaultError | None = None
    remedy: str | None = None


class Source(Protocol):
    """One thing protected."""

    @property
    def name(self) -> str:
        """The source's name, unique in its vault."""
        ...

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> View:
        """Bring the source to rest and return a view of it; nothing is left behind on failure.

        `marks` are those of the parent restore point, by stream. A mark that the platform no
        longer knows costs a full read of that stream and a warning, never a failure. What an
        earlier run of this source left behind, and no mark names, is removed first.

        Raises:
            SourceError: a file, a device or a program is missing or refuses.
        """
        ...

    def check(self) -> Iterator[Finding]:
        """Look at everything that a backup needs, without making one; changes nothing."""
        ...


class Quiesce(Protocol):
    """Something that can be brought to rest for the moment in which a snapshot is taken."""

    def __call__(self) -> AbstractContextManager[Consistency]:
        """Come to rest; go on when the context is left, whatever happened in it.

        Yields what a snapshot taken inside is worth.

        Raises:
            QuiesceError: it would not come to rest, and goes on as before.
        """
        ...
