# SPDX-License-Identifier: Apache-2.0
"""Drills, prunes and copies as child processes: what one takes of memory goes with it."""

import pickle
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Generic, TypeVar

from snapvault.adapters.spawning import Process, send_signal, spawn_job
from snapvault.errors import EXIT_BUG
from snapvault.ports.orders import Ended

DRILL_CHILD: Final = (sys.executable, "-m", "snapvault.daemon.drill_child")
COPY_CHILD: Final = (sys.executable, "-m", "snapvault.daemon.copy_child")
PRUNE_CHILD: Final = (sys.executable, "-m", "snapvault.daemon.prune_child")
_KILL_PATIENCE: Final = 10.0  # seconds that the kernel may take to end what was killed


T = TypeVar("T")


class OrderChild(Generic[T]):
    """Starts a program for an order; `Performer` of the port.

    The order goes to its stdin, pickled; its stderr is ours. When our own process dies, it is
    asked to end. `wake` is called from another thread when it has ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        wake: Callable[[], None],
        *,
        variables: Mapping[str, str],
    ) -> None:
        self._wake = wake
        self._variables = variables
        self._command = tuple(command)
        self._order: T | None = None
        self._process: Process | None = None
        self._follower: threading.Thread | None = None

    @property
    def order(self) -> T | None:
        """What is being carried out; None: nothing."""
        return self._order

    def start(self, order: T) -> None:
        """Begin with an order."""
        content = pickle.dumps(order)
        process = spawn_job(self._command, self._variables)
        follower = threading.Thread(target=self._follow, args=(process, content), name="order")
        follower.daemon = True
        self._order, self._process, self._follower = order, process, follower
        follower.start()

    def ended(self) -> Ended[T] | None:
        """Return how the last order ended, once; does not wait."""
        order, process, follower = self._order, self._process, self._follower
        if order is None or process is None or follower is None or follower.is_alive():
            return None
        follower.join()
        self._order = self._process = self._follower = None
        return Ended(order, EXIT_BUG if process.returncode is None else process.returncode)

    def ask_to_end(self) -> None:
        """Ask what is going on to end."""
        if self._process is not None:
            send_signal(self._process, signal.SIGTERM)

    def stop(self, seconds: float) -> None:
        """Ask it to end, and kill it if it has not after so many seconds."""
        if self._process is None or self._follower is None:
            return
        self.ask_to_end()
        self._follower.join(seconds)
        if self._follower.is_alive():
            send_signal(self._process, signal.SIGKILL)
            self._follower.join(_KILL_PATIENCE)

    def _follow(self, process: Process, content: bytes) -> None:
        """Give it its order, and wait for its end; a thread of its own."""
        try:
            with process, suppress(OSError):
                process.communicate(content)
        finally:
            self._wake()
