# SPDX-License-Identifier: Apache-2.0
"""The catalog in an SQLite file: ports/catalog.py.

Everything in it can be read from the bucket again, so a file that cannot be trusted is set
aside, and an empty one takes its place.
"""

import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from snapvault.adapters.database import DatabaseFile, Layout, UntrustedError
from snapvault.errors import LockHeldError
from snapvault.ports.catalog import CatalogRow

COLUMNS: Final = "name, source, point, taken_at, size, sha256, signer, content, missing, digest"

_LAYOUT: Final = Layout(
    what="catalog",
    application_id=0x53564C54,  # "SVLT", in the header of every catalog file
    version=1,
    schema="""
    CREATE TABLE manifest (
        name TEXT PRIMARY KEY,
        source TEXT NOT NULL,
        point TEXT NOT NULL,
        taken_at TEXT NOT NULL,
        size INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        signer TEXT NOT NULL,
        content BLOB NOT NULL,
        missing INTEGER NOT NULL,
        digest BLOB NOT NULL
    );
    CREATE INDEX manifest_by_time ON manifest (source, taken_at, name);
    """,
    probes=(f"SELECT {COLUMNS} FROM manifest LIMIT 1",),  # noqa: S608 - only constants
    busy_seconds=30.0,
    busy_error=LockHeldError,
)


class SqliteCatalog:
    """A catalog file, made when it is missing. Safe from several threads too."""

    def __init__(self, path: Path) -> None:
        """Open the catalog.

        Raises:
            StateError, ConfigError: the state folder is full, or cannot be written.
            LockHeldError: another process keeps the catalog busy.
        """
        self._file = DatabaseFile(path, _LAYOUT)

    @property
    def was_reset(self) -> bool:
        """Whether an untrusted file was set aside since this object was made.

        The catalog was empty then; whoever opened it fills it from the bucket.
        """
        return self._file.reset_reason is not None

    @property
    def reset_reason(self) -> str | None:
        """What was wrong with the file that was set aside; None if none was."""
        return self._file.reset_reason

    def rows(self, source: str | None = None) -> list[CatalogRow]:
        """Return the rows, oldest first."""
        where, values = ("", ()) if source is None else ("WHERE source = ?", (source,))
        query = f"SELECT {COLUMNS} FROM manifest {where} ORDER BY taken_at, name"  # noqa: S608 -- only constants

        def read(database: sqlite3.Connection) -> list[CatalogRow]:
            return [read_row(columns) for columns in database.execute(query, values)]

        return self._file.read(read)

    def add(self, rows: Sequence[CatalogRow]) -> None:
        """Insert or replace rows."""
        marks = ", ".join("?" * 10)
        statement = f"INSERT OR REPLACE INTO manifest ({COLUMNS}) VALUES ({marks})"  # noqa: S608 -- only constants
        self._write(statement, [_values(row) for row in rows])

    def mark_missing(self, names: Sequence[str], *, missing: bool) -> None:
        """Set or clear the mark."""
        statement = "UPDATE manifest SET missing = ? WHERE name = ?"
        self._write(statement, [(int(missing), name) for name in names])

    def clear(self) -> None:
        """Forget every row."""
        self._write("DELETE FROM manifest", [()])

    def close(self) -> None:
        """Close the file. Safe to repeat."""
        self._file.close()

    def _write(self, statement: str, values: Sequence[tuple[object, ...]]) -> None:
        def write(database: sqlite3.Connection) -> None:
            database.executemany(statement, values)

        self._file.write(write)


def _values(row: CatalogRow) -> tuple[object, ...]:
    content = (row.name, row.source, row.point, row.taken_at, row.size, row.sha256, row.signer)
    return (*content, row.content, int(row.missing), _digest(row))


def read_row(columns: tuple[Any, ...]) -> CatalogRow:
    """Return a row as it was added.

    Raises:
        UntrustedError: it is not as it was added.
    """
    *content, missing, digest = columns
    row = CatalogRow(*(*content, bool(missing)))
    if _digest(row) != digest:
        raise UntrustedError(f'row "{row.name}" has changed')
    return row


def _digest(row: CatalogRow) -> bytes:
    # SQLite notices damage to its own structure, not to what it holds.
    text = (row.name, row.source, row.point, row.taken_at, row.size, row.sha256, row.signer)
    return hashlib.blake2b(repr((text, row.content)).encode(), digest_size=16).digest()
