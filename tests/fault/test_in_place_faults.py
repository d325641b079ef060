# SPDX-License-Identifier: Apache-2.0
"""Restores in place that are cut off at every step, and vaults that are damaged meanwhile."""

import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from snapvault.adapters.half_restored import Mark, mark_of
from snapvault.adapters.targets.in_place import InPlaceTarget, open_in_place
from snapvault.engine.contents import look_up
from snapvault.engine.in_place import restore_in_place
from snapvault.errors import IntegrityError, KeyMissingError, RestoreError, VolumeError
from snapvault.formats import names
from snapvault.model.point import Point
from snapvault.model.ranges import Range
from tests.support.vaults import MixedSource, VaultKit

BLOCK = 4096
CHANCE = random.Random(11)


class PowerCut(BaseException):
    """Nothing runs after it."""


class CutTarget:
    """Lets so many changes of a target through, tears the next one, and cuts the power."""

    def __init__(self, inner: InPlaceTarget, steps: int) -> None:
        self._inner = inner
        self._left = steps

    @property
    def present_bytes(self) -> int:
        return self._inner.present_bytes

    def data_ranges(self) -> Iterator[Range]:
        return self._inner.data_ranges()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._inner.read_into(offset, buffer)

    def begin(self, growth: int) -> None:
        self._step()
        self._inner.begin(growth)

    def reserve(self, offset: int, length: int) -> None:
        self._step()
        self._inner.reserve(offset, length)

    def zero(self, offset: int, length: int) -> None:
        self._step()
        self._inner.zero(offset, length)

    def write(self, offset: int, data: memoryview) -> None:
        try:
            self._step()
        except PowerCut:
            self._inner.write(offset, data[: len(data) // 2])
            raise
        self._inner.write(offset, data)

    def commit(self) -> None:
        self._step()
        self._inner.commit()

    def abort(self) -> None:
        self._inner.abort()

    def _step(self) -> None:
        if self._left == 0:
            raise PowerCut
        self._left -= 1


@pytest.fixture
def source() -> MixedSource:
    content = bytearray(CHANCE.randbytes(30 * BLOCK) + bytes(20 * BLOCK))
    return MixedSource(disks={"root": content + CHANCE.randbytes(10 * BLOCK + 100)})


@pytest.fixture
def kit(tmp_path: Path) -> VaultKit:
    return VaultKit(tmp_path / "kit", block_size=BLOCK, volume_size=32 << 10)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disks"
    folder.mkdir()
    return folder / "root.img"


def words(point: Point) -> Mapping[str, str]:
    return {"target": "root.img", "point": point.point}


def open_disk(disk: Path, point: Point) -> InPlaceTarget:
    size = point.streams[0].size
    return open_in_place(disk, size, words(point), devices=disk.parent / "devices", force=False)


def mark(disk: Path) -> Mark:
    return mark_of(disk, disk.parent / "devices")


def change(content: bytearray) -> bytes:
    """Return what a disk was changed to: some data, some zeros, some where there were none."""
    changed = bytearray(content)
    for block in (1, 2, 9, 17, 33, 34, 55):
        changed[block * BLOCK : block * BLOCK + 50] = CHANCE.randbytes(50)
    changed[20 * BLOCK : 23 * BLOCK] = bytes(3 * BLOCK)
    return bytes(changed)


@pytest.mark.parametrize("longer", [0, 70_000, -70_000])
def test_a_disk_is_old_or_whole_or_marked_wherever_the_power_is_cut(
    kit: VaultKit, source: MixedSource, disk: Path, longer: int
) -> None:
    point = kit.night(source).point
    wanted = source.at(point)["root"]
    there = change(bytearray(wanted))
    there = there + CHANCE.randbytes(longer) if longer > 0 else there[: len(there) + longer]
    cuts = 0

    while True:
        disk.write_bytes(there)
        mark(disk).clear()
        target = CutTarget(open_disk(disk, point), cuts)
        try:
            restore_in_place(kit.recovery(), kit.contents(point), [target])
        except PowerCut:
            pass
        else:
            break
        assert mark(disk).read() is not None or disk.read_bytes() == there
        # ... and running it again makes it whole, whatever it was left as.
        restore_in_place(kit.recovery(), kit.contents(point), [open_disk(disk, point)])
        assert disk.read_bytes() == wanted
        assert mark(disk).read() is None
        cuts += 1

    assert cuts >= 10
    assert disk.read_bytes() == wanted
    assert mark(disk).read() is None
    assert [each.name for each in disk.parent.iterdir()] == ["root.img"]


def test_the_second_run_finds_what_the_first_has_done(
    kit: VaultKit, source: MixedSource, disk: Path
) -> None:
    point = kit.night(source).point
    disk.write_bytes(CHANCE.randbytes(point.streams[0].size))
    with pytest.raises(PowerCut):
        restore_in_place(
            kit.recovery(), kit.contents(point), [CutTarget(open_disk(disk, point), 6)]
        )

    again = restore_in_place(kit.recovery(), kit.contents(point), [open_disk(disk, point)])
    (done,) = again.streams

    # Zeros were made first, and some of the volumes were written.
    assert 0 < done.different < done.compared - 20 * BLOCK
    assert disk.read_bytes() == source.at(point)["root"]


def test_a_damaged_volume_is_named_and_nothing_of_it_is_written(
    kit: VaultKit, source: MixedSource, disk: Path
) -> None:
    point = kit.night(source).point
    wanted = source.at(point)["root"]
    there = change(bytearray(wanted))
    disk.write_bytes(there)
    name = names.volume(kit.contents(point).maps[0].volumes[1])
    good = kit.store.get(name)
    kit.replace(name, good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[-1:])

    with pytest.raises(VolumeError, match=name):
        restore_in_place(kit.recovery(), kit.contents(point), [open_disk(disk, point)])

    left = disk.read_bytes()
    assert mark(disk).read() == dict(words(point))
    for at in range(0, len(wanted), BLOCK):
        assert left[at : at + BLOCK] in (wanted[at : at + BLOCK], there[at : at + BLOCK])
    kit.replace(name, good)
    restore_in_place(kit.recovery(), kit.contents(point), [open_disk(disk, point)])
    assert disk.read_bytes() == wanted
    assert mark(disk).read() is None


def test_a_damaged_volume_that_is_not_needed_is_not_even_looked_at(
    kit: VaultKit, source: MixedSource, disk: Path
) -> None:
    point = kit.night(source).point
    wanted = source.at(point)["root"]
    disk.write_bytes(b"other" + wanted[5:])
    for volume in kit.contents(point).maps[0].volumes[1:]:
        kit.store.delete([names.volume(volume)])

    result = restore_in_place(kit.recovery(), kit.contents(point), [open_disk(disk, point)])

    assert result.volumes == 1
    assert disk.read_bytes() == wanted


@pytest.mark.parametrize("kind", [".sig", ".map", ".hash"])
def test_damaged_metadata_leaves_the_disk_as_it_was(
    kit: VaultKit, source: MixedSource, disk: Path, kind: str
) -> None:
    point = kit.night(source).point
    there = change(bytearray(source.at(point)["root"]))
    disk.write_bytes(there)
    objects = [*point.objects, point.hash_key]
    (name,) = (record.name for record in objects if record.name.endswith(kind))
    good = kit.store.get(name)
    kit.replace(name, good[:-1] + bytes([good[-1] ^ 1]))

    with pytest.raises(IntegrityError, match=name.rpartition("/")[2]):
        restore_in_place(kit.recovery(), kit.contents(point), [open_disk(disk, point)])

    assert disk.read_bytes() == there
    assert mark(disk).read() is None


def test_a_digest_that_the_signature_does_not_give_is_found_before_anything_is_written(
    kit: VaultKit, source: MixedSource, disk: Path
) -> None:
    point = kit.night(source).point
    there = change(bytearray(source.at(point)["root"]))
    disk.write_bytes(there)
    contents = kit.contents(point)
    wrong = replace(contents, streams=(replace(contents.streams[0], digest="00" * 32),))

    with pytest.raises(IntegrityError, match="content digest differs"):
        restore_in_place(kit.recovery(), wrong, [open_disk(disk, point)])

    assert disk.read_bytes() == there
    assert mark(disk).read() is None


def test_bytes_that_do_not_fit_the_signature_are_never_written(
    kit: VaultKit, source: MixedSource, disk: Path
) -> None:
    point = kit.night(source).point
    there = change(bytearray(source.at(point)["root"]))
    disk.write_bytes(there)
    contents = kit.contents(point)
    # A map that is the wrong way round: every volume is as it was stored.
    (full,) = contents.maps
    lying = replace(full, volumes=full.volumes[1:] + full.volumes[:1])

    with pytest.raises(IntegrityError, match=r"does not fit its signature|beyond the end"):
        restore_in_place(kit.recovery(), replace(contents, maps=(lying,)), [open_disk(disk, point)])

    assert disk.read_bytes() == there
    assert mark(disk).read() is None


def test_a_full_file_system_is_found_before_the_disk_is_touched(
    kit: VaultKit, source: MixedSource, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = kit.night(source).point
    disk.touch()
    os.truncate(disk, point.streams[0].size)
    found = os.statvfs(disk.parent)
    full = os.statvfs_result((*found[:4], 3, *found[5:]))
    target = open_disk(disk, point)
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: full)

        with pytest.raises(RestoreError, match="not enough room"):
            restore_in_place(kit.recovery(), kit.contents(point), [target])

    assert disk.read_bytes() == bytes(point.streams[0].size)
    assert mark(disk).read() is None


def test_without_the_recovery_key_the_disk_stays_as_it_was(
    kit: VaultKit, source: MixedSource, disk: Path
) -> None:
    point = kit.night(source).point
    there = change(bytearray(source.at(point)["root"]))
    disk.write_bytes(there)
    # This host's own key opens what says which blocks differ, and no block.
    host = kit.host()

    with pytest.raises(KeyMissingError):
        restore_in_place(host, look_up(host, point, point.streams), [open_disk(disk, point)])

    assert disk.read_bytes() == there
    assert mark(disk).read() is None
