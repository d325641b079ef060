# SPDX-License-Identifier: Apache-2.0
"""This terminal as the serial console of a machine."""

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from snapvault.adapters.machines.running import QemuMachine

LEAVE: Final = b"\x1d"
"""The key that leaves: Ctrl-]."""

_PIECE = 1 << 12


@contextmanager
def attached(machine: "QemuMachine", left: Callable[[], None]) -> Iterator[None]:
    """Show the console on stdout, and type what comes on stdin, until the context or LEAVE.

    `left` is called when somebody typed LEAVE; the terminal is as it was then. The end of stdin
    ends the typing alone.
    """
    stdin = sys.stdin.fileno()
    before = _raw(stdin)
    wake, waker = os.pipe()

    def show(data: bytes) -> None:
        with suppress(OSError):
            while data:
                data = data[os.write(sys.stdout.fileno(), data) :]

    def type_on() -> None:
        while wake not in select.select([stdin, wake], [], [])[0]:
            data = os.read(stdin, _PIECE)
            typed, key, _ = data.partition(LEAVE)
            machine.type(typed)
            if key:
                machine.leave_console(show)
                _restore(stdin, before)
                left()
            if key or not data:
                return

    thread = threading.Thread(target=type_on, name="terminal", daemon=True)
    sys.stdout.flush()
    machine.follow_console(show)
    thread.start()
    try:
        yield
    finally:
        os.write(waker, b".")
        thread.join()
        machine.leave_console(show)
        _restore(stdin, before)
        os.close(wake)
        os.close(waker)


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
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
