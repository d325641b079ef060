# SPDX-License-Identifier: Apache-2.0
"""A running QEMU machine: its disks at one moment, and what the machine is made of.

Dirty bitmaps tell what was written since the parent restore point: one for each disk, which
the restore point's mark names. While a view is open there are two: the old one stopped at its
moment, the new one began there; close() or committed() leave one of them.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from snapvault import clock
from snapvault.adapters import command
from snapvault.adapters.qmp import Agent, Qmp
from snapvault.adapters.sources import nbd, qemu_thaw
from snapvault.adapters.sources.qemu_disks import DEFINITION, MachineDisk, Mark, choose, tag_of
from snapvault.adapters.sources.qemu_fleece import GRANULARITY, Fleece, require_room
from snapvault.adapters.sources.qemu_leftovers import settle, take_down
from snapvault.errors import SourceError
from snapvault.model.policy import QemuSpec
from snapvault.ports.events import Events
from snapvault.ports.source import (
    NO_MARKS,
    Changes,
    Consistency,
    Finding,
    Outcome,
    Quiesce,
    Trust,
)
from snapvault.ports.store import Readable
from snapvault.units import format_size

_VIRSH_TIMEOUT = 60.0
_STRENGTH = tuple(Consistency)  # weakest first


class QemuSource:
    """The disks of a machine, each named by its id, and its definition."""

    def __init__(
        self,
        name: str,
        spec: QemuSpec,
        *,
        prefix: str | None,
        owner: str,
        state: Path,
        quiesce: Sequence[Quiesce] = (),
        events: Events,
    ) -> None:
        """`prefix` goes before each stream's own name, with a dot; None: own names alone.

        `state` is our folder; in it is the scratch folder, unless the policy names one.
        """
        self._name = name
        self._spec = spec
        self._prefix = f"{prefix}." if prefix is not None else ""
        self._tag = tag_of(owner)
        self._scratch = spec.scratch or state / "scratch"
        self._makes_scratch = spec.scratch is None
        self._quiesce = tuple(quiesce)
        self._events = events

    @property
    def name(self) -> str:
        """The source's name, unique in its vault."""
        return self._name

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> "_View":
        """Hold all disks still as of one moment, with the guest frozen for it if it has an agent.

        Raises:
            QuiesceError: the guest agent does not answer.
        """
        if self._makes_scratch:
            self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ExitStack() as stack:
            qmp = stack.enter_context(Qmp(self._spec.qmp))
            had_leftovers = take_down(qmp, self._tag)
            disks = {self._prefix + disk.own_name: disk for disk in self._choose(qmp)}
            old = settle(qmp, self._tag, disks, marks, self._events)
            definition = _Definition(self._prefix + DEFINITION, self._definition(qmp))
            fleece = Fleece(qmp, self._tag, disks, old, self._scratch)
            stack.callback(fleece.close)
            fleece.prepare()
            with self._held_still() as consistency:
                taken_at = clock.now()
                fleece.take()
            exports = fleece.export(may_replace_server=had_leftovers)
            streams = [_Disk(stream, exports[stream], old.get(stream), fleece) for stream in disks]
            return _View(taken_at, consistency, streams, definition, disks, fleece, stack.pop_all())

    def check(self) -> Iterator[Finding]:
        """Ask the machine, its guest agent and libvirt; look at the room for the scratch images."""
        yield from _checked("qemu-img", lambda: command.require(["qemu-img"]), "is there")
        try:
            with Qmp(self._spec.qmp) as qmp:
                yield Finding("QMP", f'QEMU {qmp.version} answers at socket "{self._spec.qmp}"')
                disks = {disk.own_name: disk for disk in self._choose(qmp)}
                others = [
                    export["id"]
                    for export in qmp.execute("query-block-exports")
                    if not str(export["id"]).startswith(self._tag)
                ]
        except SourceError as error:
            yield Finding("QMP", str(error), error)
        else:
            yield from map(_disk_finding, disks.values())
            yield from self._check_room(disks)
            if others:
                busy = SourceError(
                    f"QEMU's NBD server serves others: {', '.join(map(str, others))}",
                    hint="QEMU has one server only: end the backup or migration that uses it.",
                )
                yield Finding("NBD server", str(busy), busy)
        if self._spec.agent is not None:
            agent = Agent(self._spec.agent)
            yield from _checked("guest agent", agent.ping, "answers")
        if self._spec.domain is not None:
            yield from _checked("libvirt", self._dump_domain, f'knows domain "{self._spec.domain}"')

    def _choose(self, qmp: Qmp) -> list[MachineDisk]:
        return choose(qmp, self._spec.disks)

    def _check_room(self, disks: Mapping[str, MachineDisk]) -> Iterator[Finding]:
        folder = self._scratch
        while self._makes_scratch and not folder.exists():
            folder = folder.parent
        try:
            free = require_room(folder, disks)
        except SourceError as error:
            yield Finding("scratch", str(error), error)
        else:
            yield Finding("scratch", f'folder "{folder}" has {format_size(free)} free')

    @contextmanager
    def _held_still(self) -> Iterator[Consistency]:
        """Bring everything to rest, outermost first; yields the strongest promise of all."""
        with ExitStack() as stack:
            promises = [Consistency.CRASH]
            promises += [stack.enter_context(quiesce()) for quiesce in self._quiesce]
            if self._spec.agent is not None:
                # ORDER: the guard stands before the guest is frozen and goes after it was thawed,
                # so that it is thawed even when this process is killed between the two.
                stack.enter_context(
                    command.guard(
                        qemu_thaw.command_line(self._spec.agent),
                        environment=qemu_thaw.environment(),
                    )
                )
                promises.append(stack.enter_context(Agent(self._spec.agent).frozen()))
            yield max(promises, key=_STRENGTH.index)

    def _definition(self, qmp: Qmp) -> bytes:
        if self._spec.domain is not None:
            return self._dump_domain()
        # An argument a line; QEMU itself may have changed what it shows of secrets.
        try:
            line = Path(f"/proc/{qmp.peer}/cmdline").read_bytes()
        except OSError:
            line = b""
        if not line:
            self._events.warn(
                "source.definition",
                f'source "{self._name}" is backed up without the machine\'s command line:'
                " its process cannot be seen",
            )
            return b"# the command line could not be read\n"
        return line.rstrip(b"\0").replace(b"\0", b"\n") + b"\n"

    def _dump_domain(self) -> bytes:
        where = ["-c", self._spec.libvirt_uri] if self._spec.libvirt_uri else []
        domain = self._spec.domain or ""
        try:
            finished = command.run(
                ["virsh", "--quiet", "--readonly", *where, "dumpxml", "--domain", domain],
                timeout=_VIRSH_TIMEOUT,
            )
        except SourceError as error:
            raise SourceError(
                f'could not get the definition of domain "{domain}": {error}',
                hint="Install libvirt-clients, and correct domain and libvirt_uri.",
            ) from error
        return finished.stdout


