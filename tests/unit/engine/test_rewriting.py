# SPDX-License-Identifier: Apache-2.0
"""Storing live blocks of mostly dead volumes again, through whole runs."""

import random
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path

import pytest

from snapvault.engine import head, rewriting
from snapvault.engine.prune import Options, prune
from snapvault.engine.prune_plan import Rules
from snapvault.engine.rewriting import CREDIT
from snapvault.engine.verify import Level
from snapvault.formats import names
from snapvault.model import rewriting as model
from snapvault.model.point import Point
from snapvault.model.policy import Retention, Rewriting
from tests.support.hints import HintedSource
from tests.support.nights import GRACE
from tests.support.stores import CrashingStore, PowerCut, RecordingStore
from tests.support.vaults import MixedSource, SparseContent, VaultKit, require_whole

BLOCK = 512
IN_A_VOLUME = 8
VOLUMES = 4
BLOCKS = IN_A_VOLUME * VOLUMES


def nearly_dead(disk: bytearray, block: int = BLOCK) -> None:
    """Change all blocks but the first of each volume of the first night."""
    for start in range(0, len(disk), IN_A_VOLUME * block):
        end = start + IN_A_VOLUME * block
        disk[start + block : end] = random.Random(start).randbytes(end - start - block)


def a_source() -> tuple[MixedSource, bytearray]:
    disk = bytearray(random.Random(1).randbytes(BLOCKS * BLOCK))
    return MixedSource(disks={"root": disk}), disk


def a_kit(folder: Path, block: int = BLOCK) -> VaultKit:
    return VaultKit(folder, block_size=block, volume_size=IN_A_VOLUME * block)


def volumes_of(kit: VaultKit, point: Point) -> set[str]:
    return set(kit.contents(point).maps[0].live_bytes())


def test_blocks_of_mostly_dead_volumes_are_stored_again_and_the_volume_is_needed_no_more(
    tmp_path: Path,
) -> None:
    kit, (source, disk) = a_kit(tmp_path), a_source()
    first = kit.night(source).point
    nearly_dead(disk)
    second = kit.night(source).point

    third = kit.night(source).point

    # 32 blocks lie in 60 that a restore fetches; one of the four volumes brings that below 48.
    assert second.counters[CREDIT] == 819
    assert third.counters["changed_bytes"] == 0
    assert third.counters["rewritten_bytes"] == BLOCK
    assert third.counters[CREDIT] == 819 - BLOCK
    assert len(volumes_of(kit, first) & volumes_of(kit, second)) == VOLUMES
    assert len(volumes_of(kit, first) & volumes_of(kit, third)) == VOLUMES - 1
    assert third.streams[0].digest == second.streams[0].digest
    require_whole(kit, source, [first, second, third])
    assert kit.verify(Level.FULL).findings == ()
    kit.lose_state()
    assert kit.night(source).point.counters["changed_bytes"] == 0


def test_a_budget_of_nothing_stores_nothing_again(tmp_path: Path) -> None:
    kit, (source, disk) = a_kit(tmp_path), a_source()
    kit.options = replace(kit.options, rewriting=Rewriting(0.0))
    kit.night(source)
    nearly_dead(disk)
    kit.night(source)

    third = kit.night(source).point

    assert (third.counters["rewritten_bytes"], third.counters[CREDIT]) == (0, 0)


def test_a_host_that_lost_its_state_decides_as_well(tmp_path: Path) -> None:
    kit, (source, disk) = a_kit(tmp_path), a_source()
    kit.night(source)
    nearly_dead(disk)
    kit.night(source)
    kit.lose_state()

    third = kit.night(source).point

    assert third.counters["rewritten_bytes"] == BLOCK
    require_whole(kit, source, [third])


def test_many_nights_stay_within_the_budget_and_every_kept_point_comes_back(
    tmp_path: Path,
) -> None:
    kit, chance = a_kit(tmp_path), random.Random(5)
    disk = bytearray(chance.randbytes(160 * BLOCK))
    dump = chance.randbytes(60_000)
    source = MixedSource(disks={"root": disk}, streams={"dump": dump})
    source.next_taken_at -= timedelta(days=60)
    changed = rewritten = 0

    for night in range(26):
        point = kit.night(source).point
        if night:
            assert rewritten + point.counters["rewritten_bytes"] <= 0.15 * changed
            changed += point.counters["changed_bytes"]
            rewritten += point.counters["rewritten_bytes"]
        for _ in range(20):
            at = chance.randrange(160) * BLOCK
            disk[at : at + BLOCK] = chance.choice([chance.randbytes(BLOCK), bytes(BLOCK)])
        at = chance.randrange(len(dump) - 5000)
        dump = dump[:at] + chance.randbytes(4000) + dump[at + 4500 :] + chance.randbytes(500)
        source.streams["dump"] = dump
    rules = {source.name: Rules(Retention(daily=6, weekly=4), UTC)}
    prune(kit.host(), rules, Options(GRACE, "host.example.org", "test"))

    kept = [held.point for held in kit.inventory().held]
    assert rewritten > 0.1 * changed
    assert 6 < len(kept) < 12
    require_whole(kit, source, kept)
    assert kit.verify(Level.FULL).findings == ()


