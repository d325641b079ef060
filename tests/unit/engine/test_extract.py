# SPDX-License-Identifier: Apache-2.0
"""Plans for bringing extents back, and the order in which a pipe gets them."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapvault.engine.contents import Contents
from snapvault.engine.extract import PIECE, Plan, plan
from snapvault.engine.restore import restore
from snapvault.engine.sequence import arrange
from snapvault.errors import RestoreError, SignatureError
from snapvault.formats.volume_list import VolumeRecord
from snapvault.model.extents import FIRST_VOLUME, ZERO, ExtentMap, from_rows
from tests.support.stores import RecordingStore
from tests.support.targets import MemoryTarget
from tests.support.vaults import MixedSource, VaultKit

VOLUMES = tuple(f"{number:032x}" for number in range(4))
RECORDS = {name: VolumeRecord(name, 1, "00" * 32) for name in VOLUMES}
UNIT = 4096

Rows = list[tuple[int, int, int]]


def rows(unit: int) -> st.SearchStrategy[Rows]:
    """Draw the rows of a full map whose lengths and places are multiples of a unit."""
    row = st.tuples(
        st.one_of(st.integers(1, 20), st.integers(1, 4 * PIECE // unit)),
        st.sampled_from([ZERO, *range(FIRST_VOLUME, FIRST_VOLUME + len(VOLUMES))]),
        st.integers(0, 50),
    )
    return st.lists(row, max_size=8).map(
        lambda drawn: [
            (length * unit, place, 0 if place == ZERO else at * 777) for length, place, at in drawn
        ]
    )


def pieces_of(work: Plan) -> list[tuple[str, int, int, int, int]]:
    """Return (volume, raw, length, stream, offset) in the plan's order."""
    return [
        (
            work.volumes[turn].volume,
            int(work.raw[index]),
            int(work.length[index]),
            int(work.stream[index]),
            int(work.offset[index]),
        )
        for turn in range(len(work.volumes))
        for index in range(int(work.bounds[turn]), int(work.bounds[turn + 1]))
    ]


def where(extents: ExtentMap, offset: int) -> tuple[str, int]:
    """Return the volume and raw offset of one byte of a map."""
    starts = extents.starts()
    index = int(np.searchsorted(starts, offset, side="right")) - 1
    volume = extents.volumes[int(extents.place[index]) - FIRST_VOLUME]
    return volume, int(extents.offset[index]) + offset - int(starts[index])


@given(st.tuples(rows(UNIT), rows(1)))
def test_pieces_cover_the_data_exactly_and_come_from_the_right_places(
    drawn: Sequence[Rows],
) -> None:
    maps = [from_rows(each, VOLUMES) for each in drawn]

    pieces = pieces_of(plan(maps, RECORDS, [UNIT, 1]))

    for number, extents in enumerate(maps):
        covered = sorted(
            (offset, length) for _, _, length, stream, offset in pieces if stream == number
        )
        assert all(begin + length <= after for (begin, length), (after, _) in pairwise(covered))
        assert sum(length for _, length in covered) == int(
            extents.length[extents.place != ZERO].sum()
        )
    for volume, raw, length, stream, offset in pieces:
        assert where(maps[stream], offset) == (volume, raw)
        assert where(maps[stream], offset + length - 1) == (volume, raw + length - 1)
        assert 0 < length <= PIECE


@given(st.tuples(rows(UNIT), rows(1)))
def test_pieces_never_split_a_unit(drawn: Sequence[Rows]) -> None:
    maps = [from_rows(each, VOLUMES) for each in drawn]

    pieces = pieces_of(plan(maps, RECORDS, [UNIT, 1]))

    for _, _, length, stream, offset in pieces:
        if stream == 0:
            assert offset % UNIT == 0
            assert length % UNIT == 0


@given(st.tuples(rows(UNIT), rows(1)))
def test_pieces_come_as_volumes_stream_by_and_volumes_by_first_use(drawn: Sequence[Rows]) -> None:
    maps = [from_rows(each, VOLUMES) for each in drawn]

    work = plan(maps, RECORDS, [UNIT, 1])

    first_use = [
        extents.volumes[int(place) - FIRST_VOLUME]
        for extents in maps
        for place in extents.place
        if place != ZERO
    ]
    assert [record.volume for record in work.volumes] == list(dict.fromkeys(first_use))
    for turn in range(len(work.volumes)):
        here = slice(int(work.bounds[turn]), int(work.bounds[turn + 1]))
        ends = (work.raw[here] + work.length[here]).tolist()
        assert ends
        assert ends == sorted(ends)


