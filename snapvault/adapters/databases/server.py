# SPDX-License-Identifier: Apache-2.0
"""A server of our own: started, waited for, and gone with us."""

import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from snapvault import clock
from snapvault.adapters.guard import guard
from snapvault.adapters.spawning import spawn
from snapvault.errors import DrillError, SourceError

_SAID: Final = 16 << 10  # bytes kept of what a server says
_END_SECONDS: Final = 60.0
_DYING_SECONDS: Final = 0.5  # from a client's last word until its server is gone
# What is left of a server that is about to end may still write.
_REMOVE: Final = 'n=0; until rm -rf -- "$1" || [ $n -gt 100 ]; do n=$((n+1)); sleep 0.1; done'


class ServerProcess:
    """A running server. `said` is the end of what it wrote."""

    def __init__(self, argv: Sequence[str]) -> None:
        """Start it.

        Raises:
            SourceError: it cannot be started.
        """
        self._process = spawn(argv, {}, Path("/"), is_merged=True)
        self._changed = threading.Condition()
        self.said = b""
        self._has_ended = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def wait_for(self, words: bytes, seconds: float) -> bool:
        """Wait until it says something; false: it ended, or time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or words in self.said, seconds)
            return words in self.said and not self._has_ended

    def has_ended(self, within: float) -> bool:
        """Tell whether it ends within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._has_ended, within)

    def end(self, number: signal.Signals) -> None:
        """End it by a signal, or by force where that does not help. Safe to repeat."""
        # All processes of a server hold the pipe that the thread reads.
        self._process.send_signal(number)
        self._thread.join(_END_SECONDS)
        if self._thread.is_alive():
            self._process.kill()
            self._thread.join(_END_SECONDS)
        self._process.wait()

    def _listen(self) -> None:
        stdout = self._process.stdout
        if stdout is None:
            raise ValueError("a server has a pipe as its stdout")
        with stdout:
            while piece := stdout.read(_SAID):
                with self._changed:
                    self.said = (self.said + piece)[-_SAID:]
                    self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()


class Scratch:
    """What a scratch server has of this host: a folder, and a process in it.

    It may be closed from another thread.
    """

    def __init__(self, folder: Path, ends_by: signal.Signals) -> None:
        """Take a private folder, which is gone when we are.

        Raises:
            DrillError: nobody can be found to see to that.
        """
        self._folder = folder
        self._ends_by = ends_by
        self._process: ServerProcess | None = None
        self._lock = threading.Lock()
        self._is_closed = False
        self._guard = guard(["sh", "-c", _REMOVE, "sh", str(folder)])
        try:
            self._guard.__enter__()
        except SourceError as error:
            raise DrillError(str(error), hint=error.hint) from error

    def start(
        self, argv: Sequence[str], ready: bytes, seconds: float, why: Callable[[bytes], str]
    ) -> None:
        """Start the server, or start it again, and wait until it says that it is ready.

        `why` finds in what it said why it ended.

        Raises:
            DrillError: it does not start.
        """
        started = clock.monotonic()
        with self._lock:
            if self._is_closed:
                raise DrillError("the scratch server was ended")
            try:
                self._process = process = ServerProcess(argv)
            except SourceError as error:
                raise DrillError(str(error), hint=error.hint) from error
        if process.wait_for(ready, seconds):
            return
        is_late = clock.monotonic() - started >= seconds
        self.stop(self._ends_by)
        told = f"it was not ready after {seconds:.0f} s" if is_late else why(process.said)
        raise DrillError(f"could not start a scratch server: {told}")

    def stop(self, number: signal.Signals) -> None:
        """End the server if it runs."""
        with self._lock:
            self._end(number)

    def death(self, why: Callable[[bytes], str]) -> DrillError | None:
        """Return the error for a server that has ended by itself; None: it runs, or we ended it."""
        process = self._process
        if process is None or not process.has_ended(_DYING_SECONDS):
            return None
        return DrillError(f"the scratch server ended: {why(process.said)}")

    def close(self) -> None:
        """End the server, and remove the folder. Repeatable.

        Raises:
            DrillError: something of the folder is left.
        """
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            try:
                self._end(self._ends_by)
                shutil.rmtree(self._folder, ignore_errors=True)
            finally:
                self._guard.__exit__(None, None, None)
        if self._folder.exists():
            raise DrillError(f'could not remove folder "{self._folder}" of a scratch server')

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end(number)


@contextmanager
def closed_on_failure(scratch: Scratch) -> Iterator[None]:
    """Leave nothing of a server that fails to start."""
    try:
        yield
    except BaseException:
        scratch.close()
        raise
