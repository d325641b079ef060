# SPDX-License-Identifier: Apache-2.0
"""Blocks that change again: only grains of them are stored, and every night comes back."""

import random
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snapvault.adapters.targets.in_place import open_in_place
from snapvault.engine import damages, drill_files, finer, gathering, grains
from snapvault.engine.in_place import Result, restore_in_place
from snapvault.engine.restore import restore
from snapvault.engine.verify import Level
from snapvault.errors import RestoreError, VolumeError
from snapvault.formats import names
from snapvault.formats.signatures import hashes_from
from snapvault.model.extents import FIRST_VOLUME
from snapvault.model.point import Point
from snapvault.model.policy import Rewriting
from tests.support.hints import HintedSource
from tests.support.served import opened
from tests.support.stores import CrashingStore, PowerCut
from tests.support.targets import MemoryTarget
from tests.support.vaults import MixedSource, SparseContent, VaultKit, require_whole

BLOCK = 4096
GRAIN = 512
SIZE = 60 * BLOCK + 1000


def a_disk(seed: int, size: int = SIZE) -> bytearray:
    return bytearray(random.Random(seed).randbytes(size))


def a_kit(folder: Path, *, volume_size: int = 64 << 10) -> VaultKit:
    return VaultKit(folder / "kit", block_size=BLOCK, volume_size=volume_size)


def a_day_later(content: bytes, chance: random.Random) -> bytes:
    """Return a disk after writes at places that are often the same, and others."""
    now = bytearray(content)
    for _ in range(chance.randrange(1, 12)):
        at = min(len(now) - 1, int(chance.random() ** 3 * len(now)))
        length = chance.choice([1, 8, 150, 511, 513, 700, BLOCK, 3 * BLOCK])
        data = bytes(length) if chance.random() < 0.15 else chance.randbytes(length)
        now[at : at + length] = data[: len(now) - at]
    if chance.random() < 0.1:
        now += chance.randbytes(chance.choice([1, GRAIN, BLOCK, 5000]))
    if chance.random() < 0.1:
        del now[-chance.choice([1, GRAIN, BLOCK, 5000]) :]
    return bytes(now)


