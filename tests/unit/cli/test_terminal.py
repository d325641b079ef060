# SPDX-License-Identifier: Apache-2.0
"""This terminal as a machine's console: nothing that it does holds up the machine."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import pytest

from snapvault import clock
from snapvault.cli.terminal import LEAVE, attached

DEADLINE = 60.0  # seconds
MIB = 1 << 20


class Machine:
    """Records what is typed; `show` is what its console does with pieces."""

    def __init__(self) -> None:
        self.typed = b""
        self.listeners: list[Callable[[bytes], None]] = []

    def follow_console(self, listener: Callable[[bytes], None]) -> None:
        self.listeners.append(listener)

    def leave_console(self, listener: Callable[[bytes], None]) -> None:
        if listener in self.listeners:
            self.listeners.remove(listener)

    def type(self, data: bytes) -> None:
        self.typed += data

    def show(self, *pieces: bytes) -> None:
        for piece in pieces:
            for listener in self.listeners:
                listener(piece)


class Ends:
    """The far ends of stdin and stdout."""

    def __init__(self, keys: IO[bytes], screen: IO[bytes]) -> None:
        self.keys = keys
        self.screen = screen


@contextmanager
def streams() -> Iterator[Ends]:
    """Replace stdin and stdout: of a test alone, since pytest has its own between its phases."""
    stdin, keys = os.pipe()
    screen, stdout = os.pipe()
    with (
        os.fdopen(stdin, "rb", 0) as near_in,
        os.fdopen(keys, "wb", 0) as far_in,
        os.fdopen(screen, "rb", 0) as far_out,
        os.fdopen(stdout, "wb", 0) as near_out,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        monkeypatch.setattr(sys, "stdin", near_in)
        monkeypatch.setattr(sys, "stdout", near_out)
        yield Ends(far_in, far_out)


def drained(screen: IO[bytes], *, until: bytes) -> bytes:
    """Read until some bytes were shown."""
    data = b""
    while until not in data and (piece := screen.read(MIB)):
        data += piece
    return data


def within_deadline(work: Callable[[], Any]) -> bool:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    return not thread.is_alive()


def test_a_reader_that_stalls_does_not_hold_up_the_machine() -> None:
    machine = Machine()
    pieces = [bytes([number]) * MIB for number in range(4)]

    # What is given has what is used of a machine.
    with streams() as ends, attached(machine, lambda: None):  # type: ignore[arg-type]
        went_on = within_deadline(lambda: machine.show(*pieces))
        # What was shown last is kept, however far behind the reader is.
        reads_on = within_deadline(lambda: drained(ends.screen, until=pieces[3][-1:]))

    assert (went_on, reads_on) == (True, True)


def test_what_was_shown_last_is_there_when_the_console_was_left() -> None:
    machine = Machine()
    left = threading.Event()

    with streams() as ends, attached(machine, left.set):  # type: ignore[arg-type]
        machine.show(b"login: ")
        ends.keys.write(b"root\n" + LEAVE)
        is_left = left.wait(DEADLINE)
        listeners = list(machine.listeners)
        machine.show(b"nobody sees this")
        shown = drained(ends.screen, until=b": ")

    assert is_left
    assert listeners == []
    assert machine.typed == b"root\n"
    assert shown == b"login: "


def test_a_reader_that_is_gone_ends_nothing() -> None:
    machine = Machine()

    with streams() as ends, attached(machine, lambda: None):  # type: ignore[arg-type]
        ends.screen.close()
        machine.show(b"login: ")
        ends.keys.write(b"uptime\n")
        deadline = clock.monotonic() + DEADLINE
        while machine.typed != b"uptime\n" and clock.monotonic() < deadline:
            clock.sleep(0.01)

    assert machine.typed == b"uptime\n"