class _Disk:
    """A disk of the machine at the moment of the view."""

    def __init__(self, name: str, disk: nbd.Disk, old: Mark | None, fleece: Fleece) -> None:
        self._name = name
        self._disk = disk
        self._old = old
        self._fleece = fleece

    @property
    def name(self) -> str:
        return self._name

    @property
    def size(self) -> int:
        return self._disk.size

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield what QEMU does not know to be zeros."""
        yield from self._disk.ranges(nbd.ALLOCATION, nbd.IS_ZERO, is_set=False)
        self._fleece.require_still()

    def changes(self) -> Changes | None:
        """Tell what the old bitmap noted, and all that lies past the size of then."""
        if self._old is None:
            return None
        context = nbd.DIRTY_BITMAP + self._old.bitmap
        ranges = list(self._disk.ranges(context, nbd.IS_DIRTY, is_set=True))
        grown_from = self._old.size - self._old.size % GRANULARITY
        if self._old.size < self.size:
            ranges = [(start, min(end, grown_from)) for start, end in ranges if start < grown_from]
            ranges.append((grown_from, self.size))
        return Changes(ranges, GRANULARITY, Trust.TRACKED, "dirty bitmap")

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._disk.read_into(offset, buffer)
        self._fleece.require_still()


class _Definition:
    """What the machine is made of, as text."""

    def __init__(self, name: str, text: bytes) -> None:
        self._name = name
        self._text = text

    @property
    def name(self) -> str:
        return self._name

    @contextmanager
    def open(self) -> Iterator[Readable]:
        yield io.BytesIO(self._text)


class _View:
    """A machine at one moment."""

    def __init__(
        self,
        taken_at: datetime,
        consistency: Consistency,
        streams: Sequence[_Disk],
        definition: _Definition,
        disks: Mapping[str, MachineDisk],
        fleece: Fleece,
        stack: ExitStack,
    ) -> None:
        self._taken_at = taken_at
        self._consistency = consistency
        self._streams = tuple(streams)
        self._definition = definition
        self._disks = disks
        self._fleece = fleece
        self._stack = stack

    @property
    def taken_at(self) -> datetime:
        return self._taken_at

    @property
    def streams(self) -> tuple[_Disk | _Definition, ...]:
        return (*self._streams, self._definition)

    def finish(self) -> Outcome:
        self._fleece.finish()
        marks = {
            stream: str(Mark(self._fleece.bitmap, disk.size, disk.identity))
            for stream, disk in self._disks.items()
        }
        facts = {
            stream: {"node": disk.node, "format": disk.format, "file": disk.file}
            for stream, disk in self._disks.items()
        }
        return Outcome(self._consistency, marks, facts)

    def committed(self, point: str) -> None:
        self._fleece.keep()

    def close(self) -> None:
        self._stack.close()


def _disk_finding(disk: MachineDisk) -> Finding:
    told = f'disk "{disk.own_name}", {format_size(disk.size)}, {disk.format}'
    if disk.keeps_bitmaps:
        return Finding("disk", f"{told}, can be backed up by its changes")
    return Finding(
        "disk",
        f"{told}, is read in full after each restart of the machine",
        remedy="Convert it to qcow2 (compat=1.1), which keeps the dirty bitmap, if that matters.",
    )


def _checked(check: str, look: Callable[[], object], well: str) -> Iterator[Finding]:
    try:
        look()
    except SourceError as error:
        yield Finding(check, str(error), error)
    else:
        yield Finding(check, f"{check} {well}")