def test_a_block_larger_than_a_piece_stays_whole() -> None:
    unit = 4 * PIECE
    extents = from_rows([(3 * unit + 5, FIRST_VOLUME, 0)], VOLUMES)

    work = plan([extents], RECORDS, [unit])

    assert work.length.tolist() == [unit, unit, unit, 5]


def test_a_volume_that_nothing_vouches_for_is_refused() -> None:
    extents = from_rows([(5, FIRST_VOLUME, 0)], VOLUMES)

    with pytest.raises(SignatureError, match=VOLUMES[0]):
        plan([extents], {}, [1])


def test_an_unused_volume_needs_nobody_to_vouch() -> None:
    work = plan([from_rows([(5, ZERO, 0)], VOLUMES)], {}, [1])

    assert work.volumes == ()
    assert work.data_bytes == 0


@pytest.fixture
def shuffled(tmp_path: Path) -> tuple[VaultKit, MixedSource]:
    """A dump whose halves changed places again and again: volumes come in another order."""
    kit = VaultKit(tmp_path, volume_size=20_000)
    source = MixedSource(streams={"dump": random.Random(1).randbytes(150_000)})
    for number in range(5):
        kit.night(source)
        dump = source.streams["dump"]
        place = 30_000 + number * 13_000
        source.streams["dump"] = dump[place:] + random.Random(number).randbytes(99) + dump[:place]
    return kit, source


def test_the_spool_holds_exactly_what_comes_before_its_turn(
    shuffled: tuple[VaultKit, MixedSource],
) -> None:
    kit, _ = shuffled
    point = kit.inventory().held[-1].point

    order = arrange(kit.contents(point))

    arrived: set[int] = set()
    written = early = 0
    waiting: dict[int, int] = {}
    for index, (offset, length) in enumerate(
        zip(order.work.offset.tolist(), order.work.length.tolist(), strict=True)
    ):
        arrived.add(offset)
        if offset == written:
            assert not order.early[index]
            written += length
        else:
            assert order.early[index]
            waiting[offset] = length
            early += length
        while written in waiting:
            written += waiting.pop(written)
    assert written == point.size
    assert order.spool_bytes == early > 0


def test_a_dump_leaves_the_pipe_in_its_own_order(shuffled: tuple[VaultKit, MixedSource]) -> None:
    kit, source = shuffled

    points = [held.point for held in kit.inventory().held]

    assert [kit.streamed(point) for point in points] == [source.at(point) for point in points]


def test_a_stream_stored_in_order_takes_no_spool(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)
    held = kit.night(MixedSource(streams={"dump": random.Random(1).randbytes(300_000)}))

    order = arrange(kit.contents(held.point))

    assert order.spool_bytes == 0
    assert not order.early.any()


def test_a_spool_without_room_is_refused_before_the_first_byte(
    shuffled: tuple[VaultKit, MixedSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    kit, _ = shuffled
    point = kit.inventory().held[-1].point
    full = shutil.disk_usage(kit.folder)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)

    with pytest.raises(RestoreError, match="10 B free"):
        kit.streamed(point)


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(1, 900)), min_size=1, max_size=12))
@settings(max_examples=15)
def test_overlapping_parts_of_a_volume_all_come_from_one_reading(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int]]
) -> None:
    data = random.Random(1).randbytes(900_000)
    kit = VaultKit(tmp_path_factory.mktemp("vault"), volume_size=1 << 20)
    contents = kit.contents(kit.night(MixedSource(streams={"dump": data})).point)
    spans = [(min(at * 900, 899_999), length * 1000) for at, length in parts]
    rows = [(min(length, len(data) - at), FIRST_VOLUME, at) for at, length in spans]
    expected = b"".join(data[at : at + length] for length, _, at in rows)
    store = RecordingStore(kit.store)
    target = MemoryTarget(len(expected))

    restore(kit.recovery(store), with_map(contents, rows, expected), [target])

    assert target.content == expected
    assert len(store.called("open")) == 1


def test_a_map_that_points_beyond_a_volume_s_end_is_refused(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)
    contents = kit.contents(kit.night(MixedSource(streams={"dump": b"x" * 5000})).point)
    target = MemoryTarget(6000)

    with pytest.raises(SignatureError, match="beyond the end"):
        restore(
            kit.recovery(), with_map(contents, [(6000, FIRST_VOLUME, 0)], b"x" * 6000), [target]
        )

    assert target.content is None


def with_map(contents: Contents, rows: Rows, expected: bytes) -> Contents:
    """Give the one stream of some contents another map, and the digest that belongs to it."""
    (stream,), (extents,) = contents.streams, contents.maps
    digest = hashlib.sha256(expected).hexdigest()
    other = replace(stream, size=len(expected), digest=digest)
    return replace(contents, streams=(other,), maps=(from_rows(rows, extents.volumes),))
