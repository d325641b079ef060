# SPDX-License-Identifier: Apache-2.0
"""One run at a time for a source: a lock that ends with the process that holds it."""

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from snapvault import clock
from snapvault.errors import LockHeldError, SnapVaultError, refusal_of_state

# LIMIT: a command line can be megabytes long (Linux); the record tells enough in a part.
_COMMAND_CHARACTERS = 500
_READ_BYTES = 16 << 10
_LOCKS = Path("/proc/locks")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock: process id, host, time since when (ISO 8601, UTC), command."""

    pid: int
    host: str
    since: str
    command: str

    @property
    def started(self) -> datetime | None:
        """Since when, as a time; None for what is none."""
        try:
            return clock.from_text(self.since)
        except ValueError:
            return None


class SourceLock:
    """The lock of one source, as a context manager. Not reentrant; one object, one use at a time.

    The kernel keeps it (flock(2)), so that it is free the moment its holder is gone, however
    that came about. The file stays: who removed it could remove one that another run has
    just locked. What it says is for messages; nothing is decided by it.
    """

    def __init__(self, path: Path, *, source: str | None = None) -> None:
        self._path = path
        self._source = path.stem if source is None else source
        self._descriptor: int | None = None
        self._left_by: Holder | None = None

    @property
    def left_by(self) -> Holder | None:
        """The run that held the lock before and ended without giving it back, if one did."""
        return self._left_by

    @property
    def is_in_place(self) -> bool:
        """Whether the file that is locked is still the one that others would lock."""
        try:
            return self._descriptor is not None and os.path.samestat(
                os.fstat(self._descriptor), self._path.stat()
            )
        except OSError:
            return False

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            LockHeldError: another run holds it; the message says which, and since when.
            StateError, ConfigError: the lock file cannot be made or written.
        """
        if self._descriptor is not None:
            raise ValueError(f"lock is held already: {self._path}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Programs that this run starts do not inherit the lock: they may outlive the run.
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            self._take(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lock back."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            # ORDER: the record goes before the lock does; a record that stays marks a dead run.
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def _take(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._held(_read(descriptor)) from error
        except OSError as error:
            raise self._unusable(error) from error
        self._left_by = _read(descriptor)
        command = shlex.join(sys.argv)[:_COMMAND_CHARACTERS]
        holder = Holder(os.getpid(), socket.gethostname(), clock.to_text(clock.now()), command)
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(holder)).encode(), 0)
        except OSError as error:
            # It is held all the same: a full disk only keeps us from saying by whom.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise self._unusable(error) from error

    def _held(self, holder: Holder | None) -> LockHeldError:
        if holder is None:  # it has the lock, and is about to write who it is
            return LockHeldError(
                f'source "{self._source}" is locked by another run',
                hint="Wait until it has ended, then try again.",
            )
        return LockHeldError(
            f'source "{self._source}" is locked by process {holder.pid} on host "{holder.host}"'
            f" since {holder.since}",
            hint=f'Wait until "{holder.command}" has ended, or look at it with '
            f'"ps -fp {holder.pid}".',
        )

    def _unusable(self, error: OSError) -> SnapVaultError:
        reason = (error.strerror or str(error)).lower()
        kind = refusal_of_state(error)
        folder = self._path.parent
        return kind(
            f'could not use lock file "{self._path}": {reason}',
            hint=f'Look for room in "{folder}", and whether it can be written.'
            if kind.retryable
            else f'state_dir must be a folder that this user can write: "{folder}".',
        )


def holder_of(path: Path) -> Holder | None:
    """Return who holds a lock now, without touching it; None if nobody does.

    Whoever tried to take it, were it for a moment, could keep somebody else from it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        holder = _read(descriptor)
        number = os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)
    return holder if holder is not None and _is_held(holder.pid, number) else None


def _is_held(pid: int, number: int) -> bool:
    """Tell whether a process has flock(2)ed the file of that number: proc_locks(5)."""
    try:
        lines = _LOCKS.read_text().splitlines()
    except OSError:
        return Path(f"/proc/{pid}").exists()
    # The device is left out: some file systems show another one here than stat(2) does.
    held = [line.split() for line in lines if "FLOCK" in line and "->" not in line]
    return any(each[4] == str(pid) and each[5].endswith(f":{number}") for each in held)


def _read(descriptor: int) -> Holder | None:
    """Return what a lock file says; None if it says nothing that makes sense."""
    try:
        record = json.loads(os.pread(descriptor, _READ_BYTES, 0))
        return Holder(
            int(record["pid"]), str(record["host"]), str(record["since"]), str(record["command"])
        )
    except (ValueError, TypeError, KeyError, OSError):
        return None