def divided(kit: VaultKit, point: Point) -> set[int]:
    """Return the blocks of a point whose bytes lie in several places."""
    (extents,) = kit.contents(point).maps
    starts = extents.starts()
    return set((starts[starts % np.uint64(BLOCK) != 0] // np.uint64(BLOCK)).tolist())


def in_place(kit: VaultKit, point: Point, path: Path) -> Result:
    (stream,) = point.streams
    words = {"target": path.name}
    target = open_in_place(path, stream.size, words, devices=kit.folder / "devices", force=False)
    return restore_in_place(kit.recovery(), kit.contents(point), [target])


def cache_of(kit: VaultKit, source: str = "web01") -> Path:
    return kit.folder / "state" / "sources" / source / "grains" / "root"


def nights(kit: VaultKit, source: MixedSource, *writes: tuple[int, bytes]) -> list[Point]:
    """Back a disk up, and again after each write."""
    points = [kit.night(source).point]
    for at, data in writes:
        content = bytearray(source.at(points[-1])["root"])
        content[at : at + len(data)] = data
        source.disks["root"] = content
        points.append(kit.night(source).point)
    return points


# --- the law --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_every_night_of_a_history_comes_back_in_every_way(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    kit = a_kit(tmp_path)
    if seed % 2:
        kit.options = replace(kit.options, rewriting=Rewriting(100.0))
    source = MixedSource(disks={"root": a_disk(seed)})
    points = []
    for night in range(10):
        if night == 5 and seed == 2:
            kit.lose_state()
        points.append(kit.night(source).point)
        source.disks["root"] = a_day_later(source.at(points[-1])["root"], chance)
    there = tmp_path / "disk.img"
    there.write_bytes(chance.randbytes(SIZE))

    assert sum(len(divided(kit, point)) for point in points) > 20
    require_whole(kit, source, points)
    for point in points:
        expected = source.at(point)["root"]
        in_place(kit, point, there)
        assert there.read_bytes() == expected
        with opened(kit, point) as found:
            for _ in range(3):
                at = chance.randrange(len(expected))
                length = chance.randrange(len(expected) - at)
                assert found.disks[0].read(at, length) == expected[at : at + length]
    assert kit.verify(Level.FULL).findings == ()


def test_what_a_platform_tells_and_what_it_hides_comes_back(tmp_path: Path) -> None:
    chance = random.Random(4)
    kit = a_kit(tmp_path)
    source = HintedSource({"root": SparseContent(SIZE)})
    source.disks["root"].write(0, bytes(a_disk(1)[: 40 * BLOCK]))
    kept: list[tuple[Point, bytes]] = []
    for night in range(8):
        kept.append((kit.night(source).point, source.disks["root"].to_bytes()))
        for _ in range(5):
            source.disks["root"].write(
                chance.randrange(8) * BLOCK + chance.randrange(900), chance.randbytes(30)
            )
        # What was hidden for a night is told later, with other changes of the same page.
        source.platform.hidden = {2} if night == 4 else set()
    (last, now) = kept[-1]

    assert divided(kit, last)
    assert kit.restored(last) == {"root": now}
    for point, content in (kept[0], kept[3]):
        assert kit.restored(point) == {"root": content}


def test_a_run_that_follows_a_killed_one_stores_whole_what_that_one_had_read(
    tmp_path: Path,
) -> None:
    kit = a_kit(tmp_path, volume_size=8 << 10)
    source = MixedSource(disks={"root": a_disk(1)})
    first = nights(kit, source, (20 * BLOCK, b"one"))[-1]
    content = bytearray(source.at(first)["root"])
    for number in range(9):
        content[number * BLOCK + 600 : number * BLOCK + 900] = bytes([number]) * 300
    content[40 * BLOCK : 50 * BLOCK] = random.Random(2).randbytes(10 * BLOCK)
    source.disks["root"] = content
    with pytest.raises(PowerCut):
        kit.night(source, CrashingStore(kit.store, writes_before_crash=3))

    point = kit.night(source).point
    after = nights(kit, source, (0, b"two"))[-1]

    assert divided(kit, first) == divided(kit, point) == {20}
    assert divided(kit, after) == {0, 20}
    require_whole(kit, source, [first, point, after])


# --- what is stored -------------------------------------------------------------------------------


def test_only_the_grains_of_a_block_that_changed_are_stored(tmp_path: Path) -> None:
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(1)})

    points = nights(
        kit, source, (5 * BLOCK, b"one"), (5 * BLOCK + 3000, b"two"), (5 * BLOCK + 508, b"12345678")
    )

    changed = [point.counters["changed_bytes"] for point in points[1:]]
    assert changed == [GRAIN, GRAIN, 2 * GRAIN]
    require_whole(kit, source, points)


def test_a_block_that_was_a_hole_is_stored_whole(tmp_path: Path) -> None:
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": bytearray(8 * BLOCK)})

    points = nights(kit, source, (BLOCK, b"one"), (BLOCK, b"two"), (BLOCK, bytes(3)))

    changed = [point.counters["changed_bytes"] for point in points[1:]]
    assert changed == [BLOCK, GRAIN, 0]
    require_whole(kit, source, points)


def test_what_follows_grains_in_a_volume_lies_at_a_page_of_it(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path / "kit", block_size=2048, volume_size=64 << 20)
    region = 2048 << 16
    content = SparseContent(region + BLOCK)
    source = MixedSource(disks={"root": content})
    points = []
    for text in (b"a", b"b", b"c"):
        content.write(0, text)
        content.write(region, text * BLOCK)
        points.append(kit.night(source).point)

    (extents,) = kit.contents(points[-1]).maps
    rows = np.flatnonzero(extents.starts() >= region)
    assert extents.length[0] == GRAIN
    assert extents.offset[rows].tolist() == [BLOCK]


