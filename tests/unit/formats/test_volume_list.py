# SPDX-License-Identifier: Apache-2.0
"""Lists of volumes."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.errors import FormatVersionError, IntegrityError, ManifestError
from snapvault.formats import volume_list
from snapvault.formats.volume_list import LIST_LENGTH, MOST_SMALL, VolumeRecord


def record(number: int) -> VolumeRecord:
    return VolumeRecord(f"{number:032x}", 1000 + number, hashlib.sha256(b"%d" % number).hexdigest())


RECORDS = st.lists(st.integers(0, 1 << 100), unique=True, max_size=20).map(
    lambda numbers: tuple(record(number) for number in numbers)
)


@given(RECORDS)
def test_any_list_comes_back(records: tuple[VolumeRecord, ...]) -> None:
    assert volume_list.decode(volume_list.encode(records)) == records


@given(RECORDS)
def test_equal_lists_have_equal_names(records: tuple[VolumeRecord, ...]) -> None:
    first, again = volume_list.encode(records), volume_list.encode(list(records))

    assert volume_list.digest(first) == volume_list.digest(again)
    assert volume_list.digest(first) == hashlib.sha256(first).hexdigest()


def test_the_bytes_are_the_documents() -> None:
    entry = VolumeRecord("00112233445566778899aabbccddeeff", 67_000_123, "ab" * 32)

    encoded = volume_list.encode([entry])

    assert encoded == (
        b'{"format":1,"volumes":[["00112233445566778899aabbccddeeff",67000123,"'
        + b"ab" * 32
        + b'"]]}\n'
    )


@given(RECORDS, st.data())
def test_damaged_bytes_are_refused_or_a_list(
    records: tuple[VolumeRecord, ...], data: st.DataObject
) -> None:
    encoded = bytearray(volume_list.encode(records))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))

    try:
        decoded = volume_list.decode(bytes(encoded))
    except IntegrityError:
        return

    assert len(decoded) == len(records)


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"[]",
        b"7",
        b"\xff",
        b'{"volumes": []}',
        b'{"format": 1}',
        b'{"format": 1, "volumes": 7}',
        b'{"format": 1, "volumes": [[]]}',
        b'{"format": 1, "volumes": [["00", 5, "00"]]}',
        json.dumps({"format": 1, "volumes": [[f"{1:032x}", 0, "ab" * 32]]}).encode(),
        json.dumps({"format": 1, "volumes": [[f"{1:032x}", "five", "ab" * 32]]}).encode(),
    ],
)
def test_anything_else_is_no_list(encoded: bytes) -> None:
    with pytest.raises(ManifestError):
        volume_list.decode(encoded)


def test_a_newer_list_is_refused_by_its_number() -> None:
    with pytest.raises(FormatVersionError, match="format 2"):
        volume_list.decode(b'{"format": 2, "rows": []}')


# --- arranging --------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.integers(0, 60), max_size=12), max_size=20),
    st.sets(st.integers(0, 80)),
)
def test_arranged_lists_hold_every_live_volume_once_and_nothing_else(
    previous: list[list[int]], live: set[int]
) -> None:
    wanted = [record(number) for number in sorted(live)]

    lists = volume_list.arrange(
        [[record(number) for number in entry] for entry in previous], wanted
    )

    held = [each for entry in lists for each in entry]
    assert sorted(held, key=lambda each: each.volume) == wanted
    assert all(0 < len(entry) <= LIST_LENGTH for entry in lists)


def test_a_list_whose_volumes_all_live_is_shared() -> None:
    old = [tuple(record(number) for number in range(10)), (record(10), record(11))]
    live = [*old[0], record(11), record(50)]

    lists = volume_list.arrange(old, live)

    assert lists == [old[0], (record(11),), (record(50),)]


def test_many_volumes_are_divided() -> None:
    live = [record(number) for number in range(2 * LIST_LENGTH + 1)]

    lists = volume_list.arrange([], live)

    assert [len(entry) for entry in lists] == [LIST_LENGTH, LIST_LENGTH, 1]


def test_lists_do_not_crumble_over_the_years() -> None:
    lists: list[tuple[VolumeRecord, ...]] = []

    for night in range(100):
        live = [each for entry in lists for each in entry]
        lists = volume_list.arrange(lists, [*live, record(night)])

        assert len(lists) <= MOST_SMALL + 1
