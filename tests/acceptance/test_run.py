# SPDX-License-Identifier: Apache-2.0
"""`snapvault run`: machines that start from their backup, in a real QEMU."""

import hashlib
import json
import os
import pty
import random
import re
import select
import signal
import socket
import subprocess
import termios
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from snapvault import clock
from snapvault.adapters.machines.console import readable
from snapvault.adapters.machines.kept import Origin, open_folder
from tests.acceptance.program import Host, image
from tests.support import booting

pytestmark = pytest.mark.integration

MIB = 1 << 20
DEADLINE = 240.0  # seconds, for a machine that is emulated while others work
DATA = random.Random(7).randbytes(300_000)
FILLER = random.Random(1).randbytes(MIB)  # the first file in /srv


class Running:
    """A `snapvault run`, what it says, and the console of its machine."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.lines: list[str] = []
        self.shown = b""
        self._peer = socket.socket(socket.AF_UNIX)
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()
        try:
            self.said = self._read_report()
            self._peer.connect(self.said["console"])
        except BaseException:
            self.close()
            raise
        self._threads.append(threading.Thread(target=self._show))
        self._threads[1].start()

    def type(self, line: str) -> None:
        self._peer.sendall(line.encode() + b"\n")

    def sees(self, pattern: str) -> str:
        """Wait until the console shows something."""
        return self._wait(lambda: re.search(pattern, readable(self.shown)), pattern)

    def says(self, pattern: str) -> str:
        """Wait until the program says something."""
        return self._wait(lambda: re.search(pattern, "".join(self.lines)), pattern)

    def fetched(self) -> int:
        return len([line for line in self.lines if "volume.fetched" in line])

    def ends(self) -> int:
        """Wait for the program's end; return its status."""
        status = self.process.wait(DEADLINE)
        for thread in self._threads:
            thread.join(DEADLINE)
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        with suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE)
        self._peer.close()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()
        assert not any("Traceback" in line for line in self.lines), self.lines

    def _wait(self, look: Any, what: str) -> str:
        deadline = clock.monotonic() + DEADLINE
        while (found := look()) is None:
            assert clock.monotonic() < deadline, (what, self.shown, self.lines)
            assert self.process.poll() is None, (what, self.shown, self.lines)
            clock.sleep(0.05)
        return str(found.group())

    def _read_report(self) -> dict[str, Any]:
        assert self.process.stdout
        text = ""
        while not text.endswith("\n}\n"):
            line = self.process.stdout.readline().decode()
            assert line, (self.process.wait(DEADLINE), "".join(self.lines))
            text += line
        report: dict[str, Any] = json.loads(text)
        return report

    def _listen(self) -> None:
        assert self.process.stderr
        self.lines.extend(line.decode() for line in self.process.stderr)

    def _show(self) -> None:
        with suppress(OSError):
            while data := self._peer.recv(65536):
                self.shown += data


@contextmanager
def running(host: Host, *words: str) -> Iterator[Running]:
    found = Running(host.start("-v", "--json", "run", *words))
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, host_home: Path) -> Path:
    """Make a vault with a machine, `web01`, at two points, and one whose boot loader waits."""
    folder = tmp_path_factory.mktemp("machines")
    disk, waiting = folder / "web01.raw", folder / "waiting.raw"
    booting.bios_disk(disk, data=DATA, filler=48 * MIB)
    booting.bios_disk(waiting, grub="echo GRUB waits here\nsleep 100000\n")
    host = Host(folder / "host", host_home, {"store": f"file://{folder}/vault"}).set_up()
    host.protect({"web01": image(disk), "waiting": image(waiting)}, volume_size="1MiB")
    host.does("init")
    host.does("backup")
    host.does("backup", "waiting")
    return folder


@pytest.fixture
def recovery(world: Path, tmp_path: Path, recovery_home: Path) -> Host:
    """Return a recovery host with the machines' vault."""
    return Host(tmp_path / "recovery", recovery_home, {"store": f"file://{world}/vault"}).set_up()


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def left_in(host: Host) -> list[Path]:
    """What machines left in the state directory."""
    return list(host.state.glob("run-*"))


@contextmanager
def gone(vault: Path) -> Iterator[None]:
    """Let a store be unreachable for a while."""
    away = vault.with_name("away")
    vault.rename(away)
    try:
        yield
    finally:
        away.rename(vault)


# --- a machine --------------------------------------------------------------------------------


def test_a_machine_starts_from_few_volumes_and_waits_while_the_store_is_gone(
    world: Path, recovery: Host
) -> None:
    with running(recovery, "web01") as machine:
        machine.sees("tiny login:")
        needed = machine.fetched()
        pid = machine.said["pid"]
        with gone(world / "vault"):
            machine.type("sha256sum /srv/0")
            machine.says("the machine stands still")
        machine.sees(hashlib.sha256(FILLER).hexdigest())
        machine.type("poweroff -f")
        status = machine.ends()

    assert needed < machine.said["volumes"] * 0.3
    assert f"booted times=1 data={hashlib.sha256(DATA).hexdigest()}" in machine.shown.decode()
    assert status == 0
    assert not is_there(pid)
    assert left_in(recovery) == []


