# SPDX-License-Identifier: Apache-2.0
"""This terminal as the serial console of a machine."""

import os
import select
import sys
import termios
import threading
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from snapvault.adapters.machines.running import QemuMachine

LEAVE: Final = b"\x1d"
"""The key that leaves: Ctrl-]."""

_PIECE = 1 << 12
_WAITING = 1 << 20  # bytes that are to be shown, at the most
_CLOSING = 1.0  # seconds for whoever reads to take the rest


@contextmanager
def attached(machine: "QemuMachine", left: Callable[[], None]) -> Iterator[None]:
    """Show the console on stdout, and type what comes on stdin, until the context or LEAVE.

    `left` is called when somebody typed LEAVE; the terminal is as it was then. The end of stdin
    ends the typing alone.
    """
    stdin = sys.stdin.fileno()
    before = _raw(stdin)
    wake, waker = os.pipe()
    screen = _Screen(sys.stdout.fileno())

    def leave() -> None:
        machine.leave_console(screen.show)
        screen.close(ends_line=before is not None)
        _restore(stdin, before)

    def type_on() -> None:
        while wake not in select.select([stdin, wake], [], [])[0]:
            data = os.read(stdin, _PIECE)
            typed, key, _ = data.partition(LEAVE)
            machine.type(typed)
            if key:
                leave()
                left()
            if key or not data:
                return

    thread = threading.Thread(target=type_on, name="terminal", daemon=True)
    sys.stdout.flush()
    machine.follow_console(screen.show)
    thread.start()
    try:
        yield
    finally:
        os.write(waker, b".")
        thread.join()
        leave()
        os.close(wake)
        os.close(waker)


class _Screen:
    """Writes to a descriptor on a thread of its own: the machine never waits for who reads.

    Who falls far behind misses what is oldest.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pieces: deque[bytes] = deque()
        self._waiting = 0  # bytes of them
        self._last = b"\n"
        self._is_over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write, name="screen", daemon=True)
        self._thread.start()

    def show(self, data: bytes) -> None:
        """Have something written, soon."""
        with self._changed:
            self._pieces.append(data)
            self._last = data[-1:] or self._last
            self._waiting += len(data)
            while self._waiting > _WAITING and len(self._pieces) > 1:
                self._waiting -= len(self._pieces.popleft())
            self._changed.notify()

    def close(self, *, ends_line: bool) -> None:
        """Write the rest, if it is taken within a moment; safe to repeat.

        With `ends_line` what is written by others after that begins on a line of its own.
        """
        if ends_line and self._last != b"\n":
            self.show(b"\n")
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join(_CLOSING)

    def _write(self) -> None:
        # Who does not listen any more, hears nothing more.
        with suppress(OSError):
            while (data := self._next()) is not None:
                while data:
                    data = data[os.write(self._descriptor, data) :]

    def _next(self) -> bytes | None:
        with self._changed:
            while not self._pieces and not self._is_over:
                self._changed.wait()
            if not self._pieces:
                return None
            data = self._pieces.popleft()
            self._waiting -= len(data)
            return data


def _raw(stdin: int) -> list[Any] | None:
    """Have every key go to the machine; None: it is no terminal."""
    if not os.isatty(stdin):
        return None
    before = termios.tcgetattr(stdin)
    tty.setraw(stdin)
    # Our own messages still begin at the left.
    now = termios.tcgetattr(stdin)
    now[1] |= termios.OPOST | termios.ONLCR
    termios.tcsetattr(stdin, termios.TCSADRAIN, now)
    return before


def _restore(stdin: int, before: list[Any] | None) -> None:
    if before is not None:
        # Not when all was shown: a terminal that was stopped (Ctrl-S) would keep us here.
        termios.tcsetattr(stdin, termios.TCSANOW, before)
