# SPDX-License-Identifier: Apache-2.0
"""Running QEMU machines as a source: real QEMU, disks that are written to meanwhile."""

import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from snapvault.adapters.qmp import Qmp, _Line
from snapvault.adapters.sources.qemu import QemuSource
from snapvault.adapters.sources.qemu_leftovers import take_down
from snapvault.errors import QuiesceError, SnapshotOverflowError, SourceError
from snapvault.model.policy import QemuSpec
from snapvault.ports.source import Changes, Consistency, DiskStream, Quiesce, View
from tests.support.events import RecordedEvents
from tests.support.qemu import (
    DEADLINE,
    FakeAgent,
    Machine,
    make_image,
    qemu_img,
    small_disk,
    stopped_for_a_copy,
    until,
)
from tests.support.vaults import VaultKit

pytestmark = pytest.mark.integration

KIB = 1 << 10
MIB = 1 << 20
SIZE = 32 * MIB
NOTHING: dict[str, list[str]] = {
    "bitmaps": [],
    "nodes": [],
    "jobs": [],
    "exports": [],
    "files": [],
}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine with a qcow2 and a raw disk."""
    raw = tmp_path / "data.raw"
    qemu_img("create", "-q", "-f", "raw", str(raw), str(SIZE // 4))
    disks = {"vd0": make_image(tmp_path / "root.qcow2", SIZE), "data": raw}
    with Machine(disks) as running:
        running.write("vd0", 0, 2 * MIB, 1)
        running.write("vd0", 20 * MIB, MIB, 2)
        running.write("data", MIB, 64 * KIB, 3)
        yield running


class Night:
    """The source under test, and what it said."""

    def __init__(self, machine: Machine, tmp_path: Path, **spec: object) -> None:
        self.events = RecordedEvents()
        self.quiesce: list[Quiesce] = []
        self._state = tmp_path / "state"
        self._spec = QemuSpec(machine.qmp, **spec)  # type: ignore[arg-type] # fields by name

    def source(self, *, prefix: str | None = None, owner: str = "vault/web01") -> QemuSource:
        return QemuSource(
            "web01",
            self._spec,
            prefix=prefix,
            owner=owner,
            state=self._state,
            quiesce=self.quiesce,
            events=self.events,
        )

    def point(self, marks: Mapping[str, str]) -> tuple[dict[str, bytes], Mapping[str, str]]:
        """Make a view, read it in full and commit it."""
        view = self.source().open(marks)
        try:
            content = {disk.name: whole(disk) for disk in disks_of(view)}
            outcome = view.finish()
            view.committed("point")
        finally:
            view.close()
        return content, outcome.marks


@pytest.fixture
def night(machine: Machine, tmp_path: Path) -> Night:
    return Night(machine, tmp_path)


def disks_of(view: View) -> list[DiskStream]:
    return [stream for stream in view.streams if isinstance(stream, DiskStream)]


def whole(disk: DiskStream) -> bytes:
    content = bytearray(disk.size)
    for start, end in disk.data_ranges():
        disk.read_into(start, memoryview(content)[start:end])
    return bytes(content)


def changes_of(disk: DiskStream) -> Changes:
    changes = disk.changes()
    assert changes is not None
    return changes


def pattern(*pieces: tuple[int, int, int], size: int = SIZE) -> bytes:
    content = bytearray(size)
    for offset, length, value in pieces:
        content[offset : offset + length] = bytes([value]) * length
    return bytes(content)


ROOT = ((0, 2 * MIB, 1), (20 * MIB, MIB, 2))
DATA = pattern((MIB, 64 * KIB, 3), size=SIZE // 4)


def test_a_view_shows_the_moment_whatever_is_written_later(machine: Machine, night: Night) -> None:
    view = night.source(prefix="vm").open()

    machine.write("vd0", 0, 4 * MIB, 9)
    machine.write("data", 0, MIB, 0)
    names = [stream.name for stream in view.streams]
    contents = [whole(disk) for disk in disks_of(view)]
    outcome = view.finish()
    view.close()

    assert names == ["vm.vd0", "vm.data", "vm.definition"]
    assert contents == [pattern(*ROOT), DATA]
    assert outcome.consistency is Consistency.CRASH
    assert machine.left() == NOTHING
    assert list((night._state / "scratch").iterdir()) == []


def test_the_bitmap_tells_what_changed_since_the_parent(machine: Machine, night: Night) -> None:
    _, marks = night.point({})
    machine.write("vd0", 5 * MIB, 512, 4)
    machine.write("vd0", MIB, 128 * KIB, 0)
    view = night.source().open(marks)
    machine.write("vd0", 30 * MIB, KIB, 5)

    root, data = (changes_of(disk) for disk in disks_of(view))
    content = whole(disks_of(view)[0])
    view.close()

    assert root.ranges == [(MIB, MIB + 128 * KIB), (5 * MIB, 5 * MIB + 64 * KIB)]
    assert root.grain == 64 * KIB
    assert data.ranges == []
    assert content == pattern(*ROOT, (5 * MIB, 512, 4), (MIB, 128 * KIB, 0))


def test_a_view_that_was_not_committed_costs_the_next_run_nothing(
    machine: Machine, night: Night
) -> None:
    _, marks = night.point({})
    machine.write("vd0", 5 * MIB, 512, 4)
    view = night.source().open(marks)
    machine.write("vd0", 10 * MIB, 512, 4)
    view.finish()
    view.close()
    machine.write("vd0", 15 * MIB, 512, 4)

    view = night.source().open(marks)
    found = changes_of(disks_of(view)[0]).ranges
    view.close()

    assert found == [(at * MIB, at * MIB + 64 * KIB) for at in (5, 10, 15)]
    assert machine.left() == {
        **NOTHING,
        "bitmaps": sorted({mark.split()[0] for mark in marks.values()}) * 2,
    }


def test_only_the_newest_bitmap_is_kept_after_a_commit(machine: Machine, night: Night) -> None:
    _, first = night.point({})

    _, second = night.point(first)

    assert first != second
    assert machine.left()["bitmaps"] == [second["vd0"].split()[0]] * 2


def test_what_a_killed_run_left_is_removed_and_nothing_is_lost(
    machine: Machine, night: Night
) -> None:
    _, marks = night.point({})
    machine.write("vd0", 5 * MIB, 512, 4)
    dead = night.source().open(marks)
    machine.write("vd0", 10 * MIB, 512, 4)
    abandon(dead)
    assert machine.left() != NOTHING

    view = night.source().open(marks)
    found = changes_of(disks_of(view)[0]).ranges
    view.close()
    content, after = night.point(marks)

    assert found == [(at * MIB, at * MIB + 64 * KIB) for at in (5, 10)]
    assert content["vd0"] == pattern(*ROOT, (5 * MIB, 512, 4), (10 * MIB, 512, 4))
    assert machine.left() == {**NOTHING, "bitmaps": [after["vd0"].split()[0]] * 2}
    assert night.events.warnings == []


def abandon(view: View) -> None:
    """Do what the kernel does when a process is killed: close its sockets, and nothing else."""
    fleece = view._fleece  # type: ignore[attr-defined]
    fleece._stop_reading()
    fleece._qmp.close()
    fleece._stack.close()
    view._stack.pop_all()  # type: ignore[attr-defined]


@pytest.mark.parametrize("moment", ["committed", "closing"])
def test_a_server_that_a_killed_run_left_in_its_last_moment_stops_nobody(
    moment: str, machine: Machine, night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = night.source().open()
    marks = view.finish().marks
    if moment == "committed":
        view.committed("point")
    else:

        def killed(qmp: Qmp, tag: str) -> None:
            take_down(qmp, tag)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("snapvault.adapters.sources.qemu_fleece.take_down", killed)
            with pytest.raises(KeyboardInterrupt):
                view.close()
    abandon(view)

    _, after = night.point(marks if moment == "committed" else {})

    assert machine.left() == {**NOTHING, "bitmaps": [after["vd0"].split()[0]] * 2}


@pytest.mark.parametrize(
    "command",
    ["add-fd", "blockdev-add", "transaction", "getfd", "nbd-server-start", "block-export-add"],
)
def test_a_signal_at_any_moment_leaves_nothing_and_loses_nothing(
    command: str, machine: Machine, night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, marks = night.point({})
    machine.write("vd0", 5 * MIB, 512, 4)
    send = _Line.send

    def interrupted(line: _Line, data: bytes, descriptors: Sequence[int] = ()) -> None:
        send(line, data, descriptors)
        if json.loads(data)["execute"] == command:
            monkeypatch.setattr(_Line, "send", send)
            raise KeyboardInterrupt

    monkeypatch.setattr(_Line, "send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        night.source().open(marks)
    left = machine.left()
    view = night.source().open(marks)
    found = changes_of(disks_of(view)[0]).ranges
    view.close()

    assert left == {**NOTHING, "bitmaps": [marks["vd0"].split()[0]] * 2}
    assert found == [(5 * MIB, 5 * MIB + 64 * KIB)]
    assert night.events.warnings == []


def test_bitmaps_and_jobs_of_others_are_left_alone(machine: Machine, night: Night) -> None:
    other = Night.source(night, owner="vault/other")
    view = other.open()
    view.finish()
    view.committed("point")
    view.close()
    theirs = machine.left()["bitmaps"]
    machine.ask("block-dirty-bitmap-add", {"node": "node0", "name": "somebody"})

    night.point({})

    left = machine.left()["bitmaps"]
    assert set(theirs) < set(left)
    nodes = machine.ask("query-named-block-nodes", {"flat": True})
    assert any(b.get("name") == "somebody" for n in nodes for b in n.get("dirty-bitmaps", ()))


def test_a_bitmap_outlives_the_machine_in_qcow2_and_is_lost_with_raw(
    machine: Machine, night: Night
) -> None:
    _, marks = night.point({})
    machine.write("vd0", 5 * MIB, 512, 4)
    machine.stop()
    machine.start()

    view = night.source().open(marks)
    root, data = disks_of(view)
    found, lost = changes_of(root).ranges, data.changes()
    view.close()

    assert found == [(5 * MIB, 5 * MIB + 64 * KIB)]
    assert lost is None
    assert night.events.names() == ["hint.lost"]
    assert 'stream "data" is read in full: its dirty bitmap is gone' in night.events.warnings[0]


def test_an_inconsistent_bitmap_means_a_full_read(machine: Machine, night: Night) -> None:
    _, marks = night.point({})
    machine.stop()  # now the bitmap is in the image
    machine.start()
    machine.write("vd0", 5 * MIB, 512, 4)
    machine.flush("vd0")
    machine.stop(signal.SIGKILL)
    machine.start()

    content, after = night.point(marks)

    assert content == {"vd0": pattern(*ROOT, (5 * MIB, 512, 4)), "data": DATA}
    assert "its dirty bitmap is inconsistent" in night.events.warnings[0]
    assert machine.left()["bitmaps"] == [after["vd0"].split()[0]] * 2


def test_a_disk_that_grew_has_changed_where_it_grew(machine: Machine, night: Night) -> None:
    _, marks = night.point({})
    machine.ask("block_resize", {"node-name": "node0", "size": SIZE + MIB})

    view = night.source().open(marks)
    found = changes_of(disks_of(view)[0]).ranges
    view.close()

    assert found == [(SIZE, SIZE + MIB)]


def test_full_and_two_increments_are_restored_from_a_vault(
    machine: Machine, night: Night, tmp_path: Path
) -> None:
    kit = VaultKit(tmp_path / "vault", block_size=16 * KIB, volume_size=4 * MIB)
    held = []
    for number in range(3):
        copy = tmp_path / f"reference{number}.raw"
        night.quiesce = [partial(copied_at_rest, machine, copy)]
        with busy_writer(machine, number):
            held.append(kit.night(night.source()))

    for number, one in enumerate(held):
        restored = kit.restored(one.point)

        assert restored["vd0"] == (tmp_path / f"reference{number}.raw").read_bytes()
        assert restored["data"] == DATA
        assert b"qemu-system-x86_64" in restored["definition"]
    assert night.events.warnings == []


@contextmanager
def copied_at_rest(machine: Machine, copy: Path) -> Iterator[Consistency]:
    """Keep the writer from writing, and have QEMU copy the disk by a job of its own."""
    with _OWN_SOCKET, stopped_for_a_copy(machine, "vd0", copy) as consistency:
        yield consistency


class busy_writer:  # noqa: N801 - a context manager
    """Write at places that a seed chooses, from before the backup until after it."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self._machine = machine
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.failure: BaseException | None = None

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        assert self.failure is None

    def _write(self) -> None:
        try:
            while not self._over.wait(0.02):
                # One client at a time: the reference is taken over this socket too.
                with _OWN_SOCKET:
                    self._machine.write(
                        "vd0",
                        512 * self._random.randrange(SIZE // 512 - 200),
                        512 * self._random.randrange(1, 200),
                        self._random.randrange(1, 256),
                    )
        except BaseException as error:  # noqa: BLE001 - told by __exit__
            self.failure = error


_OWN_SOCKET = threading.Lock()


def test_little_is_read_when_little_changed(machine: Machine, night: Night) -> None:
    machine.write("vd0", 0, SIZE, 7)
    _, marks = night.point({})
    for number in range(5):
        machine.write("vd0", number * 6 * MIB, 64 * KIB, 8)

    view = night.source().open(marks)
    found = changes_of(disks_of(view)[0]).ranges
    view.close()

    assert sum(end - start for start, end in found) == 5 * 64 * KIB  # 1 % of the disk


# --- the guest agent ------------------------------------------------------------------------


def test_a_guest_with_an_agent_is_frozen_for_the_moment_alone(
    machine: Machine, tmp_path: Path
) -> None:
    with FakeAgent(machine.folder) as agent:
        view = Night(machine, tmp_path, agent=agent.path).source().open()
        states = [agent.state]
        outcome = view.finish()
        view.close()

    assert outcome.consistency is Consistency.FILE_SYSTEM
    assert states == ["thawed"]
    assert agent.heard.count("guest-fsfreeze-freeze") == 1


def test_a_silent_agent_is_an_error_and_the_machine_goes_on(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapvault.adapters.qmp.AGENT_TIMEOUT", 0.3)
    with FakeAgent(machine.folder, silent_at="guest-sync-delimited") as agent:
        night = Night(machine, tmp_path, agent=agent.path)
        with pytest.raises(QuiesceError, match="the guest agent does not answer"):
            night.source().open()

    assert machine.left() == NOTHING
    assert list((tmp_path / "state" / "scratch").iterdir()) == []


def test_a_guest_is_thawed_when_the_snapshot_fails(machine: Machine, tmp_path: Path) -> None:
    machine.ask(
        "nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(machine.folder / "n")}}}
    )
    with FakeAgent(machine.folder) as agent:
        night = Night(machine, tmp_path, agent=agent.path)
        with pytest.raises(SourceError, match="NBD server already running") as caught:
            night.source().open()

    assert agent.state == "thawed"
    assert "QEMU has one only" in str(caught.value.hint)
    assert machine.left() == NOTHING


DIES_FROZEN = """
import os, sys
from pathlib import Path
from snapvault.adapters.sources.qemu import QemuSource
from snapvault.adapters.sources.qemu_fleece import Fleece
from snapvault.model.policy import QemuSpec
from tests.support.events import RecordedEvents

qmp, agent, state = map(Path, sys.argv[1:])
Fleece.take = lambda self: os.kill(os.getpid(), 9)
spec = QemuSpec(qmp, agent=agent)
QemuSource(
    "web01", spec, prefix=None, owner="vault/web01", state=state, events=RecordedEvents()
).open()
"""


def test_a_guest_is_thawed_when_the_backup_is_killed(machine: Machine, tmp_path: Path) -> None:
    with FakeAgent(machine.folder) as agent:
        paths = [str(machine.qmp), str(agent.path), str(tmp_path / "state")]
        argv = [sys.executable, "-c", DIES_FROZEN, *paths]
        killed = subprocess.run(
            argv, env={**os.environ, "PYTHONPATH": "."}, check=False, timeout=DEADLINE
        )
        for _ in until():
            if agent.state == "thawed":
                break

    assert killed.returncode == -signal.SIGKILL
    assert agent.heard.count("guest-fsfreeze-freeze") == 1
    Night(machine, tmp_path).point({})


# --- faults ---------------------------------------------------------------------------------


def test_an_unknown_disk_is_refused_with_the_nearest(machine: Machine, tmp_path: Path) -> None:
    night = Night(machine, tmp_path, disks=("vda0",))

    with pytest.raises(SourceError, match='the machine has no disk "vda0"') as caught:
        night.source().open()

    assert 'Did you mean "vd0"?' in str(caught.value.hint)


def test_disks_are_picked_by_device_or_node(machine: Machine, tmp_path: Path) -> None:
    view = Night(machine, tmp_path, disks=("node1",)).source().open()

    names = [stream.name for stream in view.streams]
    view.close()

    assert names == ["data", "definition"]


def test_a_dead_socket_and_a_busy_one_are_clear(
    machine: Machine, night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, Qmp(machine.qmp):
        patch.setattr("snapvault.adapters.qmp._GREETING_TIMEOUT", 0.3)
        with pytest.raises(SourceError, match="does not answer") as caught:
            night.source().open()
    machine.stop()

    with pytest.raises(SourceError, match="could not connect to QMP socket"):
        night.source().open()

    assert "one at a time" in str(caught.value.hint)
    machine.start()
    night.point({})


def test_a_machine_that_ends_in_the_middle_makes_no_restore_point(
    machine: Machine, night: Night
) -> None:
    view = night.source().open()
    machine.stop(signal.SIGKILL)

    with pytest.raises(SourceError, match=r'could not .* disk "vd0"'):
        whole(disks_of(view)[0])
    with pytest.raises(SourceError):
        view.finish()
    view.close()

    machine.start()
    night.point({})


def test_a_write_that_the_scratch_image_cannot_take_spoils_no_view(
    machine: Machine, night: Night
) -> None:
    assert machine.process is not None
    view = night.source().open()

    resource.prlimit(machine.process.pid, resource.RLIMIT_FSIZE, (MIB // 2, resource.RLIM_INFINITY))
    machine.write("vd0", 0, 2 * MIB, 9)
    content = whole(disks_of(view)[0])
    view.finish()
    view.close()

    assert content == pattern(*ROOT)


def test_a_scratch_folder_that_runs_full_lets_the_guest_go_on(
    machine: Machine, night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = night.source().open()
    monkeypatch.setattr("snapvault.adapters.sources.qemu_fleece._RESERVE", 1 << 60)
    for _ in until():
        if not machine.ask("query-jobs"):
            break

    machine.write("vd0", 0, 4 * MIB, 9)
    with pytest.raises(SnapshotOverflowError, match="ran full"):
        whole(disks_of(view)[0])
    with pytest.raises(SnapshotOverflowError, match="ran full"):
        view.finish()
    view.close()

    assert machine.left() == NOTHING


@pytest.mark.parametrize("is_watched", [True, False])
def test_a_disk_that_is_full_of_scratch_images_costs_the_night_and_nothing_else(
    *, is_watched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "snapvault.adapters.sources.qemu_fleece._WATCH_INTERVAL", 0.02 if is_watched else 3600
    )
    image = make_image(tmp_path / "large.qcow2", 128 * MIB)
    with Machine({"vd0": image}) as machine, small_disk(100 * MIB) as scratch:
        machine.write("vd0", 0, 112 * MIB, 1)
        before = pattern((0, 112 * MIB, 1), size=128 * MIB)
        night = Night(machine, tmp_path, scratch=scratch)
        _, marks = night.point({})
        view = night.source().open(marks)

        for offset in range(0, 112 * MIB, 4 * MIB):
            machine.write("vd0", offset, 4 * MIB, 2)
        if is_watched:
            with pytest.raises(SnapshotOverflowError, match="ran full"):
                whole(disks_of(view)[0])
            with pytest.raises(SnapshotOverflowError, match="ran full"):
                view.finish()
        else:  # the guest is told that its writes failed
            assert whole(disks_of(view)[0]) == before
        view.close()
        left, free = machine.left(), os.statvfs(scratch)
        machine.write("vd0", 0, 112 * MIB, 3)
        content, _ = night.point(marks)

        assert left == {**NOTHING, "bitmaps": [marks["vd0"].split()[0]]}
        assert free.f_bavail == free.f_blocks
        assert content["vd0"] == pattern((0, 112 * MIB, 3), size=128 * MIB)
        assert night.events.warnings == []


def test_a_scratch_image_that_cannot_be_made_leaves_nothing(
    machine: Machine, night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / "bin" / "qemu-img"
    failing.parent.mkdir()
    failing.write_text('#!/bin/sh\nhead -c 1000 /dev/zero >"$5"\necho no space >&2\nexit 1\n')
    failing.chmod(0o700)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{failing.parent}:{os.environ['PATH']}")

        with pytest.raises(SourceError, match='"qemu-img" failed with exit status 1: no space'):
            night.source().open()

    assert machine.left() == NOTHING
    assert list((night._state / "scratch").iterdir()) == []
    night.point({})


def test_a_scratch_folder_without_room_is_refused(
    machine: Machine, night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapvault.adapters.sources.qemu_fleece._free", lambda _: 10 * MIB)

    with pytest.raises(SourceError, match=r"has 10.0 MiB free, and .* are needed"):
        night.source().open()

    assert machine.left() == NOTHING


# --- the definition, and doctor -------------------------------------------------------------


def test_a_domain_is_described_by_libvirt(machine: Machine, tmp_path: Path) -> None:
    night = Night(machine, tmp_path, domain="test", libvirt_uri="test:///default")

    view = night.source().open()
    *_, definition = view.streams
    assert not isinstance(definition, DiskStream)
    with definition.open() as readable:
        text = readable.read(1 << 20)
    view.close()

    assert text.startswith(b"<domain type='test'")


def test_a_domain_that_libvirt_does_not_know_is_named(machine: Machine, tmp_path: Path) -> None:
    night = Night(machine, tmp_path, domain="web77", libvirt_uri="test:///default")

    with pytest.raises(SourceError, match='definition of domain "web77"'):
        night.source().open()

    assert machine.left() == NOTHING


def test_check_looks_at_everything_and_changes_nothing(machine: Machine, tmp_path: Path) -> None:
    with FakeAgent(machine.folder) as agent:
        night = Night(
            machine, tmp_path, agent=agent.path, domain="test", libvirt_uri="test:///default"
        )
        findings = list(night.source().check())

    assert [finding.error for finding in findings] == [None] * 7
    assert [finding.check for finding in findings if finding.remedy] == ["disk"]
    assert not (tmp_path / "state").exists()
    assert machine.left() == NOTHING


def test_check_tells_what_is_wrong(machine: Machine, tmp_path: Path) -> None:
    machine.stop()
    with socket.socket(socket.AF_UNIX):
        night = Night(
            machine,
            tmp_path,
            agent=machine.folder / "no",
            domain="web77",
            libvirt_uri="test:///default",
        )
        findings = list(night.source().check())

    assert [finding.check for finding in findings if finding.error] == [
        "QMP",
        "guest agent",
        "libvirt",
    ]
