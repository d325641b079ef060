# SPDX-License-Identifier: Apache-2.0
"""The catalog in an SQLite file: ports/catalog.py.

Everything in it can be read from the bucket again, so a file that cannot be trusted is set
aside, and an empty one takes its place.
"""

import fcntl
import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from snapvault.errors import ConfigError, LockHeldError, SnapVaultError
from snapvault.ports.catalog import CatalogRow

_APPLICATION_ID = 0x53564C54  # "SVLT", in the header of every catalog file
_VERSION = 1
_BUSY_SECONDS = 30.0
# A full check reads the whole file; a larger one shows its damage when it is read.
_CHECKED_BYTES = 16 << 20

_SCHEMA = f"""
BEGIN IMMEDIATE;
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
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION};
COMMIT;
"""
_COLUMNS = "name, source, point, taken_at, size, sha256, signer, content, missing, digest"

# SQLite's primary result codes, and one extended code: https://www.sqlite.org/rescode.html
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
_SHORT_READ = sqlite3.SQLITE_IOERR_SHORT_READ
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}

_MISTAKES = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError)

_Result = TypeVar("_Result")


class _Untrusted(Exception):  # noqa: N818 -- it never leaves this module
    """The file is not a catalog that this release can use."""


class SqliteCatalog:
    """A catalog file, made when it is missing. Safe from several threads too."""

    def __init__(self, path: Path) -> None:
        """Open the catalog.

        Raises:
            ConfigError: the state directory cannot be written, or is full.
            LockHeldError: another process keeps the catalog busy.
        """
        self._path = path
        self._lock = threading.Lock()
        self._reset_reason: str | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(path, error.strerror or str(error)) from error
        self._inode = -1
        self._database = self._open()

    @property
    def was_reset(self) -> bool:
        """Whether an untrusted file was set aside since this object was made.

        The catalog was empty then; whoever opened it fills it from the bucket.
        """
        return self._reset_reason is not None

    @property
    def reset_reason(self) -> str | None:
        """What was wrong with the file that was set aside; None if none was."""
        return self._reset_reason

    def rows(self, source: str | None = None) -> list[CatalogRow]:
        """Return the rows, oldest first."""
        where, values = ("", ()) if source is None else ("WHERE source = ?", (source,))
        query = f"SELECT {_COLUMNS} FROM manifest {where} ORDER BY taken_at, name"  # noqa: S608 -- only constants

        def read(database: sqlite3.Connection) -> list[CatalogRow]:
            return [_row(columns) for columns in database.execute(query, values)]

        return self._run(read)

    def add(self, rows: Sequence[CatalogRow]) -> None:
        """Insert or replace rows."""
        marks = ", ".join("?" * 10)
        statement = f"INSERT OR REPLACE INTO manifest ({_COLUMNS}) VALUES ({marks})"  # noqa: S608 -- only constants
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
        with self._lock:
            self._database.close()

    def _write(self, statement: str, values: Sequence[tuple[object, ...]]) -> None:
        def write(database: sqlite3.Connection) -> None:
            with _transaction(database):
                database.executemany(statement, values)

        self._run(write)

    def _run(self, action: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Run an action; when it meets damage, run it once more on an empty catalog."""
        with self._lock:
            try:
                return action(self._database)
            except _MISTAKES:
                raise  # the caller's, not the file's
            except _Untrusted as error:
                reason = str(error)
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise _translated(self._path, error) from error
                reason = str(error)
            self._database.close()
            self._database = self._open(damaged=reason)
            try:
                return action(self._database)
            except (_Untrusted, sqlite3.Error) as error:
                raise _translated(self._path, error) from error

    def _open(self, *, damaged: str | None = None) -> sqlite3.Connection:
        """Open the file, or a new one in its place; `damaged` says why the present one must go."""
        # SAFETY: two processes may find the same damage. The lock on the folder, taken before
        # the file is looked at, keeps the second from setting aside what the first has made.
        with _alone_in(self._path.parent):
            try:
                if damaged is not None:
                    self._reset_reason = damaged
                    if _inode(self._path) == self._inode:
                        _set_aside(self._path)
                database = self._connect_or_replace()
                self._inode = _inode(self._path)
            except OSError as error:
                raise _unusable(self._path, error.strerror or str(error)) from error
            except (_Untrusted, sqlite3.Error) as error:
                raise _translated(self._path, error) from error
            return database

    def _connect_or_replace(self) -> sqlite3.Connection:
        try:
            return _connect(self._path)
        except _Untrusted as error:
            self._reset_reason = str(error)
            _set_aside(self._path)
            return _connect(self._path)


def _connect(path: Path) -> sqlite3.Connection:
    """Open a catalog file, or make one.

    Raises:
        _Untrusted: it is damaged, foreign or of another version.
        sqlite3.Error: it cannot be opened or written.
    """
    database = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        _prepare(database, path)
    except BaseException as error:
        database.close()
        if isinstance(error, sqlite3.Error) and _is_damage(error):
            raise _Untrusted(str(error)) from error
        raise
    return database


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    if not _value(database, "SELECT count(*) FROM sqlite_schema"):
        if _value(database, "PRAGMA user_version"):
            raise _Untrusted("no catalog: it has a version, but no tables")
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(_SCHEMA)
    if _value(database, "PRAGMA application_id") != _APPLICATION_ID:
        raise _Untrusted("no catalog: it belongs to another program")
    if (version := _value(database, "PRAGMA user_version")) != _VERSION:
        raise _Untrusted(f"version {version}, where this release uses {_VERSION}")
    if path.stat().st_size <= _CHECKED_BYTES:
        verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise _Untrusted(str(verdict).splitlines()[-1])
    database.execute(f"SELECT {_COLUMNS} FROM manifest LIMIT 1")  # noqa: S608 -- only constants
    # A commit reaches the disk before the call returns, not only the operating system.
    database.execute("PRAGMA synchronous = FULL")


def _value(database: sqlite3.Connection, query: str) -> int:
    return int(database.execute(query).fetchone()[0])


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder, which leaves no file behind and ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _set_aside(path: Path) -> None:
    """Rename the file to `NAME.damaged-<n>`, the only one of its kind that is kept."""
    prefix = f"{path.name}.damaged-"
    earlier = [other for other in path.parent.iterdir() if other.name.startswith(prefix)]
    tails = [other.name.removeprefix(prefix) for other in earlier]
    last = max((int(tail) for tail in tails if tail.isdecimal()), default=0)
    # ORDER: the log of changes goes before the file it belongs to: it must never meet the new one.
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.rename(path.with_name(f"{prefix}{last + 1}"))
    for other in earlier:
        other.unlink(missing_ok=True)


def _inode(path: Path) -> int:
    return path.stat().st_ino


def _values(row: CatalogRow) -> tuple[object, ...]:
    content = (row.name, row.source, row.point, row.taken_at, row.size, row.sha256, row.signer)
    return (*content, row.content, int(row.missing), _digest(row))


def _row(columns: tuple[Any, ...]) -> CatalogRow:
    """Return a row as it was added.

    Raises:
        _Untrusted: it is not as it was added.
    """
    *content, missing, digest = columns
    row = CatalogRow(*(*content, bool(missing)))
    if _digest(row) != digest:
        raise _Untrusted(f'row "{row.name}" has changed')
    return row


def _digest(row: CatalogRow) -> bytes:
    # SQLite notices damage to its own structure, not to what it holds.
    text = (row.name, row.source, row.point, row.taken_at, row.size, row.sha256, row.signer)
    return hashlib.blake2b(repr((text, row.content)).encode(), digest_size=16).digest()


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF in _DAMAGED or code == _SHORT_READ)


def _translated(path: Path, error: Exception) -> SnapVaultError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _BUSY:
        return LockHeldError(
            f'catalog "{path}" is busy: another process has kept it for {_BUSY_SECONDS:.0f} s'
        )
    if code in _FULL:
        return _unusable(path, str(error), hint=f'Look for room in "{path.parent}".')
    return _unusable(path, str(error))


def _unusable(path: Path, reason: str, *, hint: str | None = None) -> ConfigError:
    return ConfigError(
        f'could not use catalog "{path}": {reason.lower()}',
        hint=hint or f'state_dir must be a folder that this user can write: "{path.parent}".',
    )
