# SPDX-License-Identifier: Apache-2.0
"""Streams of bytes against the night before, with real librsync."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from snapvault.engine.anchors import Survey
from snapvault.engine.fine import FineWriter
from snapvault.engine.rolling import block_length_for, first_lengths
from snapvault.errors import SourceError
from snapvault.formats import names
from tests.support.stores import CrashingStore, PowerCut
from tests.support.vaults import MixedSource, VaultKit, require_whole

pytestmark = pytest.mark.integration

GIB = 1 << 30


@pytest.fixture
def kit(tmp_path: Path) -> VaultKit:
    return VaultKit(tmp_path)


def dump_of(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize(
    ("size", "has_finer", "length"),
    [
        (0, False, 2048),
        (1, False, 2048),
        (2 * GIB, False, 2048),
        (2 * GIB + 1, False, 4096),
        (4 * GIB, False, 4096),
        (1024 * GIB, False, 1 << 20),
        (0, True, 8192),
        (8 * GIB, True, 8192),
        (8 * GIB + 1, True, 16384),
        (1024 * GIB, True, 1 << 20),
    ],
)
def test_the_block_length_keeps_a_signature_to_a_million_blocks(
    size: int,
    has_finer: bool,  # noqa: FBT001 - a parameter of the test, given by name
    length: int,
) -> None:
    assert block_length_for(size, has_finer=has_finer) == length


def test_a_first_stream_is_signed_with_a_length_for_small_and_one_for_large() -> None:
    assert first_lengths(has_finer=False) == (2048, 128 << 10)
    assert first_lengths(has_finer=True) == (8192, 512 << 10)


@pytest.mark.parametrize(
    ("before", "after", "at_most"),
    [
        pytest.param(b"", dump_of(50_000), 50_000, id="from empty"),
        pytest.param(dump_of(50_000), b"", 0, id="to empty"),
        pytest.param(b"", b"", 0, id="always empty"),
        pytest.param(dump_of(50_000), dump_of(50_000), 0, id="unchanged"),
        pytest.param(
            dump_of(50_000), dump_of(50_000)[:25_000] * 2, 4096, id="second half repeats the first"
        ),
        pytest.param(
            dump_of(50_000), dump_of(50_000)[20_000:] + dump_of(50_000)[:20_000], 4096, id="moved"
        ),
        pytest.param(dump_of(50_000), dump_of(50_000)[3:], 2048, id="beginning cut off"),
        pytest.param(dump_of(50_000), dump_of(50_000)[:-1], 2048, id="end cut off"),
        pytest.param(dump_of(50_000), dump_of(50_000) + b"more", 2048, id="appended"),
        pytest.param(dump_of(50_000), dump_of(1, 2), 1, id="one byte left"),
        pytest.param(bytes(50_000), bytes(70_000), 2048, id="zeros"),
    ],
)
def test_a_stream_comes_back_and_costs_what_is_new(
    kit: VaultKit, before: bytes, after: bytes, at_most: int
) -> None:
    source = MixedSource(streams={"dump": before})
    first = kit.night(source)
    source.streams["dump"] = after

    second = kit.night(source)

    require_whole(kit, source, [first.point, second.point])
    assert second.point.counters["changed_bytes"] <= at_most


def test_a_stream_that_was_interrupted_is_matched_with_what_was_stored(kit: VaultKit) -> None:
    # The parent's last block is short, and so are the ends of what each volume holds.
    source = MixedSource(streams={"dump": dump_of(30_001)})
    kit.night(source)
    source.streams["dump"] = dump_of(30_001)[:20_000] + dump_of(400_003, 2)
    with pytest.raises(PowerCut):
        kit.night(source, CrashingStore(kit.store, writes_before_crash=4))
    left = kit.objects(names.VOLUMES)

    held = kit.night(source)

    used = {names.volume(name) for name in kit.contents(held.point).maps[0].volumes}
    assert len(left) == 5
    assert set(left) <= used
    assert held.point.counters["changed_bytes"] < 400_003 - 3 * 65_536
    require_whole(kit, source, [each.point for each in kit.inventory().held])


def test_a_first_stream_that_was_interrupted_is_matched_with_what_was_stored(
    kit: VaultKit,
) -> None:
    source = MixedSource(streams={"dump": dump_of(400_003, 2)})
    with pytest.raises(PowerCut):
        kit.night(source, CrashingStore(kit.store, writes_before_crash=3))
    left = kit.objects(names.VOLUMES)
    source.streams["dump"] = source.streams["dump"][1000:]

    held = kit.night(source)

    used = {names.volume(name) for name in kit.contents(held.point).maps[0].volumes}
    assert set(left) <= used
    require_whole(kit, source, [held.point])


def test_a_stream_that_breaks_makes_no_point_and_leaves_no_view_open(kit: VaultKit) -> None:
    source = MixedSource(streams={"dump": dump_of(300_000)})
    kit.night(source)
    source.faults.after_bytes = 200_000

    with pytest.raises(SourceError, match="broke"):
        kit.night(source)

    assert len(kit.inventory().held) == 1
    assert source.record.left_open == 0


def test_an_unchanged_stream_that_repeats_itself_keeps_every_volume_of_its_map(
    kit: VaultKit,
) -> None:
    source = MixedSource(streams={"dump": dump_of(36 * 2048) * 5})
    kit.night(source)
    second = kit.night(source)
    source.streams["dump"] = source.streams["dump"][:300_000]

    third = kit.night(source)

    require_whole(kit, source, [second.point, third.point])


# --- finer hashes ----------------------------------------------------------------------------


def rows_of(count: int, seed: int = 1) -> list[bytes]:
    chance = random.Random(seed)
    return [
        b"(%d,'%s')," % (number, chance.randbytes(60).hex().encode()) for number in range(count)
    ]


def edited(rows: list[bytes], seed: int) -> list[bytes]:
    """Change the length and the bytes of a row in fifty."""
    chance = random.Random(seed)
    return [
        row[:20] + b"%x" % chance.getrandbits(chance.randrange(8, 64)) + row[30:]
        if chance.random() < 0.02
        else row
        for row in rows
    ]


def test_of_a_changed_row_the_night_stores_little_more_than_the_row(kit: VaultKit) -> None:
    rows = rows_of(4000)
    source = MixedSource(streams={"dump": b"".join(rows)})
    points = [kit.night(source).point]
    for night in (1, 2, 3):
        rows = edited(rows, night)
        source.streams["dump"] = b"".join(rows)
        points.append(kit.night(source).point)

    require_whole(kit, source, points)
    changed_rows = 80
    for point in points[1:]:
        assert point.counters["changed_bytes"] < changed_rows * 1.5 * 384


def spoil_by_losing_the_anchors(path: Path, _: bytes) -> None:
    path.with_suffix(".anchors").unlink()


def spoil_by_anchors_of_what_comes(path: Path, coming: bytes) -> None:
    survey = Survey(None, 0)
    survey.feed(b"(elsewhere)" * 20 + coming)
    survey.write(path.with_suffix(".anchors"))


@pytest.mark.parametrize("spoil", [spoil_by_losing_the_anchors, spoil_by_anchors_of_what_comes])
def test_anchors_that_are_lost_cost_little(
    kit: VaultKit, spoil: Callable[[Path, bytes], None]
) -> None:
    rows = rows_of(4000)
    source = MixedSource(streams={"dump": b"".join(rows)})
    first = kit.night(source)
    (path,) = (kit.folder / "state").rglob("*.fine")
    source.streams["dump"] = b"".join(edited(rows, 1))
    spoil(path, source.streams["dump"])

    second = kit.night(source)

    require_whole(kit, source, [first.point, second.point])
    assert second.point.counters["changed_bytes"] < 80 * 1.5 * 384 * 5


def test_a_host_that_lost_its_state_goes_on_with_the_vaults_coarser_signature(
    kit: VaultKit,
) -> None:
    rows = rows_of(4000)
    source = MixedSource(streams={"dump": b"".join(rows)})
    first = kit.night(source)
    shutil.rmtree(kit.folder / "state" / "sources")
    rows[1000] = rows[3000] = b"(changed),"
    source.streams["dump"] = b"".join(rows)

    second = kit.night(source)

    rows[2000] = b"(changed too),"
    source.streams["dump"] = b"".join(rows)
    third = kit.night(source)
    require_whole(kit, source, [first.point, second.point, third.point])
    assert second.point.counters["changed_bytes"] <= 2 * 2 * 8192
    assert third.point.counters["changed_bytes"] <= 3 * 128


def test_a_vault_with_signatures_of_small_blocks_goes_on_with_larger_ones(kit: VaultKit) -> None:
    options = kit.options
    kit.options = replace(options, fine_hashes=0)
    rows = rows_of(4000)
    source = MixedSource(streams={"dump": b"".join(rows)})
    points = [kit.night(source).point]
    kit.options = options
    for place in (1000, 2000):
        rows[place] = b"(changed),"
        source.streams["dump"] = b"".join(rows)
        points.append(kit.night(source).point)
    kit.options = replace(options, fine_hashes=0)
    points.append(kit.night(source).point)

    assert [point.streams[0].block_size for point in points] == [2048, 8192, 8192, 2048]
    assert points[1].counters["changed_bytes"] <= 2 * 2048
    assert points[2].counters["changed_bytes"] <= 3 * 128
    assert points[3].counters["changed_bytes"] == 0
    require_whole(kit, source, points)


def test_what_a_night_uploads_of_an_unsorted_dump_is_found_where_it_went(kit: VaultKit) -> None:
    rows = rows_of(4000)
    source = MixedSource(streams={"dump": b"".join(rows)})
    first = kit.night(source)
    source.streams["dump"] = b"".join([*rows[3000:], *rows[1000:3000], *rows[:1000]])

    second = kit.night(source)

    require_whole(kit, source, [first.point, second.point])
    assert second.point.counters["changed_bytes"] <= 4 * 1024


def spoil_by_removal(path: Path, _: bytes) -> None:
    path.unlink()


def spoil_by_a_bit(path: Path, _: bytes) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def spoil_by_cutting(path: Path, _: bytes) -> None:
    path.write_bytes(path.read_bytes()[:-6])


def spoil_by_hashes_of_what_comes(path: Path, coming: bytes) -> None:
    """Claim that the old stream has already what the next night brings."""
    with path.open("wb") as file:
        FineWriter(file, 1 << 20).feed(coming)


@pytest.mark.parametrize(
    "spoil",
    [spoil_by_removal, spoil_by_a_bit, spoil_by_cutting, spoil_by_hashes_of_what_comes],
)
def test_finer_hashes_that_are_lost_cost_one_night_and_no_data(
    kit: VaultKit, spoil: Callable[[Path, bytes], None]
) -> None:
    rows = rows_of(4000)
    source = MixedSource(streams={"dump": b"".join(rows)})
    first = kit.night(source)
    (path,) = (kit.folder / "state").rglob("*.fine")
    second_rows = edited(rows, 1)
    source.streams["dump"] = b"".join(second_rows)
    spoil(path, source.streams["dump"])

    second = kit.night(source)

    source.streams["dump"] = b"".join(edited(second_rows, 2))
    third = kit.night(source)
    require_whole(kit, source, [first.point, second.point, third.point])
    assert 3 * third.point.counters["changed_bytes"] < second.point.counters["changed_bytes"]


def test_without_room_for_finer_hashes_there_are_none(kit: VaultKit) -> None:
    kit.options = replace(kit.options, fine_hashes=0)
    rows = rows_of(2000)
    source = MixedSource(streams={"dump": b"".join(rows)})
    kit.night(source)
    source.streams["dump"] = b"".join(edited(rows, 1))

    kit.night(source)

    assert not list((kit.folder / "state").rglob("*.fine"))
