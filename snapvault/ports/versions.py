# SPDX-License-Identifier: Apache-2.0
"""What lies underneath: the versions that a store keeps of its objects, and their locks.

Only some stores keep any. What is put over an object, and the mark that a deletion leaves in its
place, are versions too. Every method may be called from several threads at once.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from snapvault.ports.store import Readable


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object, or a delete marker (of no bytes).

    `is_latest`: it is what readers of the name get; a marker there hides the object. Versions
    with the same `etag` that is not empty hold the same bytes.
    """

    name: str
    id: str
    size: int
    stored_at: datetime
    is_latest: bool
    is_marker: bool = False
    etag: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class LockProof:
    """What came of trying to break a lock.

    `holds`: the store kept the lock, and refused to delete and to shorten. `trouble` is what it
    did not do. `may_delete` and `may_bypass` are what the credentials may: delete what is not
    locked, and end locks early. `left` are versions that could not be removed, and until when.
    """

    holds: bool
    trouble: str
    may_delete: bool
    may_bypass: bool
    left: tuple[tuple[str, datetime], ...]


class StoreVersions(Protocol):
    """The right to look underneath, to lock, and (for whoever has it) to remove versions."""

    @property
    def location(self) -> str:
        """Where the store is, for messages."""
        ...

    def versions(self, prefix: str = "") -> Iterator[Version]:
        """List all versions of the objects whose names start with `prefix`.

        Sorted by name; of one name the latest first, and of those with bytes the oldest last.
        Complete, or raises. A store that keeps no versions lists each object as its only one.

        Raises:
            StoreDeniedError: the credentials lack the right.
            StoreError: the store does not know the request.
        """
        ...

    def open_version(self, version: Version) -> AbstractContextManager[Readable]:
        """Open a version to be read once, in order; as `StoreReader.open`."""
        ...

    def locked_until(self, version: Version) -> datetime | None:
        """Return when the lock of a version ends; None: it has none."""
        ...

    def lock(self, version: Version, until: datetime) -> None:
        """Lock a version until then. A lock that ends later is not shortened.

        Raises:
            StoreError: the bucket has no Object Lock.
        """
        ...

    def remove(self, versions: Sequence[Version]) -> tuple[Version, ...]:
        """Remove versions for good, and return those that the store refused to remove."""
        ...

    def bring_back(self, version: Version) -> None:
        """Put a copy of a version on top, locked as what is put is."""
        ...

    def prove_lock(self) -> LockProof:
        """Lock a small object below `probe/` for a moment, and try to break the lock."""
        ...