def test_a_run_killed_while_it_stores_again_wastes_nothing(tmp_path: Path) -> None:
    kit, (source, disk) = a_kit(tmp_path), a_source()
    kit.night(source)
    nearly_dead(disk)
    kit.night(source)
    before = len(kit.objects(names.VOLUMES))
    for _ in range(3):
        with pytest.raises(PowerCut):
            kit.night(source, CrashingStore(kit.store, writes_before_crash=1))
        assert len(kit.objects(names.VOLUMES)) == before + 1
    store = RecordingStore(kit.store)

    point = kit.night(source, store).point

    assert [name for name in store.called("put") if name.startswith(names.VOLUMES)] == []
    assert point.counters["rewritten_bytes"] == BLOCK
    require_whole(kit, source, [point])


def test_a_damaged_volume_whose_blocks_are_stored_again_hurts_no_new_point(tmp_path: Path) -> None:
    kit, (source, disk) = a_kit(tmp_path), a_source()
    kit.night(source)
    nearly_dead(disk)
    second = kit.night(source).point
    third = kit.night(source).point
    (old,) = volumes_of(kit, second) - volumes_of(kit, third)

    kit.replace(names.volume(old), b"nothing of it is left")

    require_whole(kit, source, [third])
    assert old in str(kit.verify(Level.DATA).findings)


def _tells(folder: Path) -> tuple[VaultKit, HintedSource, int]:
    """Return a source whose platform tells, and the block that the next run stores again."""
    page = 4096
    kit = a_kit(folder, page)
    disk = bytearray(random.Random(1).randbytes(BLOCKS * page))
    source = HintedSource({"root": SparseContent(len(disk))})
    source.disks["root"].write(0, bytes(disk))
    kit.night(source)
    nearly_dead(disk, page)
    source.disks["root"].write(0, bytes(disk))
    kit.night(source)
    vault = kit.host()
    held = kit.inventory().held
    parent = head.load(vault, vault.state / "sources" / "web01" / "heads", held[-1])
    found = rewriting.plan(vault, parent, held, share=0.15, volume_size=IN_A_VOLUME * page)
    ((begin, end),) = found.of("root").again
    assert end - begin == page
    return kit, source, begin


def test_blocks_that_a_platform_tells_are_unchanged_are_read_to_be_stored_again(
    tmp_path: Path,
) -> None:
    kit, source, _ = _tells(tmp_path)

    point = kit.night(source).point

    counters = point.counters
    assert (counters["changed_bytes"], counters["rewritten_bytes"]) == (0, 4096)
    assert counters["read_bytes"] - counters["sampled_bytes"] == 4096
    assert counters["hint_mismatches"] == 0
    assert kit.restored(point) == {"root": source.disks["root"].to_bytes()}


