# SPDX-License-Identifier: Apache-2.0
"""Rehearsing a machine: it is started from its disks, cut off from every network, and looked at."""

import re
import shlex
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Final

from snapvault import clock
from snapvault.engine.contents import Contents
from snapvault.engine.drill_notes import NOT_RESTORED, Notes, Tools, failure_of
from snapvault.engine.drill_restore import bring_back, without_key
from snapvault.engine.random_access import OpenPoint, open_point
from snapvault.errors import KeyMissingError, MachineError, RestoreError, SnapVaultError
from snapvault.model.drills import Phase, Result, Verdict
from snapvault.model.rehearsal import (
    AgentCheck,
    BootCheck,
    BootDrill,
    CommandCheck,
    ConsoleCheck,
    PortCheck,
)
from snapvault.ports.machine import Bus, Firmware, Machine, MachineDisk, MachineSpec
from snapvault.ports.serving import ServedDisk
from snapvault.units import format_count, format_duration, format_size

_CACHE: Final = 4 << 30  # bytes of volumes, of an instant start
_CONSOLE_KEPT: Final = 64 << 10  # characters


def check_name(check: BootCheck) -> str:
    """Return what a check is called in reports."""
    match check:
        case ConsoleCheck():
            return f'console shows "{check.pattern}"'
        case AgentCheck():
            return "guest agent answers"
        case PortCheck():
            return f"port {check.port} answers"
        case CommandCheck():
            return f"program {shlex.join(check.run)}"


def rehearse(notes: Notes, tools: Tools, kind: BootDrill, contents: Contents) -> None:
    """Start the disks of a point as a machine, and make the checks."""
    names = [check_name(check) for check in kind.checks]
    try:
        tools.machines.check()
    except SnapVaultError:
        notes.skip(names, "no machine can be started here")
        raise
    if not contents.streams:
        raise RestoreError(f'source "{notes.source.name}" has no disk to start from')
    if kind.instant:
        _start_from_vault(notes, tools, kind, contents)
        return
    try:
        paths = bring_back(notes, tools, contents)
    except BaseException:
        notes.skip(names, NOT_RESTORED)
        raise
    disks = [MachineDisk(name, str(path)) for name, path in paths.items()]
    _look(notes, tools, kind, disks, _boot_disk(contents))


def _start_from_vault(notes: Notes, tools: Tools, kind: BootDrill, contents: Contents) -> None:
    folder = notes.folder / "cache"
    folder.mkdir(mode=0o700)
    with ExitStack() as stack:
        with notes.phases.at(Phase.LOCATE):
            served = stack.enter_context(
                open_point(notes.vault, contents, folder=folder, limit=_CACHE)
            )
        _prove_key(notes, served)
        disks = [_WatchedDisk(disk) for disk in served.disks]
        with tools.sockets(notes.folder) as sockets, tools.serve(disks, sockets) as addresses:
            attached = [
                MachineDisk(disk.name, address)
                for disk, address in zip(disks, addresses, strict=True)
            ]
            try:
                _look(notes, tools, kind, attached, _boot_disk(contents))
            finally:
                # What still waits for a volume was asked by a machine that is gone.
                for disk in disks:
                    disk.leave()
                # ORDER: what waits for a volume first, so that the server's threads can end.
                served.cache.close()
        notes.restored = _what_was_read(notes, disks, served)


def _boot_disk(contents: Contents) -> int:
    """Return which disk the system starts from: the one that its platform said, or the first."""
    said = [stream.facts.get("boot") == "yes" for stream in contents.streams]
    return said.index(True) if True in said else 0


def _prove_key(notes: Notes, served: OpenPoint) -> None:
    """Read one block, so that a missing key is told as such, and not by a guest."""
    for disk in served.disks:
        if disk.first_data is not None:
            with notes.phases.at(Phase.FETCH):
                try:
                    disk.read(disk.first_data, 1)
                except KeyMissingError as error:
                    raise without_key(notes, error) from error
            return


def _what_was_read(notes: Notes, disks: "Sequence[_WatchedDisk]", served: OpenPoint) -> Result:
    notes.counters["fetched_volumes"] = served.cache.fetched
    for disk in disks:
        if disk.refusal is not None:
            notes.refusal = disk.refusal
            return failure_of(disk.refusal)
    return Result(
        Verdict.PASSED,
        f"started from the vault, with {format_size(served.cache.fetched_bytes)} of "
        f"{served.cache.fetched} of {format_count(served.cache.volumes, 'volume')} fetched;"
        " every block that was read is proven",
    )