@pytest.mark.parametrize(
    ("write", "stored"),
    [
        (lambda chance: chance.randbytes(GRAIN * 7), BLOCK),  # more than three quarters
        (lambda chance: chance.randbytes(GRAIN * 6), 6 * GRAIN),
        (lambda chance: b"".join(b"x" + bytes(1023) for _ in range(4)), BLOCK),  # each second one
    ],
)
def test_a_block_that_is_mostly_new_or_would_lie_in_too_many_places_is_stored_whole(
    tmp_path: Path, write: Callable[[random.Random], bytes], stored: int
) -> None:
    kit = a_kit(tmp_path)
    disk = bytearray(BLOCK * 8)
    disk[: 2 * BLOCK] = b"y" * (2 * BLOCK)
    disk[BLOCK : BLOCK + BLOCK] = bytes(BLOCK - 1) + b"y"
    source = MixedSource(disks={"root": disk})
    nights(kit, source, (BLOCK + 4090, b"z"))

    point = nights(kit, source, (BLOCK, write(random.Random(1))))[-1]

    assert point.counters["changed_bytes"] == stored
    require_whole(kit, source, [point])


def test_a_map_that_has_very_many_extents_gets_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(1)})
    nights(kit, source, (0, b"1"))
    monkeypatch.setattr(finer, "MOST_EXTENTS", 1)

    point = nights(kit, source, (0, b"2"))[-1]

    assert point.counters["changed_bytes"] == BLOCK


def test_a_night_that_would_give_a_map_very_many_extents_divides_no_more_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapvault.engine.blocks._CHUNK", BLOCK)
    monkeypatch.setattr(finer, "MOST_EXTENTS", 10)
    kit, disk = a_kit(tmp_path), a_disk(1)
    source = MixedSource(disks={"root": disk})
    for text in (b"1", b"2", b"3"):
        kit.night(source)
        for block in range(20):
            disk[block * BLOCK + 700] = text[0]
    point = kit.night(source).point

    # Each block that is divided adds two to a handful.
    assert 1 <= len(divided(kit, point)) <= 5
    require_whole(kit, source, [point])


def test_a_block_that_changes_at_other_places_every_night_does_not_get_ever_finer(
    tmp_path: Path,
) -> None:
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(1)})

    writes = [(3 * BLOCK + GRAIN * (k * 5 % 8), b"x%d" % k) for k in range(12)]
    points = nights(kit, source, *writes)

    stored = [point.counters["changed_bytes"] for point in points[1:]]
    most = int(finer.PLACES * BLOCK / GRAIN)
    places = [
        int(((starts // np.uint64(BLOCK)) == 3).sum()) + 1
        for point in points
        for starts in [kit.contents(point).maps[0].starts()]
    ]
    assert max(places) <= most + 1
    assert stored.count(BLOCK) >= 2
    assert stored.count(GRAIN) > stored.count(BLOCK)
    require_whole(kit, source, points)


def test_parts_of_blocks_in_a_lost_volume_are_stored_again(tmp_path: Path) -> None:
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(1)})
    before = nights(kit, source, (0, b"1"), (BLOCK, b"1"))[-1]
    content = bytearray(source.at(before)["root"])
    content[10:11] = content[BLOCK + 10 : BLOCK + 11] = b"2"
    source.disks["root"] = content
    point = kit.night(source).point
    (lost,) = set(kit.contents(point).maps[0].volumes) - set(kit.contents(before).maps[0].volumes)
    kit.store.delete([names.volume(lost)])
    damages.remember(kit.host(), [names.volume(lost)], [])

    # One of the two blocks changes once more; nothing of it may stay where it was lost.
    content[2000:2001] = b"3"
    source.disks["root"] = content
    after = kit.night(source).point

    assert divided(kit, point) == {0, 1}
    assert lost not in kit.contents(after).maps[0].volumes
    require_whole(kit, source, [after])


def test_parts_of_blocks_in_a_lost_volume_are_read_where_a_platform_told_of_nothing(
    tmp_path: Path,
) -> None:
    kit, source = a_kit(tmp_path), HintedSource({"root": SparseContent(SIZE)})
    source.disks["root"].write(0, bytes(a_disk(1)))
    kit.night(source)
    before: set[str] = set()
    for text in (b"1", b"2"):
        before = set(kit.contents(kit.night(source).point).maps[0].volumes)
        source.disks["root"].write(7 * BLOCK + 1000, text)
    point = kit.night(source).point
    (lost,) = set(kit.contents(point).maps[0].volumes) - before
    kit.store.delete([names.volume(lost)])
    damages.remember(kit.host(), [names.volume(lost)], [])

    after = kit.night(source).point

    assert divided(kit, point) == {7}
    assert after.counters["rewritten_bytes"] == BLOCK
    assert kit.restored(after) == {"root": source.disks["root"].to_bytes()}


def test_a_clone_of_a_disk_with_divided_blocks_comes_back(tmp_path: Path) -> None:
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(1)})
    point = nights(kit, source, (0, b"1"), (700, b"2"))[-1]
    clone = MixedSource("web02", disks={"root": source.at(point)["root"]})

    cloned = kit.night(clone).point

    assert cloned.counters["deduplicated_bytes"] >= SIZE // 2
    require_whole(kit, clone, [cloned])


