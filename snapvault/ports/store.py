# SPDX-License-Identifier: Apache-2.0
"""The object store: reading, adding and deleting are three separate rights.

Object names are relative paths of ASCII letters, digits and `._-/` (docs/format.md,
section 2). Every method may be called from several threads at once.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from snapvault.model.streams import Readable as Readable


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as the store lists it: its name and its size in bytes.

    `stored_at` is when it was put, by the store's own clock, `storage_class` how it is kept and
    paid for, as a listing says it; None where nobody knows. They are no part of what an object is.
    """

    name: str
    size: int
    stored_at: datetime | None = field(default=None, compare=False)
    storage_class: str | None = field(default=None, compare=False)


class StoreReader(Protocol):
    """The right to read."""

    @property
    def location(self) -> str:
        """Where the store is, for messages: `s3://bucket/prefix` or `file:///path`."""
        ...

    def stat(self, name: str) -> StoredObject:
        """Return the object's name and size.

        Raises:
            ObjectMissingError: nothing is stored under `name`.
            StoreMissingError: the bucket or the folder itself is not there.
            StoreDeniedError: the credentials are wrong or lack the right.
            StoreUnavailableError: the store did not answer.
        """
        ...

    def get(self, name: str) -> bytes:
        """Return a whole object, for objects small enough to hold in memory.

        Raises: as `stat`.
        """
        ...

    def get_part(self, name: str, offset: int, size: int) -> bytes:
        """Return exactly `size` bytes of an object, from `offset` on, without reading the rest.

        For parts small enough to hold in memory; `size` is not 0.

        Raises:
            IntegrityError: the object ends before them.
            StoreError: this store gives objects only as a whole.
            As `stat`.
        """
        ...

    def open(self, name: str) -> AbstractContextManager[Readable]:
        """Open an object to be read once, in order, without holding it in memory.

        A transfer that is cut is resumed where it stopped. Fewer bytes than the
        object has are never passed off as all of them.

        Raises: as `stat`; also from `read`.
        """
        ...

    def names(self, prefix: str = "") -> Iterator[StoredObject]:
        """List the objects whose names start with `prefix`, sorted by name; may be empty.

        The listing is complete, or raises: a store that fails in the middle is no
        shorter listing.
        """
        ...


class StoreWriter(Protocol):
    """The right to add. Replacing and deleting are not part of it."""

    def put(self, name: str, data: bytes) -> None:
        """Make `data` readable under `name`, whole or not at all.

        On return the object is durable and `names` shows it. Putting the same
        bytes again is allowed, so that a retry is safe; it is recognized as such
        also when the answer to the first try was lost.

        Raises:
            IntegrityError: `name` already holds other bytes.
            StoreDeniedError: the credentials are wrong or lack the right.
            StoreUnavailableError: the store did not answer.
        """
        ...

    def put_file(self, name: str, path: Path, *, size: int, sha256: str) -> None:
        """Make a file's bytes readable under `name`; the contract of `put`.

        `size` (bytes) and `sha256` (lower-case hex) are of the whole file, which does
        not change meanwhile. The file is not held in memory.
        """
        ...


class StorePruner(Protocol):
    """The right to delete."""

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; those that are not there are no error. Not atomic across names."""
        ...


@dataclass(frozen=True, slots=True)
class StoreTraits:
    """What a probe found out about a store.

    `create_only` is true when the store itself refuses to replace an object; otherwise
    the writer looks before every put, which leaves a race between two writers.
    """

    create_only: bool


class Store(StoreReader, StoreWriter, StorePruner, Protocol):
    """All three rights, and the probe that needs them."""

    def probe(self) -> StoreTraits:
        """Write, re-write and delete a small object under `probe/` and report what happened."""
        ...
