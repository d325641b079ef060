# SPDX-License-Identifier: Apache-2.0
"""A store in memory that keeps versions and locks them, as a bucket with Object Lock does."""

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import md5
from io import BytesIO
from pathlib import Path

from snapvault import clock
from snapvault.adapters.stores.memory import MemoryStore
from snapvault.errors import IntegrityError, ObjectMissingError, StoreDeniedError
from snapvault.model.locking import LockMode, ObjectLock
from snapvault.ports.store import Readable, StoredObject, StoreTraits
from snapvault.ports.versions import LockProof, Version


@dataclass(slots=True)
class _Kept:
    id: str
    data: bytes
    stored_at: datetime
    is_marker: bool = False
    until: datetime | None = None


@dataclass(slots=True)
class Asked:
    """What was asked: names whose locks were looked up or set, in order."""

    looked: list[str] = field(default_factory=list)
    locked: list[str] = field(default_factory=list)
    listings: int = 0


class VersionedStore(MemoryStore):
    """Deletes lay markers, `overlay` puts over what is there, as an attacker does.

    `lock` locks what is put. `may_remove` False: these credentials may not remove versions.
    """

    def __init__(self, lock: ObjectLock | None = None) -> None:
        super().__init__()
        self.lock_of_puts = lock
        self.may_remove = True
        self.asked = Asked()
        self._kept: dict[str, list[_Kept]] = {}  # newest first
        self._ids = itertools.count(1)
        self._guard = threading.Lock()

    # --- Store ------------------------------------------------------------------------------

    def _latest(self, name: str) -> _Kept:
        own = self._kept.get(name)
        if not own or own[0].is_marker:
            raise ObjectMissingError(f'object "{name}" is not in "{self.location}"')
        return own[0]

    def stat(self, name: str) -> StoredObject:
        found = self._latest(name)
        return StoredObject(name, len(found.data), found.stored_at)

    def get(self, name: str) -> bytes:
        return self._latest(name).data

    def get_part(self, name: str, offset: int, size: int) -> bytes:
        return self._latest(name).data[offset : offset + size]

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        yield BytesIO(self._latest(name).data)

    def names(self, prefix: str = "") -> Iterator[StoredObject]:
        with self._guard:
            found = [
                StoredObject(name, len(own[0].data), own[0].stored_at)
                for name, own in sorted(self._kept.items())
                if name.startswith(prefix) and not own[0].is_marker
            ]
        return iter(found)

    def put(self, name: str, data: bytes) -> None:
        try:
            if self._latest(name).data != data:
                raise IntegrityError(f'object "{name}" already holds other bytes')
        except ObjectMissingError:
            self.overlay(name, data, locked=self.lock_of_puts is not None)

    def put_file(self, name: str, path: Path, *, size: int, sha256: str) -> None:
        del size, sha256
        self.put(name, path.read_bytes())

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            self._lay(name, _Kept(self._id(), b"", clock.now(), is_marker=True))

    def probe(self) -> StoreTraits:
        return StoreTraits(create_only=True)

    # --- an attacker ------------------------------------------------------------------------

    def overlay(self, name: str, data: bytes, *, locked: bool = False) -> None:
        """Put a version over whatever there is."""
        until = self.lock_of_puts.until(clock.now()) if locked and self.lock_of_puts else None
        self._lay(name, _Kept(self._id(), data, clock.now(), until=until))

    # --- StoreVersions ----------------------------------------------------------------------

    def versions(self, prefix: str = "") -> Iterator[Version]:
        self.asked.listings += 1
        with self._guard:
            found = [
                Version(
                    name,
                    each.id,
                    len(each.data),
                    each.stored_at,
                    number == 0,
                    each.is_marker,
                    "" if each.is_marker else md5(each.data, usedforsecurity=False).hexdigest(),
                )
                for name, own in sorted(self._kept.items())
                if name.startswith(prefix)
                for number, each in enumerate(own)
            ]
        return iter(found)

    @contextmanager
    def open_version(self, version: Version) -> Iterator[Readable]:
        yield BytesIO(self._of(version).data)

    def locked_until(self, version: Version) -> datetime | None:
        self.asked.looked.append(version.name)
        return self._of(version).until

    def lock(self, version: Version, until: datetime) -> None:
        found = self._of(version)
        if found.until is not None and found.until > until:
            raise StoreDeniedError("access denied")
        self.asked.locked.append(version.name)
        found.until = until

    def remove(self, versions: Sequence[Version]) -> tuple[Version, ...]:
        refused = []
        for each in versions:
            found = self._of(each)
            is_locked = found.until is not None and found.until > clock.now()
            if is_locked or not self.may_remove:
                refused.append(each)
                continue
            with self._guard:
                self._kept[each.name].remove(found)
                if not self._kept[each.name]:
                    del self._kept[each.name]
        return tuple(refused)

    def bring_back(self, version: Version) -> None:
        self.overlay(version.name, self._of(version).data, locked=True)

    def prove_lock(self) -> LockProof:
        return LockProof(True, "", self.may_remove, False, ())

    # --- looking ----------------------------------------------------------------------------

    def locks(self) -> dict[str, datetime | None]:
        """Return when the lock of the oldest version of each object ends."""
        return {
            name: next(each for each in reversed(own) if not each.is_marker).until
            for name, own in self._kept.items()
        }

    def markers(self) -> list[str]:
        """Return the names that a marker hides."""
        return sorted(name for name, own in self._kept.items() if own[0].is_marker)

    def _of(self, version: Version) -> _Kept:
        return next(each for each in self._kept[version.name] if each.id == version.id)

    def _id(self) -> str:
        return f"v{next(self._ids)}"

    def _lay(self, name: str, kept: _Kept) -> None:
        with self._guard:
            self._kept.setdefault(name, []).insert(0, kept)


GOVERNANCE = ObjectLock(LockMode.GOVERNANCE, timedelta(days=30))
"""A lock as settings have it."""