def test_a_block_found_changed_against_what_the_platform_told_is_stored_as_it_is(
    tmp_path: Path,
) -> None:
    kit, source, at = _tells(tmp_path)
    source.platform.hidden = {at // 4096}
    source.disks["root"].write(at, b"x" * 4096)

    point = kit.night(source).point

    assert point.counters["hint_mismatches"] == 1
    assert point.counters["changed_bytes"] == 4096
    assert len(kit.events.warnings) == 1
    assert kit.restored(point) == {"root": source.disks["root"].to_bytes()}
    # At once if the sample happened upon it, or else by the next run, the disk is read as a whole.
    both = (point, kit.night(source).point)
    assert max(each.counters["read_bytes"] for each in both) >= BLOCKS * 4096


@pytest.mark.parametrize("fine_hashes", [0, 1 << 20], ids=["coarse", "with finer hashes"])
def test_a_dump_is_stored_again_where_it_lies_in_mostly_dead_volumes(
    tmp_path: Path, fine_hashes: int
) -> None:
    kit = VaultKit(tmp_path, block_size=BLOCK, volume_size=32 << 10)
    kit.options = replace(kit.options, rewriting=Rewriting(100.0), fine_hashes=fine_hashes)
    chance = random.Random(2)
    dump = chance.randbytes(128 << 10)
    source = MixedSource(streams={"dump": dump})
    first = kit.night(source).point
    source.streams["dump"] = b"".join(
        dump[at : at + 6000] + chance.randbytes((32 << 10) - 6000)
        for at in range(0, len(dump), 32 << 10)
    )
    second = kit.night(source).point

    third = kit.night(source).point

    assert third.counters["changed_bytes"] == 0
    assert 4096 <= third.counters["rewritten_bytes"] <= second.counters[CREDIT]
    shared = volumes_of(kit, first) & volumes_of(kit, second)
    assert len(shared - volumes_of(kit, third)) == 1
    require_whole(kit, source, [first, second, third])


def a_dump_that_changes_everywhere(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *, most: int
) -> tuple[VaultKit, MixedSource]:
    """Return a dump of 256 KiB in zones of 32 KiB, whose map is to have `most` extents."""
    monkeypatch.setattr(model, "ZONE", 32 << 10)
    monkeypatch.setattr(model, "_MOST_EXTENTS", most)
    kit = VaultKit(folder, block_size=BLOCK, volume_size=32 << 10)
    kit.options = replace(kit.options, rewriting=Rewriting(0.15), fine_hashes=1 << 20)
    return kit, MixedSource(streams={"dump": random.Random(4).randbytes(256 << 10)})


def changed_everywhere(dump: bytes, chance: random.Random) -> bytes:
    """Return a dump with a new row of 30 bytes in each 4 KiB."""
    rows = [dump[at : at + 4096] for at in range(0, len(dump), 4096)]
    places = [chance.randrange(3000) for _ in rows]
    return b"".join(
        row[:at] + chance.randbytes(30) + row[at + 30 :]
        for row, at in zip(rows, places, strict=True)
    )


def test_a_map_of_a_dump_gets_no_longer_than_it_may_for_a_zone_or_two_a_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit, source = a_dump_that_changes_everywhere(monkeypatch, tmp_path, most=600)
    points, extents = [kit.night(source).point], []
    chance = random.Random(5)
    for _ in range(24):
        source.streams["dump"] = changed_everywhere(source.streams["dump"], chance)
        points.append(kit.night(source).point)
        extents.append(len(kit.contents(points[-1]).maps[0]))

    a_night = extents[0]
    assert max(extents) <= 600 + a_night
    assert max(extents) > 600  # else nothing was ever too much
    rewritten = [point.counters["rewritten_bytes"] for point in points]
    assert max(rewritten) <= 2 * (32 << 10)
    # What paid for nothing took nothing from what old volumes may cost.
    assert points[-1].counters[CREDIT] > points[6].counters[CREDIT]
    require_whole(kit, source, points[-3:])


def test_where_nothing_may_be_stored_again_a_map_gets_as_long_as_it_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit, source = a_dump_that_changes_everywhere(monkeypatch, tmp_path, most=20)
    kit.options = replace(kit.options, rewriting=Rewriting(0))
    points = [kit.night(source).point]
    chance = random.Random(5)
    for _ in range(2):
        source.streams["dump"] = changed_everywhere(source.streams["dump"], chance)
        points.append(kit.night(source).point)

    assert [point.counters["rewritten_bytes"] for point in points] == [0, 0, 0]
    assert len(kit.contents(points[-1]).maps[0]) > 20


def test_a_night_that_changes_every_row_stores_the_dump_and_not_a_million_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit, source = a_dump_that_changes_everywhere(monkeypatch, tmp_path, most=4000)
    dump = bytearray(random.Random(6).randbytes(8 << 20))
    source.streams["dump"] = bytes(dump)
    first = kit.night(source).point
    for at in range(0, len(dump), 600):
        dump[at] ^= 1
    source.streams["dump"] = bytes(dump)

    second = kit.night(source).point

    # Two for each change would be 27,962. What is on its way when the map is full comes on top.
    assert 4000 < len(kit.contents(second).maps[0]) < 16_000
    require_whole(kit, source, [first, second])


def test_blocks_that_change_often_lie_apart_from_those_that_do_not(tmp_path: Path) -> None:
    kit, chance = a_kit(tmp_path), random.Random(3)
    disk = bytearray(chance.randbytes(256 * BLOCK))
    source = MixedSource(disks={"root": disk})
    kit.night(source)
    for _ in range(3):
        # Every other block of the first quarter each night, and a part of the rest once.
        for at in range(0, 64 * BLOCK, 2 * BLOCK):
            disk[at : at + BLOCK] = chance.randbytes(BLOCK)
        point = kit.night(source).point
    for at in range(BLOCK, 64 * BLOCK, 2 * BLOCK):
        disk[at : at + BLOCK] = chance.randbytes(BLOCK)
    for at in range(0, 64 * BLOCK, 2 * BLOCK):
        disk[at : at + BLOCK] = chance.randbytes(BLOCK)

    point = kit.night(source).point

    extents = kit.contents(point).maps[0]
    starts = (extents.starts() // BLOCK).tolist()
    places = dict(zip(starts, extents.place.tolist(), strict=True))
    often = {places[number] for number in range(0, 64, 2)}
    seldom = {places[number] for number in range(1, 64, 2)}
    assert often.isdisjoint(seldom)
    require_whole(kit, source, [point])
