# SPDX-License-Identifier: Apache-2.0
"""Machines, database servers and folders for drills, in memory: small, and they remember."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from snapvault.adapters.targets.file import FileTarget
from snapvault.engine.drill_notes import Tools
from snapvault.errors import DrillError, MachineError, RestoreError
from snapvault.model.tables import Tables
from snapvault.ports.machine import CommandResult, Firmware, MachineSpec
from snapvault.ports.scratch_database import TableFacts
from snapvault.ports.serving import ServedDisk

Disks = dict[str, ServedDisk]


@dataclass
class TinyMachine:
    """A machine that says the lines that its disks begin with, and has a port 22."""

    spec: MachineSpec
    said: str
    is_closed: bool = False
    has_agent: bool = True
    ends_after_line: bool = False
    firmware: Firmware = Firmware.BIOS
    pid: int = 0
    is_running: bool = True

    def console(self) -> str:
        return self.said

    def wait_for_console(self, pattern: str, limit: timedelta) -> str:
        for line in self.said.splitlines():
            if pattern in line:
                self.is_running = not self.ends_after_line
                return line
        raise MachineError(f'no line of the console matches "{pattern}"')

    def wait_for_agent(self, limit: timedelta) -> None:
        if not self.has_agent:
            self.is_running = False
            raise MachineError("the guest agent does not answer")

    def wait_for_port(self, port: int, limit: timedelta) -> None:
        if port not in self.spec.forwards or port != 22:
            raise MachineError(f"port {port} takes no connection")

    def run(self, words: Sequence[str], limit: timedelta) -> CommandResult:
        return CommandResult(0 if words[0] == "true" else 3, "hello\n", "")

    def screenshot(self) -> bytes | None:
        return b"\x89PNG screen"

    def address_of(self, port: int) -> tuple[str, int]:
        return "127.0.0.1", port

    def close(self) -> None:
        self.is_closed = True


@dataclass
class TinyMachines:
    """Starts them; `problem` is why none can be started here, `interrupt` is raised at a start."""

    served: Disks = field(default_factory=dict)
    problem: MachineError | None = None
    interrupt: BaseException | None = None
    has_agent: bool = True
    ends_after_line: bool = False
    started: list[TinyMachine] = field(default_factory=list)

    def check(self) -> None:
        if self.problem:
            raise self.problem

    def start(self, spec: MachineSpec, folder: Path) -> TinyMachine:
        (folder / "socket").touch()
        if self.interrupt:
            raise self.interrupt
        said = "".join(self._head(disk.location) for disk in spec.disks)
        machine = TinyMachine(
            spec, said, has_agent=self.has_agent, ends_after_line=self.ends_after_line
        )
        self.started.append(machine)
        return machine

    def _head(self, location: str) -> str:
        if location in self.served:
            disk, data = self.served[location], b""
            # As an NBD server does: whatever goes wrong is an I/O error to the guest.
            with suppress(Exception):
                data = bytes(disk.read(0, min(4096, disk.size)))
                disk.read(0, disk.size)
        else:
            data = Path(location).read_bytes()[:4096]
        return data.split(b"\0")[0].decode(errors="replace")


@dataclass
class TinyDatabase:
    """A server: each line of a dump is `database table value`; a query names a table.

    It `counts` the tables of what it loads, or not; one that `loses` drops a database after. One
    that is slow has loaded all when it is closed.
    """

    rows: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    loaded: list[tuple[str, str | None]] = field(default_factory=list)
    counts: bool = True
    loses: bool = False
    is_slow: bool = False
    closed: threading.Event = field(default_factory=threading.Event)

    @property
    def is_closed(self) -> bool:
        return self.closed.is_set()

    def load(self, dump: BinaryIO, stream: str, database: str | None) -> Tables | None:
        for line in dump.read().decode().splitlines():
            if line == "refuse":
                raise DrillError(f'the scratch server refused stream "{stream}": syntax error')
            name, table, value = line.split()
            self.rows.setdefault(name, {}).setdefault(table, []).append(value)
        assert not self.is_slow or self.closed.wait(60)
        self.loaded.append((stream, database))
        found = {name: self.tables(name) for name in self.rows}
        if self.loses:
            self.rows.popitem()
        return found if self.counts else None

    def query(self, sql: str, database: str | None, limit: timedelta) -> Sequence[Sequence[str]]:
        if database is None:
            raise DrillError("no database was named")
        return [[value] for value in self.rows[database].get(sql, [])]

    def databases(self) -> Sequence[str]:
        return sorted(self.rows)

    def tables(self, database: str) -> Mapping[str, TableFacts]:
        return {
            name: TableFacts(len(values), "".join(values))
            for name, values in self.rows[database].items()
        }

    def close(self) -> None:
        self.closed.set()


@dataclass
class TinyDatabases:
    """Starts them."""

    started: list[TinyDatabase] = field(default_factory=list)
    counts: bool = True
    loses: bool = False
    is_slow: bool = False

    def check(self) -> None:
        pass

    def start(self, folder: Path) -> TinyDatabase:
        (folder / "data").touch()
        server = TinyDatabase(counts=self.counts, loses=self.loses, is_slow=self.is_slow)
        self.started.append(server)
        return server


@dataclass
class Rig:
    """All the tools of a drill; `room` is what the scratch folder has."""

    machines: TinyMachines = field(default_factory=TinyMachines)
    databases: TinyDatabases = field(default_factory=TinyDatabases)
    room: int = 1 << 40

    def tools(self) -> Tools:
        """Return them as a drill wants them."""
        return Tools(
            machines=self.machines,
            databases={"mysql": self.databases, "postgresql": self.databases},
            open_target=lambda path, size, _: FileTarget.create(path, size, force=False),
            serve=self._serve,
            sockets=self._sockets,
            require_room=self._require_room,
        )

    @contextmanager
    def _serve(self, disks: Sequence[ServedDisk], folder: Path) -> Iterator[Sequence[str]]:
        addresses = [f"nbd:{disk.name}" for disk in disks]
        self.machines.served = dict(zip(addresses, disks, strict=True))
        yield addresses
        # What a machine asked for that is gone may still wait for its answer.
        for disk in disks:
            with suppress(Exception):
                disk.read(0, disk.size)
        self.machines.served = {}

    @contextmanager
    def _sockets(self, folder: Path) -> Iterator[Path]:
        yield folder

    def _require_room(self, folder: Path, needed: int, *, what: str) -> None:
        if needed > self.room:
            raise RestoreError(f'not enough room in "{folder}" for {what}')
