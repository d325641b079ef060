# SPDX-License-Identifier: Apache-2.0
"""A machine's disks held still: what the guest overwrites is kept aside, and both are exported.

QEMU gets the scratch images and the NBD socket as open descriptors. So it needs no rights in our
folders, and the images have no names any more: whatever dies, their room is free again.
"""

import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from snapvault.adapters import command
from snapvault.adapters.qmp import Qmp, QmpError
from snapvault.adapters.sources import nbd
from snapvault.adapters.sources.qemu_disks import MachineDisk, Mark, bitmaps
from snapvault.adapters.sources.qemu_leftovers import merged, removed, take_down
from snapvault.errors import SnapshotOverflowError, SourceError
from snapvault.units import format_size

GRANULARITY: Final = 64 << 10  # bytes that a bit of a bitmap stands for

_RESERVE = 32 << 20  # bytes of room below which the guest comes first
_LEAST_ROOM = 64 << 20
_WATCH_INTERVAL = 1.0  # seconds
_OVERFLOW_HINT = "Give scratch a folder with more room, or back up while the machine writes less."


def require_room(folder: Path, disks: Mapping[str, MachineDisk]) -> int:
    """Return the bytes free for what the guest overwrites.

    Raises:
        SourceError: they are less than a twentieth of the disks.
    """
    try:
        free = _free(folder)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SourceError(f'cannot use scratch folder "{folder}": {reason}') from error
    total = sum(disk.size for disk in disks.values())
    needed = min(total, max(total // 20, _LEAST_ROOM)) + _RESERVE
    if free < needed:
        raise SourceError(
            f'scratch folder "{folder}" has {format_size(free)} free,'
            f" and {format_size(needed)} are needed",
            hint="Free some of it, or name another folder as scratch.",
        )
    return free


class Fleece:
    """The disks at one moment. Made in steps; `close` takes down whatever there is.

    `old` are the marks of the parent restore point that can be relied upon, by stream.
    """

    def __init__(
        self,
        qmp: Qmp,
        tag: str,
        disks: Mapping[str, MachineDisk],
        old: Mapping[str, Mark],
        folder: Path,
    ) -> None:
        self._qmp = qmp
        self._tag = tag
        self._disks = disks
        self._old = old
        self._folder = folder
        self.bitmap = f"{tag}{secrets.token_hex(6)}"
        self._names = {stream: f"{tag}{number}" for number, stream in enumerate(disks)}
        self._kept = False
        self._serving = False
        self._overflow = False
        self._over = threading.Event()
        self._watcher: threading.Thread | None = None
        self._readers: list[nbd.Disk] = []
        self._stack = ExitStack()
        self._was_running = bool(qmp.execute("query-status").get("running"))

    # --- setting up -----------------------------------------------------------------------

    def prepare(self) -> None:
        """Give each disk an empty scratch image."""
        require_room(self._folder, self._disks)
        for left in self._folder.glob(f"{self._tag}*.qcow2"):
            left.unlink(missing_ok=True)
        for stream, disk in self._disks.items():
            name = self._names[stream]
            number = self._hand_over_scratch(name, disk.size)
            self._qmp.execute(
                "blockdev-add",
                {
                    "driver": "qcow2",
                    "node-name": name,
                    "file": {"driver": "file", "filename": f"/dev/fdset/{number}"},
                    "backing": disk.node,
                },
            )

    def take(self) -> None:
        """Hold all disks still, as of one moment, and start to note what changes from then on."""
        actions: list[dict[str, Any]] = []
        for stream, disk in self._disks.items():
            name = self._names[stream]
            bitmap: dict[str, Any] = {"node": disk.node, "name": self.bitmap}
            bitmap |= {"granularity": GRANULARITY, "persistent": disk.keeps_bitmaps}
            actions.append({"type": "block-dirty-bitmap-add", "data": bitmap})
            if stream in self._old:
                old = {"node": disk.node, "name": self._old[stream].bitmap}
                actions.append({"type": "block-dirty-bitmap-disable", "data": old})
            job = {"job-id": name, "device": disk.node, "target": name, "sync": "none"}
            actions.append({"type": "blockdev-backup", "data": job})
        self._qmp.execute("transaction", {"actions": actions})
        self._watcher = threading.Thread(target=self._watch, name="scratch room", daemon=True)
        self._watcher.start()

    def export(self, *, may_replace_server: bool) -> dict[str, nbd.Disk]:
        """Serve the disks and connect to each; by stream.

        `may_replace_server` says that a server without exports is one that a dead run of
        ours left.
        """
        address = self._stack.enter_context(nbd.socket_folder()) / "nbd"
        # ORDER: ours before it is there, so that a signal in between leaves none behind.
        self._serving = True
        try:
            self._start_server(address)
        except QmpError as error:
            self._serving = False
            if not may_replace_server or self._qmp.execute("query-block-exports"):
                raise SourceError(
                    f"could not start QEMU's NBD server: {error}",
                    hint="QEMU has one only: end the backup or migration that uses it, or send"
                    " nbd-server-stop.",
                ) from error
            self._serving = True
            self._qmp.execute("nbd-server-stop")
            self._start_server(address)
        found: dict[str, nbd.Disk] = {}
        for stream, disk in self._disks.items():
            name = self._names[stream]
            export = {"type": "nbd", "id": name, "node-name": name, "name": name}
            old = self._old.get(stream)
            shown = [{"node": disk.node, "name": old.bitmap}] if old else []
            self._qmp.execute("block-export-add", {**export, "writable": False, "bitmaps": shown})
            found[stream] = nbd.Disk(address, name, f'disk "{disk.own_name}"')
            self._readers.append(found[stream])
        return found

    # --- while it stands ------------------------------------------------------------------

    def require_still(self) -> None:
        """See, after reading, that what was read is as of the moment.

        Raises:
            SnapshotOverflowError: the scratch images ran full.
        """
        if self._overflow:
            raise SnapshotOverflowError(
                f'scratch folder "{self._folder}" ran full while the machine was read',
                hint=_OVERFLOW_HINT,
            )

    def finish(self) -> None:
        """See that every disk was held still up to now.

        Raises:
            SourceError: what was read must not become a restore point.
        """
        jobs = {job["id"]: job for job in self._qmp.execute("query-jobs")}
        self.require_still()
        for name, data in self._qmp.events:
            if name == "BLOCK_IO_ERROR" and data.get("operation") == "write":
                raise SnapshotOverflowError(
                    f'the machine could not write to its disk "{data.get("device")}" during the'
                    f' backup; scratch folder "{self._folder}" may have run full',
                    hint=_OVERFLOW_HINT,
                )
            if name == "BLOCK_JOB_ERROR" and data.get("device") in self._names.values():
                raise SourceError("QEMU met an error while it held a disk still")
        for stream, name in self._names.items():
            job = jobs.get(name)
            if job is None or job.get("error") or job.get("status") not in ("running", "paused"):
                raise SourceError(f'QEMU stopped to hold stream "{stream}" still')

    def keep(self) -> None:
        """Let the new bitmaps take the place of the old ones.

        Raises:
            SourceError: QEMU did not remove an old one; the next run will.
        """
        # ORDER: from here on a restore point needs the new bitmaps, whatever fails below.
        self._kept = True
        self._stop_reading()
        self._stop_server(self._qmp)
        take_down(self._qmp, self._tag)
        actions = [
            removed(self._disks[stream].node, mark.bitmap) for stream, mark in self._old.items()
        ]
        if actions:
            self._qmp.execute("transaction", {"actions": actions})

    def close(self) -> None:
        """Take everything down; without `keep`, the old bitmaps record again.

        A machine that has ended needs nothing. Safe to repeat.

        Raises:
            SourceError: something is left; the next run removes it.
        """
        self._stop_reading()
        with self._stack:
            try:
                self._undo(self._qmp)
            except QmpError:
                raise
            except SourceError:
                self._undo_anew()

    # --- details --------------------------------------------------------------------------

    def _hand_over_scratch(self, name: str, size: int) -> int:
        path = self._folder / f"{name}.qcow2"
        create = ["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(size)]
        try:
            command.run(create, timeout=60.0)
            with path.open("r+b") as file:
                answer = self._qmp.execute("add-fd", {"opaque": name}, descriptors=[file.fileno()])
        finally:
            path.unlink(missing_ok=True)
        return int(answer["fdset-id"])

    def _start_server(self, address: Path) -> None:
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(address))
            listener.listen(64)
            name = f"{self._tag}nbd"
            self._qmp.execute("getfd", {"fdname": name}, descriptors=[listener.fileno()])
            try:
                where = {"type": "fd", "data": {"str": name}}
                self._qmp.execute("nbd-server-start", {"addr": where})
            except QmpError:
                with _refused_is_fine():
                    self._qmp.execute("closefd", {"fdname": name})
                raise

    def _watch(self) -> None:
        """Let go of the disks before the scratch folder is full: the guest's writes would fail."""
        while not self._over.wait(_WATCH_INTERVAL):
            try:
                if _free(self._folder) >= _RESERVE:
                    continue
            except OSError:  # the folder is gone: nobody can tell any more
                pass
            # ORDER: said first; a reader that sees no overflow afterwards read what was held still.
            self._overflow = True
            for name in self._names.values():
                with _refused_is_fine():
                    self._qmp.execute("block-job-cancel", {"device": name, "force": True})
            return

    def _stop_reading(self) -> None:
        self._over.set()
        if self._watcher is not None:
            self._watcher.join()
        while self._readers:
            self._readers.pop().close()

    def _stop_server(self, qmp: Qmp) -> None:
        # ORDER: before our nodes go. Should we die in between, the next run knows by them that
        # the server is ours, and may be replaced.
        if self._serving:
            with _refused_is_fine():
                qmp.execute("nbd-server-stop")
            self._serving = False

    def _undo(self, qmp: Qmp) -> None:
        self._stop_server(qmp)
        take_down(qmp, self._tag)
        if not self._kept:
            self._forget_bitmaps(qmp)
        if self._was_running and qmp.execute("query-status").get("status") == "io-error":
            # A full scratch folder stopped the guest; the write it waits for can be done now.
            qmp.execute("cont")

    def _forget_bitmaps(self, qmp: Qmp) -> None:
        actions: list[dict[str, Any]] = []
        there = {bitmap.node for bitmap in bitmaps(qmp, self._tag) if bitmap.name == self.bitmap}
        for stream, disk in self._disks.items():
            old = self._old.get(stream)
            if disk.node in there and old is not None:
                actions += merged(disk.node, old.bitmap, [self.bitmap])
            elif disk.node in there:
                actions.append(removed(disk.node, self.bitmap))
        if actions:
            qmp.execute("transaction", {"actions": actions})

    def _undo_anew(self) -> None:
        """Try over a new connection; a machine that nobody serves any more has ended."""
        path = self._qmp.path
        self._qmp.close()
        try:
            fresh = Qmp(path)
        except SourceError as error:
            if isinstance(error.__cause__, (ConnectionRefusedError, FileNotFoundError)):
                return
            raise
        with fresh:
            self._undo(fresh)


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


@contextmanager
def _refused_is_fine() -> Iterator[None]:
    try:
        yield
    except SourceError:
        return
