# SPDX-License-Identifier: Apache-2.0
"""What is kept of a console, and what is read out of it."""

import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapvault.adapters.machines import troubles
from snapvault.adapters.machines.console import KEPT, Console, readable


class Machine:
    """A console, and the end that a machine writes to."""

    def __init__(self, folder: Path) -> None:
        self._changed = threading.Condition()
        self.console = Console(folder / "console", self._notify)
        self.end = socket.socket(socket.AF_UNIX)
        self.end.connect(str(folder / "console"))

    def writes(self, data: bytes) -> None:
        """Write, and wait until the console has it."""
        wanted = self.console.total + len(data)
        self.end.sendall(data)
        with self._changed:
            assert self._changed.wait_for(lambda: self.console.total >= wanted, timeout=60)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


@pytest.fixture
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="svc-", dir="/tmp") as folder:
        made = Machine(Path(folder))
        yield made
        made.console.close()
        made.end.close()


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"login: \r\n\r\n# ", "login:\n#"),
        (b"\x1b[2J\x1b[01;01HBdsDxe: loading\x1b[0m\x1b[37m\r\n", "BdsDxe: loading"),
        (b"\x1b[1;1Hone\x1b[2;1Htwo", "one\ntwo"),
        (b"to\x1b[04;10H\x1b[04;11H GRUB!\x1b[04;16H\r\n", "to GRUB!"),
        (b"\r\n\x1b[0mG\r\x1b[06;02HRUB waits", "GRUB waits"),
        (b"\x1b]0;title\x07text\x1b(B", "text(B"),
        (b"50 %\r100 %\r\n", "50 %\n100 %"),
        (b"bad \xff byte\x00\x07", "bad \ufffd byte"),
    ],
)
def test_a_console_is_read_as_a_terminal_shows_it(raw: bytes, shown: str) -> None:
    assert readable(raw) == shown


def test_only_the_end_of_a_long_console_is_kept(machine: Machine) -> None:
    machine.writes(b"first line\n" + b"x" * 99 + b"\n")
    for _ in range(11):
        machine.writes((b"y" * 99 + b"\n") * 1000)
    machine.writes(b"last line\n")

    text = machine.console.text()

    assert KEPT - 200 < len(text) <= KEPT
    assert "first line" not in text
    assert machine.console.last_line() == "last line"


def test_lines_are_found_that_came_in_pieces(machine: Machine) -> None:
    machine.writes(b"web01 lo")
    before = machine.console.total
    machine.writes(b"gin: ")

    assert "web01 login:" in machine.console.lines_since(before)


def test_what_is_typed_reaches_the_machine_and_followers_see_all(machine: Machine) -> None:
    seen: list[bytes] = []

    machine.writes(b"before ")
    machine.console.follow(seen.append)
    machine.writes(b"after")
    machine.console.leave(seen.append)
    machine.writes(b"unseen")
    machine.console.send(b"root\n")

    assert machine.end.recv(100) == b"root\n"
    assert b"".join(seen) == b"before after"


def test_typing_does_not_wait_for_a_machine_that_takes_nothing(machine: Machine) -> None:
    machine.writes(b"login: ")
    typing = threading.Thread(target=lambda: machine.console.send(b"x" * (8 << 20)), daemon=True)

    typing.start()
    typing.join(60)

    assert not typing.is_alive()


def test_only_the_end_of_an_endless_line_is_looked_at(machine: Machine) -> None:
    machine.writes(b"ALERT!" * 20_000 + b" login: ")

    (line,) = machine.console.lines_since(0)

    assert len(line) <= 4096
    assert line.endswith("login:")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("[    1.2] Kernel panic - not syncing: Attempted to kill init!", "panicked"),
        ("Kernel panic - not syncing: System is deadlocked on memory", "has too little memory"),
        (
            "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
            "panicked: it did not find its disk",
        ),
        ("No bootable device.", "found nothing to start"),
        ("BdsDxe: No bootable option or device was found.", "found nothing to start"),
        ("Operating system not found", "found nothing to start"),
        ("Shell> ", "found nothing to start, and is in the shell of its firmware"),
        ("grub rescue> ", "stopped in its boot loader"),
        ("(initramfs) ", "did not find the disk with its system"),
        ("You are in emergency mode. After logging in, type", "started in emergency mode"),
    ],
)
def test_a_trouble_is_told_as_what_it_is(line: str, what: str) -> None:
    found = troubles.find(["GRUB loading...", line, "more"])

    assert found is not None
    assert (found.what, found.line) == (what, line.strip())


def test_an_ordinary_start_is_no_trouble() -> None:
    lines = ["GNU GRUB version 2.06", "Loading Linux 6.1 ...", "[  OK  ] Started rescue.service - "]

    assert troubles.find([*lines, "Welcome! The Shell> of choice", "web01 login:"]) is None
