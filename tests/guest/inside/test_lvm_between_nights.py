# SPDX-License-Identifier: Apache-2.0
"""What administrators do to logical volumes between two nights, on real ones."""

import os
from collections.abc import Iterator

import pytest

from snapvault.adapters.sources.lvm import LvmSource
from snapvault.model.policy import LvmSpec
from snapvault.model.ranges import Range
from tests.support import lvm
from tests.support.events import RecordedEvents
from tests.support.lvm import MIB

CHUNK = 192 << 10  # neither a power of two nor a part or a multiple of a block
OTHER_DISK = "/dev/vdc"


@pytest.fixture(scope="module")
def group() -> Iterator[str]:
    with lvm.volume_group(extent="64k") as name:
        lvm.thin_pool(name, size="48M", chunk="192k")
        yield name


@pytest.fixture(autouse=True)
def no_volumes_are_left(group: str) -> Iterator[None]:
    yield
    lvm.remove_volumes(group, but=[lvm.POOL])


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


class Nights:
    """A source whose volumes may change their names."""

    def __init__(self, events: RecordedEvents) -> None:
        self._events = events
        self._marks: dict[str, str] = {}
        self._before: dict[str, bytes] = {}

    def backup(self, **volumes: str) -> dict[str, list[Range] | None]:
        """Make a night, as the engine does; return what was told to have changed."""
        specs = {stream: LvmSpec(volume) for stream, volume in volumes.items()}
        source = LvmSource("web01", specs, owner="v/web01", events=self._events)
        view = source.open(self._marks)
        told: dict[str, list[Range] | None] = {}
        for disk in view.streams:
            changes = disk.changes()
            told[disk.name] = None if changes is None else list(changes.ranges)
            content = bytearray(lvm.read(disk))
            if changes is not None:
                now, content = content, bytearray(self._before[disk.name])
                for start, end in changes.ranges:
                    content[start:end] = now[start:end]
            self._before[disk.name] = bytes(content)
        self._marks = dict(view.finish().marks)
        view.committed("p")
        view.close()
        return told

    def is_as(self, **volumes: str) -> bool:
        return self._before == {stream: lvm.content(name) for stream, name in volumes.items()}


def test_changes_are_told_whatever_the_chunk_and_through_a_new_name(
    group: str, events: RecordedEvents
) -> None:
    size = 40 * CHUNK + (64 << 10)  # the last chunk is not whole
    volume = lvm.thin(f"{group}/{lvm.POOL}", "web-root", f"{size >> 10}k")
    lvm.write(volume, 0, os.urandom(10 * CHUNK))
    nights = Nights(events)
    nights.backup(root=volume)

    lvm.run("lvrename", "-q", "-q", group, "web-root", "web--old.root_1")
    renamed = f"{group}/web--old.root_1"
    lvm.write(renamed, 3 * CHUNK - 512, b"over a border" * 100)
    lvm.write(renamed, size - 4096, b"at the end")
    told = nights.backup(root=renamed)

    assert told == {"root": [(2 * CHUNK, 4 * CHUNK), (40 * CHUNK, size)]}
    assert nights.is_as(root=renamed)
    assert events.warnings == []
    assert len(lvm.snapshots_in(group)) == 1


def test_a_thin_volume_that_shrank_or_grew_is_read_whole_once(
    group: str, events: RecordedEvents
) -> None:
    volume = lvm.thin(f"{group}/{lvm.POOL}", "root", f"{20 * CHUNK >> 10}k")
    lvm.write(volume, 0, os.urandom(20 * CHUNK))
    nights = Nights(events)
    nights.backup(root=volume)

    told = []
    for size in (10 * CHUNK, 30 * CHUNK):
        lvm.run("lvresize", "-q", "-q", "-f", "-y", "-L", f"{size >> 10}k", volume)
        told.append(nights.backup(root=volume))
        assert nights.is_as(root=volume)
        lvm.write(volume, 5 * CHUNK, os.urandom(512))
        told.append(nights.backup(root=volume))
        assert nights.is_as(root=volume)

    whole, changed = {"root": None}, {"root": [(5 * CHUNK, 6 * CHUNK)]}
    assert told == [whole, changed, whole, changed]
    assert ["was resized" in warning for warning in events.warnings] == [True, True]


def test_volumes_of_several_pools_and_groups_are_one_source(
    group: str, events: RecordedEvents
) -> None:
    lvm.run("vgcreate", "-q", "-q", "-y", "-s", "64k", "vg-o-ther", OTHER_DISK)
    try:
        second = lvm.thin_pool(group, "pool-2", size="24M")
        far = lvm.thin_pool("vg-o-ther", size="24M")
        volumes = {
            "a": lvm.thin(f"{group}/{lvm.POOL}", "a", "8M"),
            "b": lvm.thin(second, "b", "8M"),
            "c": lvm.thin(far, "c", "8M"),
            "d": lvm.thick(group, "d", "1M"),
            "e": lvm.thick("vg-o-ther", "d", "1M"),
        }
        nights = Nights(events)
        for number, volume in enumerate(volumes.values()):
            lvm.write(volume, number * 4096, os.urandom(MIB // 2))
        nights.backup(**volumes)
        for volume in volumes.values():
            lvm.write(volume, 0, b"changed")
        told = nights.backup(**volumes)

        assert nights.is_as(**volumes)
        assert told == {
            "a": [(0, CHUNK)],
            "b": [(0, lvm.CHUNK)],
            "c": [(0, lvm.CHUNK)],
            "d": None,
            "e": None,
        }
        assert events.warnings == []
        assert len(lvm.snapshots_in(group)) == 2
        assert len(lvm.snapshots_in("vg-o-ther")) == 1
        for volume in volumes.values():
            lvm.write(volume, 0, b"goes on")
    finally:
        lvm.run("vgremove", "-q", "-q", "-ff", "-y", "vg-o-ther", check=False)
        lvm.run("wipefs", "-q", "-a", "-f", OTHER_DISK)