def test_a_kept_machine_goes_on_and_once_all_is_fetched_it_needs_no_vault(
    world: Path, recovery: Host, tmp_path: Path
) -> None:
    keep = tmp_path / "rehearsal"
    words = ("web01", "--keep", str(keep), "--fetch", "--forward", "80", "--memory", "512MiB")

    with running(recovery, *words) as machine:
        address = machine.said["forwards"][0]["address"]
        machine.sees("tiny login:")
        with urllib.request.urlopen(f"http://{address}/data", timeout=DEADLINE) as answer:
            served = answer.read()
        busy = recovery.fails(11, "run", "web01", "--keep", str(keep))
        machine.type("echo upgraded >/var/www && sync && echo is written")
        machine.sees("\nis written")
        machine.says("machine.independent")
        machine.process.send_signal(signal.SIGTERM)
        ended = machine.ends()
    with gone(world / "vault"), running(recovery, "web01", "--keep", str(keep)) as again:
        again.sees("tiny login:")
        again.type("cat /var/www; poweroff -f")
        powered_off = again.ends()

    assert served == DATA
    assert "runs already" in busy
    assert ended == 128 + signal.SIGTERM
    assert not again.said["needs_vault"]
    assert "booted times=2" in again.shown.decode()
    assert "\nupgraded" in again.shown.decode()
    assert powered_off == 0


# --- what is refused, and what is left ----------------------------------------------------------


def test_a_kept_machine_is_not_laid_over_another_restore_point(
    recovery: Host, tmp_path: Path
) -> None:
    keep = tmp_path / "rehearsal"
    older, newer = sorted(
        (each for each in recovery.points() if each["source"] == "waiting"),
        key=lambda each: str(each["taken_at"]),
    )

    with running(recovery, older["id"], "--keep", str(keep)) as machine:
        machine.sees("GRUB waits")
    told = recovery.fails(16, "run", newer["id"], "--keep", str(keep))
    with running(recovery, "waiting", "--keep", str(keep)) as again:
        again.sees("GRUB waits")

    assert "has a machine of another restore point" in told
    assert f"snapvault run {older['id']}" in told
    assert again.said["id"] == older["id"]


def test_a_terminal_is_the_console_until_it_is_left(recovery: Host) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    shown = b""

    def sees(text: str) -> bool:
        nonlocal shown
        deadline = clock.monotonic() + DEADLINE
        while text not in readable(shown) and clock.monotonic() < deadline:
            if select.select([ours], [], [], 1)[0]:
                shown += os.read(ours, 65536)
        return text in readable(shown)

    with subprocess.Popen(
        recovery.command("run", "waiting", "--console"),
        env=recovery.surroundings(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        is_shown = sees("GRUB waits")
        was_raw = not termios.tcgetattr(theirs)[3] & termios.ICANON
        os.write(ours, b"\x1d")
        is_left = sees("left the console; the machine runs on, and Ctrl-C ends it")
        after = termios.tcgetattr(theirs)
        process.send_signal(signal.SIGINT)
        status = process.wait(DEADLINE)
    os.close(theirs)
    os.close(ours)

    assert (is_shown, was_raw, is_left) == (True, True, True), shown
    assert "\nleft the console" in readable(shown)
    assert after == before
    assert status == 128 + signal.SIGINT


def test_a_killed_run_leaves_no_machine_and_the_next_one_cleans_up(recovery: Host) -> None:
    with running(recovery, "waiting") as machine:
        machine.sees("GRUB waits")
        os.kill(machine.process.pid, signal.SIGKILL)
        machine.ends()
        deadline = clock.monotonic() + DEADLINE
        while is_there(machine.said["pid"]) and clock.monotonic() < deadline:
            clock.sleep(0.02)
        is_left = is_there(machine.said["pid"])
    killed = left_in(recovery)
    with running(recovery, "waiting"):
        now = left_in(recovery)

    assert not is_left
    assert len(killed) == 1
    assert len(now) == 1
    assert now != killed


def test_what_cannot_be_run_is_named(
    recovery: Host, world: Path, tmp_path: Path, host_home: Path
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "something").touch()
    host = Host(tmp_path / "host", host_home, {"store": f"file://{world}/vault"}).set_up()
    (point,) = (each for each in recovery.points() if each["source"] == "web01")
    with open_folder(tmp_path / "kept") as kept:
        kept.begin(Origin("offsite", "web01", point["id"], clock.now(), ("image",)))
        kept.overlay("image").write_bytes(b"garbage")
    with open_folder(tmp_path / "begun") as begun:
        begun.begin(Origin("offsite", "web01", point["id"], clock.now(), ("image",)))
    nowhere = Host(
        tmp_path / "recovery", recovery.home, recovery.store, environment={"PATH": str(full)}
    )

    assert "it needs --keep FOLDER" in recovery.fails(2, "run", "web01", "--fetch")
    assert "must be at most 64" in recovery.fails(2, "run", "web01", "--cpus", "9999")
    assert "this host has" in recovery.fails(19, "run", "web01", "--memory", "900TiB")
    assert "holds something else" in recovery.fails(16, "run", "web01", "--keep", str(full))
    assert 'no disk "data"' in recovery.fails(16, "run", "web01", "--stream", "data")
    assert "cannot open the data of vault" in host.fails(12, "run", "web01")
    assert "Remove its folder" in recovery.fails(19, "run", "web01", "--keep", str(kept.folder))
    with gone(world / "vault"):
        unreachable = recovery.fails(10, "run", "web01", "--keep", str(begun.folder))
    assert "still needs the vault" in unreachable
    assert unreachable.count("there is no vault at") == 1
    assert 'program "qemu-system-x86_64" is missing' in nowhere.fails(19, "run", "web01")
    assert left_in(recovery) == []
