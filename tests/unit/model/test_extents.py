# SPDX-License-Identifier: Apache-2.0
"""Maps: what they say, held against the bytes themselves."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.model import extents
from snapvault.model.extents import FIRST_VOLUME, PARENT, ZERO, ExtentMap

Row = tuple[int, int, int]

VOLUME_SIZE = 64
VOLUMES = {name: random.Random(name).randbytes(VOLUME_SIZE) for name in "abcd"}


def read(found: ExtentMap, parent: bytes = b"") -> bytes:
    """Read a stream through its map, the slow way."""
    stream = b""
    columns = found.length.tolist(), found.place.tolist(), found.offset.tolist()
    for length, place, offset in zip(*columns, strict=True):
        if place == ZERO:
            stream += bytes(length)
        else:
            whole = parent if place == PARENT else VOLUMES[found.volumes[place - FIRST_VOLUME]]
            assert offset + length <= len(whole)
            stream += whole[offset : offset + length]
    return stream


@st.composite
def maps_over(draw: st.DrawFn, parent_size: int = 0) -> ExtentMap:
    """Draw a map; of changes, when there is a parent."""
    volumes = draw(st.permutations(sorted(VOLUMES)))[: draw(st.integers(1, 4))]
    places = [ZERO, *range(FIRST_VOLUME, FIRST_VOLUME + len(volumes))]
    if parent_size:
        places.append(PARENT)
    rows: list[Row] = []
    for _ in range(draw(st.integers(0, 12))):
        place = draw(st.sampled_from(places))
        room = parent_size if place == PARENT else VOLUME_SIZE
        offset = 0 if place == ZERO else draw(st.integers(0, room - 1))
        rows.append((draw(st.integers(1, room - offset)), place, offset))
    return extents.from_rows(rows, volumes)


@st.composite
def histories(draw: st.DrawFn) -> list[ExtentMap]:
    """Draw a full map and changes, each to the one before it."""
    history = [draw(maps_over())]
    for _ in range(draw(st.integers(1, 4))):
        history.append(draw(maps_over(history[-1].size)))
    return history


@given(histories())
def test_composed_changes_give_the_bytes_that_they_say(history: list[ExtentMap]) -> None:
    full = history[0]
    stream = read(full)

    for changes in history[1:]:
        stream = read(changes, stream)
        full = extents.compose(changes, full)

        assert read(full) == stream
        assert full.is_full
        assert full.size == len(stream)


@given(histories())
def test_a_composed_map_is_as_short_as_it_can_be_and_lists_only_what_it_uses(
    history: list[ExtentMap],
) -> None:
    full = history[0]

    for changes in history[1:]:
        full = extents.compose(changes, full)

    assert set(full.live_bytes()) == set(full.volumes)
    assert len(extents.coalesce(full.length, full.place, full.offset)[0]) == len(full)


@given(histories())
def test_composing_keeps_the_order_of_the_parents_volumes(history: list[ExtentMap]) -> None:
    parent, changes = history[:2]

    full = extents.compose(changes, parent)

    kept = [volume for volume in parent.volumes if volume in full.volumes]
    assert list(full.volumes[: len(kept)]) == kept


@given(maps_over())
def test_coalescing_changes_no_byte(found: ExtentMap) -> None:
    short = ExtentMap(*extents.coalesce(found.length, found.place, found.offset), found.volumes)

    assert read(short) == read(found)
    assert len(short) <= len(found)


def test_coalescing_joins_zeros_and_bytes_that_adjoin_and_nothing_else() -> None:
    zeros: list[Row] = [(5, ZERO, 0), (6, ZERO, 0)]
    adjoining: list[Row] = [(5, 2, 10), (6, 2, 15)]
    apart: list[Row] = [(5, 2, 30), (6, 2, 36), (1, 3, 42)]
    loose = extents.from_rows([*zeros, *adjoining, *apart], ("a", "b"))

    short = ExtentMap(*extents.coalesce(loose.length, loose.place, loose.offset), loose.volumes)

    assert rows_of(short) == [(11, ZERO, 0), (11, 2, 10), *apart]


@given(st.lists(maps_over(), max_size=4))
def test_concatenated_columns_follow_each_other(parts: list[ExtentMap]) -> None:
    volumes = tuple(sorted(VOLUMES))
    columns = []
    for part in parts:
        table = np.array([0, 1, *(2 + volumes.index(each) for each in part.volumes)], np.uint32)
        columns.append((part.length, table[part.place], part.offset))

    joined = extents.concatenate(columns, volumes)

    assert read(joined) == b"".join(read(part) for part in parts)


@given(maps_over())
def test_live_bytes_are_counted_for_each_volume_in_use(found: ExtentMap) -> None:
    expected: dict[str, int] = {}
    for length, place, _ in rows_of(found):
        if place >= FIRST_VOLUME:
            volume = found.volumes[place - FIRST_VOLUME]
            expected[volume] = expected.get(volume, 0) + length

    live = found.live_bytes()

    assert live == expected
    assert list(live) == [volume for volume in found.volumes if volume in expected]


@given(maps_over())
def test_starts_are_the_sums_of_the_lengths_before(found: ExtentMap) -> None:
    starts = found.starts().tolist()

    assert starts == [sum(found.length.tolist()[:row]) for row in range(len(found))]


def test_a_stream_of_no_bytes_has_a_map() -> None:
    empty = extents.from_rows([], ())

    assert (len(empty), empty.size, empty.is_full, empty.live_bytes()) == (0, 0, True, {})
    assert extents.compose(empty, extents.from_rows([(5, ZERO, 0)], ())).size == 0
    assert extents.compose(extents.from_rows([(5, ZERO, 0)], ()), empty).size == 5


def test_sizes_beyond_32_bits_are_exact() -> None:
    tera = 1 << 40
    parent = extents.from_rows([(tera, 2, 0), (tera, ZERO, 0), (3, 2, 5 * tera)], ["a"])
    changes = extents.from_rows([(2, PARENT, 2 * tera + 1), (tera, PARENT, 7)], [])

    full = extents.compose(changes, parent)

    assert rows_of(full) == [(2, 2, 5 * tera + 1), (tera - 7, 2, 7), (7, ZERO, 0)]
    assert full.live_bytes() == {"a": tera - 5}


@pytest.mark.parametrize("row", [(1, PARENT, 10), (11, PARENT, 0), (5, PARENT, 6)])
def test_changes_beyond_the_end_of_the_parent_are_refused(row: Row) -> None:
    parent = extents.from_rows([(10, ZERO, 0)], ())

    with pytest.raises(ValueError, match="beyond the end"):
        extents.compose(extents.from_rows([row], ()), parent)


def test_changes_are_composed_onto_full_maps_only() -> None:
    changes = extents.from_rows([(5, PARENT, 0)], ())

    with pytest.raises(ValueError, match="no full map under it"):
        extents.compose(changes, changes)


@pytest.mark.parametrize(
    ("rows", "volumes", "words"),
    [([(0, ZERO, 0)], (), "empty extent"), ([(1, 3, 0)], ("a",), "does not list")],
)
def test_an_impossible_map_cannot_be_made(
    rows: Sequence[Row], volumes: Sequence[str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        extents.from_rows(rows, volumes)


def test_columns_of_different_lengths_are_no_map() -> None:
    whole = extents.from_rows([(1, ZERO, 0)], ())

    with pytest.raises(ValueError, match="differ in length"):
        ExtentMap(whole.length, whole.place, whole.offset[:0], ())


def rows_of(found: ExtentMap) -> list[Row]:
    columns = found.length.tolist(), found.place.tolist(), found.offset.tolist()
    return list(zip(*columns, strict=True))