class _WatchedDisk:
    """A disk that remembers the first read that failed, until nobody reads any more."""

    def __init__(self, inner: ServedDisk) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self._is_left = False
        self.refusal: SnapVaultError | None = None

    @property
    def name(self) -> str:
        """The stream's name."""
        return self._inner.name

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self._inner.size

    @property
    def block_size(self) -> int:
        """Bytes that reads should be multiples of."""
        return self._inner.block_size

    def read(self, offset: int, length: int) -> memoryview:
        """Return bytes of the disk."""
        try:
            return self._inner.read(offset, length)
        except SnapVaultError as error:
            self._refuse(error)
            raise
        except Exception as error:
            # The guest gets an I/O error for it all the same, and may go on without those bytes.
            self._refuse(RestoreError(f'could not read disk "{self.name}": {error!r}'))
            raise

    def extents(self, offset: int, length: int, limit: int) -> Sequence[tuple[int, bool]]:
        """Return the runs from `offset` on."""
        return self._inner.extents(offset, length, limit)

    def leave(self) -> None:
        """Take no note any more of reads that fail."""
        with self._lock:
            self._is_left = True

    def _refuse(self, error: SnapVaultError) -> None:
        with self._lock:
            if not self._is_left:
                self.refusal = self.refusal or error


def _look(
    notes: Notes, tools: Tools, kind: BootDrill, disks: Sequence[MachineDisk], boot_disk: int
) -> None:
    """Start a machine and make the checks in order, until its time is over."""
    spec = MachineSpec(
        disks=tuple(disks),
        memory=kind.memory,
        cpus=kind.cpus,
        firmware=Firmware(kind.firmware),
        bus=Bus(kind.bus),
        forwards=tuple(
            dict.fromkeys(check.port for check in kind.checks if isinstance(check, PortCheck))
        ),
        boot_disk=boot_disk,
    )
    begun = clock.monotonic()
    with _machine(notes, tools, spec) as machine:
        notes.facts["firmware"] = machine.firmware.value
        phase = Phase.BOOT
        try:
            for check in kind.checks:
                name = check_name(check)
                left = kind.timeout - timedelta(seconds=clock.monotonic() - begun)
                if reason := _why_not(machine, left, kind.timeout, notes):
                    notes.add(name, notes.not_made(), reason)
                    continue
                with notes.phases.at(phase):
                    if notes.attempt(name, partial(_made, machine, check, left)):
                        phase = Phase.READY
                        notes.ready = notes.phases.elapsed
        finally:
            _keep_evidence(notes, machine)


def _why_not(machine: Machine, left: timedelta, limit: timedelta, notes: Notes) -> str | None:
    """Return why a check cannot be made any more; the first always can."""
    if not notes.checks:
        return None
    if left <= timedelta(0):
        return f"the {format_duration(limit)} that the machine had were over"
    return None if machine.is_running else "the machine does not run any more"


@contextmanager
def _machine(notes: Notes, tools: Tools, spec: MachineSpec) -> Iterator[Machine]:
    folder = notes.folder / "machine"
    folder.mkdir(mode=0o700)
    with tools.sockets(folder) as short:
        with notes.phases.at(Phase.BOOT):
            machine = tools.machines.start(spec, short)
        try:
            yield machine
        finally:
            with notes.cleaning_up("end the machine"):
                machine.close()


def _made(machine: Machine, check: BootCheck, left: timedelta) -> str:
    """Make one check; return why it passed."""
    match check:
        case ConsoleCheck():
            return f"the console said: {machine.wait_for_console(check.pattern, left).strip()}"
        case AgentCheck():
            machine.wait_for_agent(left)
            return "it answered"
        case PortCheck():
            machine.wait_for_port(check.port, left)
            return "it took a connection"
        case CommandCheck():
            return _ran(machine, check, left)


def _ran(machine: Machine, check: CommandCheck, left: timedelta) -> str:
    done = machine.run(check.run, left)
    said = next((line for line in (done.errors + "\n" + done.output).splitlines() if line), "")
    if done.status != check.status:
        raise MachineError(
            f"it ended with status {done.status}, not {check.status}" + (said and f": {said}")
        )
    if check.output is not None and re.search(check.output, done.output) is None:
        raise MachineError(
            f'what it printed does not match "{check.output}"' + (said and f": {said}")
        )
    return f"it ended with status {done.status}" + (said and f": {said}")


def _keep_evidence(notes: Notes, machine: Machine) -> None:
    """Take what the screen and the console show, however the checks ended."""
    with suppress(SnapVaultError, OSError):
        notes.console = machine.console()[-_CONSOLE_KEPT:]
    with suppress(SnapVaultError, OSError):
        notes.screenshot = machine.screenshot()