# --- the cache ------------------------------------------------------------------------------------


def test_without_finer_hashes_blocks_are_stored_whole_and_no_file_is_kept(tmp_path: Path) -> None:
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(1)})
    nights(kit, source, (0, b"1"))
    assert cache_of(kit).stat().st_mode & 0o777 == 0o600
    kit.options = replace(kit.options, fine_hashes=0)

    point = nights(kit, source, (0, b"2"))[-1]

    assert point.counters["changed_bytes"] == BLOCK
    assert not cache_of(kit).exists()
    require_whole(kit, source, [point])


def test_the_file_of_a_disk_that_a_source_has_no_more_is_removed(tmp_path: Path) -> None:
    kit = a_kit(tmp_path)
    source = MixedSource(disks={"root": a_disk(1), "data": a_disk(2)})
    kit.night(source)
    both = sorted(path.name for path in cache_of(kit).parent.iterdir())

    del source.disks["data"]
    kit.night(source)

    assert both == ["data", "root"]
    assert [path.name for path in cache_of(kit).parent.iterdir()] == ["root"]


@pytest.mark.parametrize(
    ("spoil", "changed"),
    [
        (lambda path: path.unlink(), [BLOCK, GRAIN, GRAIN]),
        (lambda path: path.write_bytes(b""), [BLOCK, GRAIN, GRAIN]),
        (lambda path: path.write_bytes(b"\xff" * 9000), [BLOCK, GRAIN, GRAIN]),
        (
            lambda path: path.write_bytes(path.read_bytes()[: grains._ROWS_AT + 40]),
            [BLOCK, GRAIN, BLOCK],
        ),
    ],
    ids=["lost", "empty", "of something else", "cut"],
)
def test_a_cache_that_is_not_as_it_was_costs_one_coarse_night(
    tmp_path: Path, spoil: Callable[[Path], object], changed: list[int]
) -> None:
    kit, disk = a_kit(tmp_path), a_disk(1)
    source = MixedSource(disks={"root": disk})
    kit.night(source)
    spoil(cache_of(kit))

    points = []
    for at, data in ((0, b"2"), (0, b"3"), (9 * BLOCK, b"4")):
        disk[at : at + 1] = data
        points.append(kit.night(source).point)

    assert [point.counters["changed_bytes"] for point in points] == changed
    require_whole(kit, source, points)


