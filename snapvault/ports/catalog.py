# SPDX-License-Identifier: Apache-2.0
"""The catalog: the local index of a vault. It can be lost: the bucket has it all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CatalogRow:
    """One manifest whose signature was proven, as the vault holds it.

    `name` is the object's name, `size` and `sha256` (lower-case hex) are of the stored
    object, `content` is the JSON it says, `signer` the fingerprint that signed it.
    `missing` is set once the vault no longer shows an object that it used to hold.
    """

    name: str
    source: str
    point: str
    taken_at: str
    size: int
    sha256: str
    signer: str
    content: bytes
    missing: bool = False


class Catalog(Protocol):
    """Rows by object name. Safe to open from several processes; each call is atomic and durable."""

    def rows(self, source: str | None = None) -> list[CatalogRow]:
        """Return the rows (of one source, or all), ordered by `taken_at`, then `name`."""
        ...

    def add(self, rows: Sequence[CatalogRow]) -> None:
        """Insert or replace rows by name, all or none."""
        ...

    def mark_missing(self, names: Sequence[str], *, missing: bool) -> None:
        """Set or clear the `missing` mark; names it does not know are ignored."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...

    def close(self) -> None:
        """Close it; no call may follow."""
        ...
