# SPDX-License-Identifier: Apache-2.0
"""A small SQLite file that can be lost: shared by processes, made anew when it is worth nothing."""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from snapvault.errors import ConfigError, SnapVaultError, StateError, refusal_of_state

# A full check reads the whole file; a larger one shows its damage when it is read.
_CHECKED_BYTES = 16 << 20

# SQLite's primary result codes, and one extended code: https://www.sqlite.org/rescode.html
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
_SHORT_READ = sqlite3.SQLITE_IOERR_SHORT_READ
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}

_MISTAKES = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError)

_Result = TypeVar("_Result")


class UntrustedError(Exception):
    """What the file holds is not what was put into it. An action may raise it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a file must be: `what` names it to people, `probes` are queries that must be possible.

    `schema` are statements that make the tables. `additions` are tables that the first files of
    this version did not have, each with the statements that make it and what belongs to it.
    Another process may keep the file for `busy_seconds`; then the error is a `busy_error`.
    """

    what: str
    application_id: int
    version: int
    schema: str
    probes: tuple[str, ...]
    additions: Mapping[str, str] = field(default_factory=dict)
    busy_seconds: float = 10.0
    busy_error: type[SnapVaultError] = StateError


class DatabaseFile:
    """An SQLite file of one layout, private to its user. Safe from several threads.

    One that is damaged, foreign or of another version is set aside, and an empty one takes its
    place; so does one for a file that was removed meanwhile.
    """

    def __init__(self, path: Path, layout: Layout, *, must_open: bool = True) -> None:
        """Open the file, or make it and its folder.

        Raises:
            StateError, ConfigError: it cannot be used, and it `must_open`; otherwise each call
            tries again.
            The layout's `busy_error`: another process keeps it.
        """
        self._path = path
        self._layout = layout
        self._lock = threading.Lock()
        self._reset_reason: str | None = None
        self._inode: int | None = None
        self._resets = 0
        self._database: sqlite3.Connection | None = None
        with suppress(*() if must_open else (SnapVaultError,)):
            self._database = self._open()

    @property
    def reset_reason(self) -> str | None:
        """What was wrong with a file that was replaced since this object was made; or None."""
        return self._reset_reason

    @property
    def resets(self) -> int:
        """How often this object has found itself with an empty file for one that had content."""
        return self._resets

    def read(self, action: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Run an action; when it meets damage, run it once more on an empty file.

        Raises:
            StateError, ConfigError, or the layout's `busy_error`: the file cannot be used.
        """
        with self._lock:
            if self._database is not None and _inode(self._path) != self._inode:
                self._database = self._reopen("it was removed or replaced")
            elif self._database is None:
                self._database = self._open()
            try:
                return action(self._database)
            except _MISTAKES:
                raise  # the caller's, not the file's
            except UntrustedError as error:
                reason = str(error)
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise self._translated(error) from error
                reason = str(error)
            self._database = self._reopen(reason)
            try:
                return action(self._database)
            except (UntrustedError, sqlite3.Error) as error:
                raise self._translated(error) from error

    def write(self, action: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Run an action in a transaction: all of it is done and durable, or nothing; as `read`."""

        def act(database: sqlite3.Connection) -> _Result:
            with _transaction(database):
                return action(database)

        return self.read(act)

    def close(self) -> None:
        """Close the file. Safe to repeat."""
        with self._lock:
            if self._database is not None:
                self._database.close()

    def _reopen(self, reason: str) -> sqlite3.Connection:
        self._reset_reason = reason
        self._resets += 1
        # Where nothing can be opened now, the next call tries again.
        database, self._database = self._database, None
        if database is not None:
            database.close()
        return self._open(is_damaged=True)

    def _open(self, *, is_damaged: bool = False) -> sqlite3.Connection:
        """Open the file, or a new one in its place if the present one must go."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SAFETY: two processes may find the same damage. The lock on the folder, taken before
            # the file is looked at, keeps the second from setting aside what the first has made.
            with _alone_in(self._path.parent):
                if is_damaged and self._inode is not None and self._inode == _inode(self._path):
                    _set_aside(self._path)
                database = self._connect_or_replace()
                self._inode = _inode(self._path)
        except OSError as error:
            kind = refusal_of_state(error)
            raise self._unusable(kind, error.strerror or str(error)) from error
        except (UntrustedError, sqlite3.Error) as error:
            raise self._translated(error) from error
        return database

    def _connect_or_replace(self) -> sqlite3.Connection:
        try:
            return _connect(self._path, self._layout)
        except UntrustedError as error:
            self._reset_reason = str(error)
            self._resets += 1
            _set_aside(self._path)
            return _connect(self._path, self._layout)

    def _translated(self, error: Exception) -> SnapVaultError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _BUSY:
            return self._layout.busy_error(
                f'could not use {self._layout.what} "{self._path}": '
                f"another process has kept it for {self._layout.busy_seconds:.0f} s",
                hint=f'See which one: fuser -v "{self._path}".',
            )
        return self._unusable(StateError, str(error))

    def _unusable(
        self, kind: type[StateError] | type[ConfigError], reason: str
    ) -> StateError | ConfigError:
        folder = self._path.parent
        return kind(
            f'could not use {self._layout.what} "{self._path}": {reason.lower()}',
            hint=f'Look for room in "{folder}", and whether it can be written.'
            if kind.retryable
            else f'state_dir must be a folder that this user can write: "{folder}".',
        )


def _connect(path: Path, layout: Layout) -> sqlite3.Connection:
    """Open a file, or make one.

    Raises:
        UntrustedError: it is damaged, foreign or of another version.
        sqlite3.Error, OSError: it cannot be opened or written.
    """
    # What SQLite makes beside it has the same rights.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    database = sqlite3.connect(
        path, timeout=layout.busy_seconds, isolation_level=None, check_same_thread=False
    )
    try:
        _prepare(database, path, layout)
    except BaseException as error:
        database.close()
        if isinstance(error, sqlite3.Error) and _is_damage(error):
            raise UntrustedError(str(error)) from error
        raise
    return database


def _prepare(database: sqlite3.Connection, path: Path, layout: Layout) -> None:
    if not _value(database, "SELECT count(*) FROM sqlite_schema"):
        if _value(database, "PRAGMA user_version"):
            raise UntrustedError(f"no {layout.what}: it has a version, but no tables")
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(
            f"BEGIN IMMEDIATE; {layout.schema}"
            f"PRAGMA application_id = {layout.application_id};"
            f"PRAGMA user_version = {layout.version}; COMMIT;"
        )
    if _value(database, "PRAGMA application_id") != layout.application_id:
        raise UntrustedError(f"no {layout.what}: it belongs to another program")
    if (version := _value(database, "PRAGMA user_version")) != layout.version:
        raise UntrustedError(f"version {version}, where this release uses {layout.version}")
    for table, statements in layout.additions.items():
        if not _has(database, table):
            database.executescript(f"BEGIN IMMEDIATE; {statements}; COMMIT;")
    if path.stat().st_size <= _CHECKED_BYTES:
        verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise UntrustedError(str(verdict).splitlines()[-1])
    for probe in layout.probes:
        database.execute(probe).fetchone()
    # A commit reaches the disk before the call returns, not only the operating system.
    database.execute("PRAGMA synchronous = FULL")


def _value(database: sqlite3.Connection, query: str) -> int:
    return int(database.execute(query).fetchone()[0])


def _has(database: sqlite3.Connection, table: str) -> bool:
    query = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?"
    return database.execute(query, (table,)).fetchone() is not None


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


def _inode(path: Path) -> int | None:
    """Return the file's number; None if it is not there."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF in _DAMAGED or code == _SHORT_READ)
