# SPDX-License-Identifier: Apache-2.0
"""Trying again what is asked about versions; and counting it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime

from snapvault.adapters.stores.retrying import Persistence
from snapvault.ports.store import Readable
from snapvault.ports.versions import LockProof, StoreVersions, Version

PER_PAGE = 1000


class RetryingVersions:
    """Repeats calls that failed for a reason that passes.

    `count` is told of each kind of call as `MeteredStore` names them; a listing once a page.
    """

    def __init__(
        self,
        inner: StoreVersions,
        persist: Persistence,
        count: Callable[[str, int], None] = lambda _kind, _amount: None,
    ) -> None:
        self._inner = inner
        self._persist = persist
        self._count = count

    @property
    def location(self) -> str:
        """Where the store is, for messages."""
        return self._inner.location

    def versions(self, prefix: str = "") -> Iterator[Version]:
        """List all versions of the objects whose names start with `prefix`."""
        found = self._persist(lambda: list(self._inner.versions(prefix)))
        self._count("listings", max(1, -(-len(found) // PER_PAGE)))
        return iter(found)

    def open_version(self, version: Version) -> AbstractContextManager[Readable]:
        """Open a version to be read once; a transfer that is cut is not carried on."""
        self._count("opens", 1)
        return self._inner.open_version(version)

    def locked_until(self, version: Version) -> datetime | None:
        """Return when the lock of a version ends."""
        self._count("stats", 1)
        return self._persist(lambda: self._inner.locked_until(version))

    def lock(self, version: Version, until: datetime) -> None:
        """Lock a version until then."""
        self._count("locks", 1)
        self._persist(lambda: self._inner.lock(version, until))

    def remove(self, versions: Sequence[Version]) -> tuple[Version, ...]:
        """Remove versions for good, and return those that the store refused to remove."""
        self._count("deletes", len(versions))
        return self._persist(lambda: self._inner.remove(versions))

    def bring_back(self, version: Version) -> None:
        """Put a copy of a version on top."""
        self._count("puts", 1)
        self._persist(lambda: self._inner.bring_back(version))

    def prove_lock(self) -> LockProof:
        """Try to break the lock of a probe; what that asks is not counted."""
        self._count("probes", 1)
        return self._persist(self._inner.prove_lock)