@pytest.mark.parametrize("at", range(0, 88, 8))
def test_a_row_of_which_any_bytes_are_not_as_they_were_counts_for_nothing(
    tmp_path: Path, at: int
) -> None:
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(1)})
    nights(kit, source)
    content = bytearray(cache_of(kit).read_bytes())
    assert grains._row_type(BLOCK).itemsize == 88
    content[grains._ROWS_AT + at] ^= 1
    cache_of(kit).write_bytes(content)

    points = nights(kit, source, (0, b"2"), (0, b"3"))[1:]

    assert [point.counters["changed_bytes"] for point in points] == [BLOCK, GRAIN]
    require_whole(kit, source, points)


def test_hashes_of_another_night_count_for_no_block_that_changed_since(tmp_path: Path) -> None:
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(1)})
    before = bytes(a_disk(1)[:2000])
    nights(kit, source, (0, b"1"))
    old = cache_of(kit).read_bytes()
    points = nights(kit, source, (0, b"2" * 2000))
    cache_of(kit).write_bytes(old)

    content = bytearray(source.at(points[-1])["root"])
    content[:2000] = b"1" + before[1:]
    content[4000:4001] = b"3"
    source.disks["root"] = content
    point = kit.night(source).point

    assert point.counters["changed_bytes"] == BLOCK
    require_whole(kit, source, [point])


def test_blocks_take_places_from_each_other_where_the_file_has_none_for_each(
    tmp_path: Path,
) -> None:
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(1)})
    most = grains._ROWS_AT + 3 * grains._row_type(BLOCK).itemsize
    kit.options = replace(kit.options, fine_hashes=most + 1)

    writes = [(block * BLOCK, b"%d" % turn) for turn, block in enumerate((20, 20, 23, 21, 20, 20))]
    points = nights(kit, source, *writes)[1:]

    assert cache_of(kit).stat().st_size == most
    changed = [point.counters["changed_bytes"] for point in points]
    assert changed == [BLOCK, GRAIN, BLOCK, BLOCK, BLOCK, GRAIN]
    require_whole(kit, source, points)


def test_a_file_that_may_be_smaller_now_becomes_smaller(tmp_path: Path) -> None:
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(1)})
    kit.night(source)
    kit.options = replace(kit.options, fine_hashes=5000)

    points = nights(kit, source, (0, b"1"), (0, b"2"))[1:]

    assert cache_of(kit).stat().st_size <= 5000
    assert points[-1].counters["changed_bytes"] == GRAIN
    require_whole(kit, source, points)


def test_a_night_goes_on_where_the_file_cannot_be(tmp_path: Path) -> None:
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(1)})
    kit.night(source)
    cache_of(kit).unlink()
    cache_of(kit).mkdir()

    with pytest.raises(IsADirectoryError):
        grains.Grains(cache_of(kit), BLOCK, 1 << 20)
    cache_of(kit).rmdir()
    cache_of(kit).symlink_to("/dev/full")
    point = nights(kit, source, (0, b"2"))[-1]

    assert point.counters["changed_bytes"] == BLOCK
    require_whole(kit, source, [point])


def test_what_has_no_room_on_the_disk_is_not_known(tmp_path: Path) -> None:
    hashes = hashes_from(bytearray(range(1, 17)) * 200)
    data = np.frombuffer(random.Random(1).randbytes(200 * BLOCK), np.uint8).reshape(200, BLOCK)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with grains.Grains(tmp_path / "root", BLOCK, 1 << 20) as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
        try:
            for first in (0, 100, 150):
                block = np.arange(first, first + 50, dtype=np.uint64)
                file.take(block, hashes[:50], data[:50], hashes[:50])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with grains.Grains(tmp_path / "root", BLOCK, 1 << 20) as file:
        block = np.arange(200, dtype=np.uint64)
        now, were, is_known = file.take(block, hashes, data, hashes)

    assert is_known.sum() == (8192 - grains._ROWS_AT) // 88
    assert np.array_equal(now[is_known], were[is_known])


# --- restores -------------------------------------------------------------------------------------


