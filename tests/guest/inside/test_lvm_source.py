# SPDX-License-Identifier: Apache-2.0
"""Logical volumes as a source, on real ones: what comes out, and what is left behind."""

import mmap
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
from snapvault.ports.source import NO_MARKS, Consistency, Quiesce, Trust
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
    time.sleep(0.002)
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


def test_of_a_thin_volume_only_what_changed_is_told_and_one_snapshot_is_kept(
    group: str, events: RecordedEvents
) -> None:
    volume = lvm.thin(f"{group}/{lvm.POOL}", "web-root")
    lvm.write(volume, 0, os.urandom(16 * CHUNK))
    source = source_of(events, volume)
    view = source.open()
    first = lvm.read(view.streams[0])
    holes = list(view.streams[0].data_ranges())
    changes = view.streams[0].changes()
    marks = view.finish().marks
    view.committed("p1")
    view.close()
    assert first == lvm.content(volume)
    assert holes == [(0, 16 * CHUNK)]
    assert changes is None
    [kept] = lvm.snapshots_in(group)
    assert lvm.field(f"{group}/{kept}", "lv_active") == ""
    assert lvm.field(f"{group}/{kept}", "lv_uuid") == marks["web-root"]

    lvm.write(volume, 3 * CHUNK + 17, b"x")
    lvm.write(volume, 51 * CHUNK - 512, os.urandom(1024))
    lvm.run("blkdiscard", "-o", str(7 * CHUNK), "-l", str(CHUNK), f"/dev/{volume}")
    expected = lvm.content(volume)
    view = source.open(marks)
    lvm.write(volume, 100 * CHUNK, b"not in it")
    second = lvm.read(view.streams[0])
    changes = view.streams[0].changes()
    new_marks = view.finish().marks
    view.committed("p2")
    view.close()

    assert second == expected
    assert changes is not None
    assert list(changes.ranges) == [
        (3 * CHUNK, 4 * CHUNK),
        (7 * CHUNK, 8 * CHUNK),
        (50 * CHUNK, 52 * CHUNK),
    ]
    assert (changes.grain, changes.trust) == (CHUNK, Trust.COMPARED)
    assert lvm.snapshots_in(group) != [kept]
    [kept] = lvm.snapshots_in(group)
    assert lvm.field(f"{group}/{kept}", "lv_uuid") == new_marks["web-root"] != marks["web-root"]
    assert events.warnings == []


def test_without_a_commit_the_next_run_goes_on_from_the_same_mark(
    group: str, events: RecordedEvents
) -> None:
    volume = lvm.thin(f"{group}/{lvm.POOL}", "data")
    source = source_of(events, volume)
    view = source.open()
    marks = view.finish().marks
    view.committed("p1")
    view.close()
    [kept] = lvm.snapshots_in(group)

    lvm.write(volume, 0, b"x")
    view = source.open(marks)
    view.close()
    view.close()

    assert lvm.snapshots_in(group) == [kept]
    lvm.write(volume, 9 * CHUNK, b"x")
    view = source.open(marks)
    changes = view.streams[0].changes()
    view.close()
    assert changes is not None
    assert list(changes.ranges) == [(0, CHUNK), (9 * CHUNK, 10 * CHUNK)]


def test_after_a_death_between_the_manifest_and_the_commit_the_named_snapshot_stays(
    group: str, events: RecordedEvents
) -> None:
    volume = lvm.thin(f"{group}/{lvm.POOL}", "data")
    source = source_of(events, volume)
    dead = source.open()
    marks = dead.finish().marks
    dead._stack.close()
    lvm.write(volume, 0, b"x")

    view = source.open(marks)
    changes = view.streams[0].changes()
    view.finish()
    view.committed("p2")
    view.close()

    assert changes is not None
    assert list(changes.ranges) == [(0, CHUNK)]
    assert len(lvm.snapshots_in(group)) == 1


def test_volumes_of_one_source_show_one_moment_while_they_are_written(
    group: str, events: RecordedEvents
) -> None:
    pool = f"{group}/{lvm.POOL}"
    volumes = [
        lvm.thick(group, "a", "8M"),
        lvm.thin(pool, "b", "8M"),
        lvm.thin(pool, "c", "8M"),
        lvm.thick(group, "d", "8M"),
    ]
    source = source_of(events, *volumes)
    seen: list[list[int]] = []
    marks = NO_MARKS

    with writing(volumes):
        for _ in range(2):
            view = source.open(marks)
            seen.append([struct.unpack("<Q", lvm.read(disk)[:8])[0] for disk in view.streams])
            marks = view.finish().marks
            view.committed("p")
            view.close()

    for counters in seen:
        assert counters == sorted(counters, reverse=True)
        assert counters[0] - counters[-1] <= 1
    assert seen[0][-1] < seen[1][-1]
    assert len(lvm.snapshots_in(group)) == 2
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
        weaker = source_of(events, mounted, others[0]).open()
        mixed = weaker.finish().consistency
        weaker.close()
    finally:
        lvm.run("umount", str(tmp_path))

    assert expected is Consistency.FILE_SYSTEM
    assert b"in the cache only" in found
    assert promised is Consistency.APPLICATION
    assert mixed is Consistency.CRASH
    [warning] = events.warnings
    assert f'"{mounted}" is snapshot shortly before the others' in warning
    assert lvm.snapshots_in(group) == []


def test_a_volume_is_read_past_the_cache(group: str, events: RecordedEvents) -> None:
    volume = lvm.thick(group, "web-root", "8M")
    data = os.urandom(MIB)
    lvm.write(volume, 0, data)

    view = source_of(events, volume).open()
    buffer = memoryview(mmap.mmap(-1, MIB))
    view.streams[0].read_into(0, buffer)
    view.close()

    assert buffer == data


def test_what_an_owner_keeps_is_nothing_to_another(group: str, events: RecordedEvents) -> None:
    volume = lvm.thin(f"{group}/{lvm.POOL}", "data", "8M")
    view = source_of(events, volume).open()
    marks = view.finish().marks
    view.committed("p1")
    view.close()
    kept = lvm.snapshots_in(group)

    view = source_of(events, volume, owner="vault-2/web01").open()
    view.finish()
    view.committed("p1")
    view.close()

    assert len(lvm.snapshots_in(group)) == 2
    assert set(kept) < set(lvm.snapshots_in(group))
    view = source_of(events, volume).open(marks)
    assert view.streams[0].changes() is not None
    view.close()
    assert events.warnings == []


def test_the_check_of_sound_volumes_finds_nothing_and_changes_nothing(
    group: str, events: RecordedEvents
) -> None:
    volumes = [lvm.thick(group, "a", "8M"), lvm.thin(f"{group}/{lvm.POOL}", "b", "8M")]
    before = lvm.run("vgs", "--noheadings", "-o", "vg_seqno", group)

    findings = list(source_of(events, *volumes).check())

    assert [finding.message for finding in findings if finding.error or finding.remedy] == []
    assert [finding.check for finding in findings] == ["a", "b", "a", "thin pool", "changes"]
    assert lvm.run("vgs", "--noheadings", "-o", "vg_seqno", group) == before
