# SPDX-License-Identifier: Apache-2.0
"""The real daemon on a host of the tests, with a clock that the test moves."""

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

from snapvault import clock
from snapvault.adapters.histories.sqlite import SqliteHistory
from tests.acceptance.program import ROOT, Host
from tests.support.moved_clock.moving import MovedClock

PATIENCE = 90.0

# Midnight may pass while tests run: there is one first night for all of them, in the future.
_FIRST_NIGHT = clock.now().replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=2)


def at(night: int, hour: int, minute: int = 0, second: int = 0) -> datetime:
    """Return a time of the night of that number; negative ones are over."""
    return _FIRST_NIGHT + timedelta(days=night, hours=hour, minutes=minute, seconds=second)


@dataclass
class Daemon:
    """`snapvault daemon`, from entering to leaving; its log is a file of JSON lines."""

    host: Host
    clock: MovedClock
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    def __enter__(self) -> Self:
        if self.process is None:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.children():
            with suppress(ProcessLookupError):  # it ends by itself, too
                os.kill(pid, signal.SIGKILL)

    def start(self) -> None:
        """Start it, and wait until it is up and has looked at its clock."""
        begun = len(self.events())
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                self.host.command("--json", "daemon"),
                env=self.host.surroundings(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        self.await_event("daemon.ready", after=begun)
        # What it sees for the first time is due after that: the clock is not to be moved before.
        self.until(self._has_looked, "its first look at its clock")

    def stop(self) -> int:
        """Ask it to end, and return its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def _has_looked(self) -> bool:
        """Tell whether it has left what it goes by, as it does after its first look."""
        path = self.host.state / "history.sqlite"
        if self.process is None or not path.exists():
            return False
        with SqliteHistory(path) as history:
            left = history.following()
        return left is not None and left.pid == self.process.pid

    def kill(self) -> None:
        """Kill it as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE)

    def reload(self) -> None:
        assert self.process is not None
        begun = len(self.events())
        self.process.send_signal(signal.SIGHUP)
        self.await_event("daemon.ready", after=begun)

    def events(self) -> list[dict[str, Any]]:
        """Return what it logged, it and its jobs."""
        if not self.log.exists():
            return []
        # Of a line that is being written only the beginning may be there.
        lines = self.log.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith(b"{")]

    def texts(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def named(self, event: str, *, after: int = 0, **fields: str) -> list[dict[str, Any]]:
        """Return the events of that name with these fields."""
        return [
            each
            for each in self.events()[after:]
            if each["event"] == event and fields.items() <= each.items()
        ]

    def await_event(self, event: str, *, after: int = 0, **fields: str) -> dict[str, Any]:
        self.until(lambda: bool(self.named(event, after=after, **fields)), f"{event} {fields}")
        return self.named(event, after=after, **fields)[0]

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a state that has to come."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"waited for {what}:\n{self.texts()[-4000:]}"
            time.sleep(0.05)

    def night(self, moment: datetime) -> int:
        """Move the clock, and return how many events there were before."""
        before = len(self.events())
        self.clock.move_to(moment)
        return before

    def children(self) -> list[int]:
        """Return the processes of jobs that are at work for this host."""
        found: dict[int, int] = {}
        mark = str(self.clock.file).encode()
        for folder in Path("/proc").iterdir():
            try:
                line = (folder / "cmdline").read_bytes()
                if b"snapvault.daemon.child" in line and mark in (folder / "environ").read_bytes():
                    parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                    found[int(folder.name)] = int(parent)
            except (OSError, ValueError):
                continue
        # A program that a job is starting looks like the job for a moment.
        return [pid for pid, parent in found.items() if parent not in found]

    def get(self, path: str = "/") -> str:
        """Return a page that it serves."""
        address = self.named("status.served")[-1]["address"]
        with urlopen(f"http://{address}{path}", timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    def metric(self, name: str, source: str) -> float | None:
        """Return a source's figure."""
        pattern = rf'^snapvault_source_{name}\{{[^}}]*source="{source}"[^}}]*\}} (\S+)$'
        found = re.search(pattern, self.get("/metrics"), re.MULTILINE)
        return float(found[1]) if found else None

    def shows(self, name: str, source: str, value: float) -> None:
        """Wait until a source's figure is so: what is served may be two seconds old."""
        self.until(lambda: self.metric(name, source) == value, f"{name} of {source} to be {value}")


@contextmanager
def looks(host: Host) -> Iterator[Callable[[], None]]:
    """Yield what waits until a host's daemon has looked at its clock from beginning to end.

    To be entered before the daemon starts, which takes us for its service manager.
    """
    with (
        tempfile.TemporaryDirectory(prefix="svn-", dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(f"{folder}/notify")
        host.environment = {**host.environment, "NOTIFY_SOCKET": f"{folder}/notify"}

        def wait() -> None:
            manager.setblocking(False)
            try:
                while manager.recv(4096):
                    pass
            except BlockingIOError:
                manager.settimeout(PATIENCE)
            # What ends first may have begun before the clock was moved.
            ended = 0
            while ended < 2:
                ended += manager.recv(4096).startswith(b"WATCHDOG=1")

        yield wait


def with_daemon(host: Host, clock: MovedClock, **settings: Any) -> Host:
    """Have a host's programs see the moved clock, and its settings say more.

    Its vaults are pruned when `prune` says; left out: never.
    """
    moved = clock.environment
    host.environment = {
        **host.environment,
        **moved,
        "PYTHONPATH": os.pathsep.join([moved["PYTHONPATH"], str(ROOT)]),
    }
    document = json.loads(host.settings.read_text())
    for vault in document["vaults"].values():
        vault["prune"] = settings.get("prune", "never")
    settings.pop("prune", None)
    document |= {"daemon": {"listen": "127.0.0.1:0", **settings.pop("daemon", {})}, **settings}
    host.settings.write_text(json.dumps(document))
    return host
