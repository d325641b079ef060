# SPDX-License-Identifier: Apache-2.0
"""What the servers of databases have in common in tests: their lives, and who writes to them."""

import shutil
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

_READY_SECONDS = 120.0


class DatabaseServer(ABC):
    """A real server with a folder of its own, stopped by its own pid; a context manager."""

    name: ClassVar[str]
    stops_at: ClassVar[signal.Signals]  # in order, ending all sessions
    dies_at: ClassVar[signal.Signals]  # at once, with its sessions, leaving nothing in order

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    @abstractmethod
    def client(self) -> list[str]:
        """Return the command line of a client that may do everything, and reads from stdin."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """Return the command line of the server."""

    @abstractmethod
    def _sockets(self) -> Sequence[Path]:
        """Return the server's sockets, as far as they are there."""

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server wrote into its log."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _READY_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"{self.name} did not start:\n{self.log[-3000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Shut it down in order; safe to repeat."""
        self._end(self.stops_at)

    def kill(self) -> None:
        """Let it die at once; safe to repeat."""
        self._end(self.dies_at)

    def remove(self) -> None:
        """End it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        if not self._sockets():
            return False
        asked = subprocess.run(self.client(), input=b"SELECT 1", capture_output=True, check=False)
        return asked.returncode == 0

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None


class LedgerClient:
    """A client that goes on writing: each transaction touches two tables that must agree.

    Every transaction adds a row to `ledger` and moves an amount between two of `accounts`, whose
    sum stays the same. `done` counts those that the server has confirmed.
    """

    def __init__(self, client: Sequence[str], begin: str) -> None:
        self._process = subprocess.Popen(client, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._begin = begin.encode()
        self._stop = threading.Event()
        self._moved = threading.Condition()
        self.done = 0
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_for(1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._process.communicate()

    def wait_for(self, more: int) -> None:
        """Wait until so many more transactions are done."""
        with self._moved:
            target = self.done + more
            assert self._moved.wait_for(lambda: self.done >= target, 60)

    def _write(self) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        number = 0
        while not self._stop.wait(0.001):
            number += 1
            stdin.write(
                self._begin + b"INSERT INTO ledger VALUES (%d, 'moved');"
                b"UPDATE accounts SET amount = amount - 1 WHERE id = %d;"
                b"UPDATE accounts SET amount = amount + 1 WHERE id = %d;"
                b"COMMIT; SELECT %d;\n" % (number, number % 50 + 1, number * 7 % 50 + 1, number)
            )
            stdin.flush()
            if not stdout.readline():
                return
            with self._moved:
                self.done = number
                self._moved.notify_all()


@contextmanager
def locked_by(client: Sequence[str], lock: str) -> Iterator[None]:
    """Hold what these statements lock, as somebody's forgotten session does."""
    with subprocess.Popen(client, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{lock}; SELECT 'locked';\n".encode())
        process.stdin.flush()
        assert process.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            process.stdin.close()
            process.wait()