class Unreadable(MemoryTarget):
    """A target that cannot be read back, as a snapshot in the making."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise RestoreError(f"cannot read {len(buffer)} bytes at {offset} back")


@pytest.mark.parametrize("in_memory", [0, 1 << 20], ids=["in a file", "in memory"])
def test_a_target_that_cannot_be_read_back_is_proven_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr("snapvault.engine.mixed.IN_MEMORY", in_memory)
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(1)})
    point = nights(kit, source, (0, b"1"), (700, b"2"), (9 * BLOCK, b"1"), (9 * BLOCK, b"2"))[-1]
    target = Unreadable(SIZE)

    restore(kit.recovery(), kit.contents(point), [target])

    assert divided(kit, point) == {0, 9}
    assert target.content == source.at(point)["root"]


@pytest.mark.parametrize("room", [0, 100_000, 64 << 20], ids=["none", "little", "enough"])
def test_pieces_of_a_disk_are_put_together_whatever_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    kit = VaultKit(tmp_path / "kit", block_size=BLOCK, volume_size=1 << 20)
    disk, chance = a_disk(1, (3 << 20) + 1000), random.Random(2)
    disk[1 << 20 : (1 << 20) + 50 * BLOCK] = bytes(50 * BLOCK)
    source = MixedSource(disks={"root": disk})
    for _ in range(3):
        kit.night(source)
        for _ in range(150):
            at = chance.randrange(len(disk) - 300)
            disk[at : at + 300] = chance.randbytes(300)
    point = kit.night(source).point
    target = MemoryTarget(len(disk))

    class LittleRoom(gathering.Gathering):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, room=room)

    monkeypatch.setattr("snapvault.engine.restore.Gathering", LittleRoom)
    restore(kit.recovery(), kit.contents(point), [target])

    assert target.content == bytes(disk)
    # But for the end, which is not a mebibyte.
    written = sum(length for _, length in target.writes)
    assert len(target.writes) < 40 or room < 64 << 20
    assert (written > 4 << 20) == (room < 64 << 20)


def test_a_drill_of_a_sample_proves_only_some_of_the_blocks_that_lie_in_other_volumes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill_files, "_PARTS", 2)
    kit, disk = a_kit(tmp_path, volume_size=1 << 20), a_disk(1)
    source = MixedSource(disks={"root": disk})
    kit.night(source)
    for block in range(10):
        disk[block * BLOCK + 700 : block * BLOCK + 708] = b"changed!"
    contents = kit.contents(kit.night(source).point)
    plan = contents.plan()

    first, second = (
        list(drill_files._of_volume(plan, number, contents.streams, random.Random(1)))
        for number in range(2)
    )

    # What the first night stored of two of ten blocks, and all the rest; and what the second did.
    whole = [piece for piece in first if piece[2] > BLOCK]
    assert whole == [(0, 10 * BLOCK, SIZE - 10 * BLOCK)]
    assert len(first) == 3
    assert [length for _, _, length in second] == [GRAIN, GRAIN]


def test_a_damaged_part_of_a_block_is_never_written_in_place_and_its_volume_is_named(
    tmp_path: Path,
) -> None:
    kit = a_kit(tmp_path, volume_size=4 << 20)
    source = MixedSource(disks={"root": a_disk(1, 2 << 20)})
    before = nights(kit, source, (0, bytes(a_disk(2, 1 << 20))))[-1]
    point = nights(kit, source, (700, b"2"))[-1]
    (extents,) = kit.contents(before).maps
    volume = extents.volumes[extents.place[0] - FIRST_VOLUME]
    # A byte of the first grain, which did not change again: it unpacks all the same.
    stored = bytearray(kit.store.get(names.volume(volume)))
    stored[200] ^= 1
    kit.replace(names.volume(volume), bytes(stored))
    there = tmp_path / "disk.img"
    other = bytearray(source.at(point)["root"])
    other[0] ^= 1
    there.write_bytes(other)

    with pytest.raises(VolumeError, match=volume):
        in_place(kit, point, there)

    assert there.read_bytes() == other
