# SPDX-License-Identifier: Apache-2.0
"""A store in memory: the shortest true answer to the contract, for tests and rehearsals."""

import hashlib
import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from snapvault import clock
from snapvault.adapters.stores.naming import cut_short, require_name
from snapvault.errors import IntegrityError, ObjectMissingError
from snapvault.ports.store import Readable, StoredObject, StoreTraits


class MemoryStore:
    """Objects in a dictionary; gone with the process."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._stored_at: dict[str, datetime] = {}
        self._lock = threading.Lock()

    @property
    def location(self) -> str:
        """Where the store is, for messages."""
        return "memory:"

    def stat(self, name: str) -> StoredObject:
        """Return the object's name and size."""
        return StoredObject(name, len(self.get(name)), self._stored_at.get(name))

    def get(self, name: str) -> bytes:
        """Return a whole object."""
        with self._lock:
            data = self._objects.get(require_name(name))
        if data is None:
            raise ObjectMissingError(f'object "{name}" is not in "{self.location}"')
        return data

    def get_part(self, name: str, offset: int, size: int) -> bytes:
        """Return some bytes of an object."""
        data = self.get(name)
        if offset + size > len(data):
            raise cut_short(name, self.location)
        return data[offset : offset + size]

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        """Open an object to be read once, in order."""
        yield io.BytesIO(self.get(name))

    def names(self, prefix: str = "") -> Iterator[StoredObject]:
        """List the objects as they are now, whatever happens while the list is read."""
        with self._lock:
            found = [
                StoredObject(name, len(data), self._stored_at.get(name))
                for name, data in self._objects.items()
                if name.startswith(prefix)
            ]
        return iter(sorted(found, key=lambda item: item.name))

    def put(self, name: str, data: bytes) -> None:
        """Make `data` readable under `name`."""
        with self._lock:
            held = self._objects.setdefault(require_name(name), bytes(data))
            self._stored_at.setdefault(name, clock.now())
        if held != data:
            raise IntegrityError(f'object "{name}" in "{self.location}" already holds other bytes')

    def put_file(self, name: str, path: Path, *, size: int, sha256: str) -> None:
        """Make a file's bytes readable under `name`."""
        data = path.read_bytes()
        if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
            raise IntegrityError(f'could not store "{name}": "{path}" is not what its digest says')
        self.put(name, data)

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; those that are not there are no error."""
        with self._lock:
            for name in names:
                self._objects.pop(require_name(name), None)
                self._stored_at.pop(name, None)

    def probe(self) -> StoreTraits:
        """Report that objects are never replaced."""
        return StoreTraits(create_only=True)
