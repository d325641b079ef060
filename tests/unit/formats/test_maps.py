# SPDX-License-Identifier: Apache-2.0
"""Maps as bytes."""

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.errors import IntegrityError, SignatureError
from snapvault.formats import maps
from snapvault.model import extents
from snapvault.model.extents import FIRST_VOLUME, ZERO, ExtentMap

A = "00112233445566778899aabbccddeeff"
B = "ffeeddccbbaa99887766554433221100"

ROWS = st.lists(
    st.tuples(st.integers(1, 1 << 45), st.integers(0, 3), st.integers(0, 1 << 50)), max_size=30
)


def build(rows: list[tuple[int, int, int]]) -> ExtentMap:
    clean = [(length, place, 0 if place == ZERO else at) for length, place, at in rows]
    return extents.from_rows(clean, (A, B))


def as_lists(found: ExtentMap) -> tuple[Any, ...]:
    columns = found.length.tolist(), found.place.tolist(), found.offset.tolist()
    return (*columns, found.volumes)


@given(ROWS)
def test_any_map_comes_back(rows: list[tuple[int, int, int]]) -> None:
    found = build(rows)

    header = json.loads(json.dumps(maps.header("root", found)))
    decoded = maps.decode(header, b"".join(maps.encode(found)))

    assert as_lists(decoded) == as_lists(found)


@given(ROWS)
def test_a_map_takes_twenty_bytes_an_extent(rows: list[tuple[int, int, int]]) -> None:
    assert len(b"".join(maps.encode(build(rows)))) == 20 * len(rows)


@given(ROWS, st.data())
def test_any_flipped_byte_is_refused_or_gives_a_possible_map_of_the_same_size(
    rows: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    found = build([(1, FIRST_VOLUME, 0), *rows])
    payload = bytearray(b"".join(maps.encode(found)))
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))

    try:
        decoded = maps.decode(maps.header("root", found), bytes(payload))
    except IntegrityError:
        return

    assert decoded.size == found.size


def test_the_bytes_are_those_of_the_documents_example() -> None:
    rows = [(4096, 2, 0), (8192, 0, 0), (4096, 1, 20480), (100, 2, 4096), (50, 3, 7)]
    found = extents.from_rows(rows, (A, B))

    payload = b"".join(maps.encode(found))

    assert payload == bytes.fromhex(
        "00100000 00000000  00200000 00000000  00100000 00000000  64000000 00000000"
        "32000000 00000000  02000000  00000000  01000000  02000000  03000000"
        "00000000 00000000  00000000 00000000  00200000 00000000  00000000 00000000"
        "a3efffff ffffffff"
    )
    assert maps.header("root", found) == {
        "kind": "map",
        "stream": "root",
        "full": False,
        "size": 16534,
        "extents": 5,
        "volumes": [A, B],
    }


def test_data_that_follows_itself_is_written_as_zeros() -> None:
    rows = [(4096, 2, 4096 * row) if row % 2 else (512, 0, 0) for row in range(100)]
    moved = extents.from_rows([(length, place, at // 2) for length, place, at in rows], (A,))

    payload = b"".join(maps.encode(moved))

    shifts = struct.unpack("<100q", payload[1200:])
    assert sum(shift != 0 for shift in shifts) <= 1


@pytest.mark.parametrize(
    "change",
    [
        {"extents": 2},
        {"extents": -1},
        {"extents": "many"},
        {"extents": None},
        {"size": 11},
        {"size": 9},
        {"size": -1},
        {"full": False},
        {"volumes": []},
        {"volumes": [A, A]},
        {"volumes": ["../../../../etc/passwd"]},
        {"volumes": None},
        {"volumes": 7},
    ],
)
def test_a_header_that_contradicts_the_columns_is_refused(change: dict[str, Any]) -> None:
    found = extents.from_rows([(10, 2, 0)], (A,))

    with pytest.raises(SignatureError, match="map cannot be read"):
        maps.decode({**maps.header("root", found), **change}, b"".join(maps.encode(found)))


@pytest.mark.parametrize("key", ["size", "extents", "volumes", "full"])
def test_a_header_without_a_member_is_refused(key: str) -> None:
    found = extents.from_rows([(10, 2, 0)], (A,))
    header = maps.header("root", found)
    del header[key]

    with pytest.raises(SignatureError, match="map cannot be read"):
        maps.decode(header, b"".join(maps.encode(found)))


@pytest.mark.parametrize(
    ("length", "place", "shift"), [(0, 2, 0), (10, 3, 0), (10, 0, 1), (10, 1, -1), (10, 2, -1)]
)
def test_an_impossible_extent_is_refused(length: int, place: int, shift: int) -> None:
    header = {"size": length, "extents": 1, "volumes": [A], "full": place != 1}

    with pytest.raises(SignatureError, match="map cannot be read"):
        maps.decode(header, struct.pack("<QIq", length, place, shift))
