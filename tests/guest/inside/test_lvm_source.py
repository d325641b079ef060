# SPDX-License-Identifier: Apache-2.0
"""Logical volumes as a source, on real ones: what comes out, and what is left behind."""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from snapvault.adapters.sources.lvm import LvmSource
from snapvault.model.policy import LvmSpec
from snapvault.ports.source import Consistency, Quiesce, Trust
from tests.support import lvm
from tests.support.events import RecordedEvents
from tests.support.lvm import CHUNK, MIB

OWNER = "vault-1/web01"
WRITER = """
import mmap, os, struct, sys, time
disks = [os.open(path, os.O_RDWR | os.O_DIRECT) for path in sys.argv[1:]]
page = mmap.mmap(-1, 4096)
number = 0
while True:
    number += 1
    page[:8] = struct.pack("<Q", number)
    for disk in disks:
        os.pwrite(disk, page, 0)
    if number == 1:
        print(flush=True)
    time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def group() -> Iterator[str]:
    with lvm.volume_group() as name:
        lvm.thin_pool(name)
        yield name


@pytest.fixture(autouse=True)
def no_volumes_are_left(group: str) -> Iterator[None]:
    yield
    lvm.remove_volumes(group, but=[lvm.POOL])


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


def source_of(
    events: RecordedEvents,
    *volumes: str,
    owner: str = OWNER,
    quiesce: Sequence[Quiesce] = (),
    needed: Sequence[Path] = (),
) -> LvmSource:
    specs = {name.partition("/")[2]: LvmSpec(name, snapshot_size=8 * MIB) for name in volumes}
    return LvmSource("web01", specs, owner=owner, quiesce=quiesce, events=events, needed=needed)


@contextmanager
def writing(volumes: Sequence[str]) -> Iterator[None]:
    """Count upwards on all volumes, on each one after the one before."""
    paths = [f"/dev/{volume}" for volume in volumes]
    with subprocess.Popen([sys.executable, "-c", WRITER, *paths], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        try:
            writer.stdout.readline()
            yield
        finally:
            writer.kill()


@contextmanager
def at_rest() -> Iterator[Consistency]:
    yield Consistency.APPLICATION


def test_a_thick_volume_is_read_as_it_was_and_nothing_is_left(
    group: str, events: RecordedEvents
) -> None:
    volume = lvm.thick(group, "web-root")
    lvm.write(volume, 5 * MIB, b"before")
    expected = lvm.content(volume)

    view = source_of(events, volume).open()
    lvm.write(volume, 5 * MIB, b"after!")
    found = lvm.read(view.streams[0])
    outcome = view.finish()
    view.committed("p1")
    view.close()

    assert found == expected
    assert outcome.consistency is Consistency.CRASH
    assert outcome.marks == {}
    assert outcome.facts["web-root"]["volume"] == volume
    assert outcome.facts["web-root"]["snapshot"] == "thick"
    assert lvm.names_in(group) == [lvm.POOL, "web-root"]
    assert events.warnings == []


def test_of_a_thin_volume_only_what_changed_since_the_mark_is_told(
    group: str, events: RecordedEvents
) -> None:
    volume = lvm.thin(f"{group}/{lvm.POOL}", "web-root")
    lvm.write(volume, 0, os.urandom(16 * CHUNK))
    source = source_of(events, volume)

    # The first night: holes, and nothing to compare with.
    view = source.open()
    disk = view.streams[0]
    assert list(disk.data_ranges()) == [(0, 16 * CHUNK)]
    assert disk.changes() is None
    assert lvm.read(disk) == lvm.content(volume)
    first = view.finish().marks
    view.committed("p1")
    view.close()
    [kept] = lvm.snapshots_in(group)
    assert lvm.field(f"{group}/{kept}", "lv_active") == ""
    assert lvm.field(f"{group}/{kept}", "lv_uuid") == first["web-root"]

    # The second is not committed, and leaves the platform as it was.
    lvm.write(volume, 3 * CHUNK + 17, b"x")
    view = source.open(first)
    view.finish()
    view.close()
    assert lvm.snapshots_in(group) == [kept]

    # The third dies between the manifest and the commit.
    lvm.write(volume, 51 * CHUNK - 512, os.urandom(1024))
    lvm.run("blkdiscard", "-o", str(7 * CHUNK), "-l", str(CHUNK), f"/dev/{volume}")
    expected = lvm.content(volume)
    view = source.open(first)
    lvm.write(volume, 100 * CHUNK, b"not in it")
    disk = view.streams[0]
    changes = disk.changes()
    assert changes is not None
    assert list(changes.ranges) == [
        (3 * CHUNK, 4 * CHUNK),
        (7 * CHUNK, 8 * CHUNK),
        (50 * CHUNK, 52 * CHUNK),
    ]
    assert (changes.grain, changes.trust) == (CHUNK, Trust.COMPARED)
    assert lvm.read(disk) == expected
    second = view.finish().marks
    view._stack.close()
    assert len(lvm.snapshots_in(group)) == 2

    # The fourth goes on from what the manifest names, and keeps one snapshot.
    view = source.open(second)
    changes = view.streams[0].changes()
    third = view.finish().marks
    view.committed("p4")
    view.close()
    assert changes is not None
    assert list(changes.ranges) == [(100 * CHUNK, 101 * CHUNK)]
    [kept] = lvm.snapshots_in(group)
    assert lvm.field(f"{group}/{kept}", "lv_uuid") == third["web-root"]
    assert len({*first.values(), *second.values(), *third.values()}) == 3
    assert events.warnings == []


def test_volumes_of_one_source_show_one_moment_while_they_are_written(
    group: str, events: RecordedEvents
) -> None:
    pool = f"{group}/{lvm.POOL}"
    volumes = [
        lvm.thick(group, "a", "8M"),
        lvm.thin(pool, "b", "8M"),
        lvm.thick(group, "c", "8M"),
    ]
    source = source_of(events, *volumes)

    with writing(volumes):
        view = source.open()
        pages = [memoryview(bytearray(8)) for _ in view.streams]
        for disk, page in zip(view.streams, pages, strict=True):
            disk.read_into(0, page)
        view.close()

    counters = [struct.unpack("<Q", page)[0] for page in pages]
    assert counters == sorted(counters, reverse=True)
    assert counters[0] - counters[-1] <= 1
    assert 1 < counters[-1] < struct.unpack("<Q", lvm.content(volumes[-1])[:8])[0]
    assert lvm.snapshots_in(group) == []
    assert events.warnings == []
    lvm.write(volumes[0], 0, b"nothing is suspended any more")
    lvm.write(volumes[1], 0, b"nothing is suspended any more")


def test_a_mounted_file_system_is_frozen_and_one_that_the_host_needs_is_not_held(
    group: str, events: RecordedEvents, tmp_path: Path
) -> None:
    mounted = lvm.thick(group, "mounted")
    others = [lvm.thick(group, name, "8M") for name in ("one", "two")]
    lvm.run("mkfs.ext4", "-q", f"/dev/{mounted}")
    lvm.run("mount", f"/dev/{mounted}", str(tmp_path))
    try:
        (tmp_path / "file").write_bytes(b"in the cache only")

        alone = source_of(events, mounted).open()
        expected = alone.finish().consistency
        found = lvm.read(alone.streams[0])
        alone.close()
        assert events.warnings == []
        view = source_of(
            events, *others, mounted, quiesce=[at_rest], needed=[tmp_path / "state"]
        ).open()
        promised = view.finish().consistency
        view.close()
    finally:
        lvm.run("umount", str(tmp_path))

    assert expected is Consistency.FILE_SYSTEM
    assert b"in the cache only" in found
    assert promised is Consistency.APPLICATION
    [warning] = events.warnings
    assert f'"{mounted}" is snapshot shortly before the others' in warning
    assert lvm.snapshots_in(group) == []


def test_the_check_of_sound_volumes_finds_nothing_and_changes_nothing(
    group: str, events: RecordedEvents
) -> None:
    volumes = [lvm.thick(group, "a", "8M"), lvm.thin(f"{group}/{lvm.POOL}", "b", "8M")]
    before = lvm.run("vgs", "--noheadings", "-o", "vg_seqno", group)

    findings = list(source_of(events, *volumes).check())

    assert [finding.message for finding in findings if finding.error or finding.remedy] == []
    assert [finding.check for finding in findings] == ["a", "b", "a", "thin pool", "changes"]
    assert lvm.run("vgs", "--noheadings", "-o", "vg_seqno", group) == before
