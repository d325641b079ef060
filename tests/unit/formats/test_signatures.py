# SPDX-License-Identifier: Apache-2.0
"""Block signatures as bytes."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.errors import SignatureError
from snapvault.formats import signatures
from snapvault.formats.signatures import REGION_BLOCKS, Log, Page

ZERO = bytes(16)

# Blocks on both sides of the edge between two regions, and a few more.
NUMBERS = st.sampled_from([0, 1, 7, REGION_BLOCKS - 1, REGION_BLOCKS, 3 * REGION_BLOCKS + 5])
HASHES = st.binary(min_size=16, max_size=16)
Blocks = dict[int, bytes]


def pages_of(blocks: Blocks) -> list[Page]:
    found = []
    for region in sorted({number // REGION_BLOCKS for number in blocks}):
        mine = sorted(number for number in blocks if number // REGION_BLOCKS == region)
        index = np.array([number % REGION_BLOCKS for number in mine], np.uint16)
        hashes = signatures.hashes_from(b"".join(blocks[number] for number in mine))
        found.append(Page(region, index, hashes))
    return found


def blocks_of(pages: list[Page]) -> Blocks:
    return {
        page.region * REGION_BLOCKS + int(index): page.hashes[row].tobytes()
        for page in pages
        for row, index in enumerate(page.index)
    }


def encode(blocks: Blocks) -> bytes:
    return b"".join(page.encode() for page in pages_of(blocks))


@given(st.dictionaries(NUMBERS, HASHES))
def test_any_pages_come_back(blocks: Blocks) -> None:
    assert blocks_of(list(signatures.pages(io.BytesIO(encode(blocks))))) == blocks


@given(
    st.lists(
        st.tuples(st.dictionaries(NUMBERS, HASHES | st.just(ZERO)), NUMBERS.map(lambda n: n + 1)),
        min_size=1,
        max_size=4,
    )
)
def test_composing_gives_the_hashes_of_the_last_entry(history: list[tuple[Blocks, int]]) -> None:
    now: Blocks = {}
    logs = []
    for drawn, count in history:
        changes = {number: value for number, value in drawn.items() if number < count}
        now = {number: value for number, value in (now | changes).items() if number < count}
        logs.append(Log(iter(pages_of(changes)), count))

    composed = blocks_of(list(signatures.compose(logs)))

    assert composed == {number: value for number, value in now.items() if value != ZERO}


def test_a_disk_that_shrank_and_grew_again_has_zeros_there() -> None:
    first = Log(iter(pages_of({0: b"a" * 16, 5: b"b" * 16})), 6)
    shrunk = Log(iter(pages_of({})), 3)
    grown = Log(iter(pages_of({})), 6)

    composed = blocks_of(list(signatures.compose([first, shrunk, grown])))

    assert composed == {0: b"a" * 16}


def test_the_bytes_are_those_of_the_documents_example() -> None:
    hashes = signatures.hashes_from(b"\x11" * 16 + ZERO + b"\x22" * 16)

    page = signatures.page_of(0, hashes, signatures.is_nonzero(hashes))

    assert page is not None
    assert page.encode() == bytes.fromhex("00000000 02000000  0000 0200" + "11" * 16 + "22" * 16)


def test_blocks_that_nobody_wants_make_no_page() -> None:
    hashes = signatures.no_hashes(3)

    assert signatures.page_of(0, hashes, signatures.is_nonzero(hashes)) is None


@given(st.lists(st.tuples(HASHES, HASHES | st.none()), min_size=1, max_size=8))
def test_hashes_differ_when_any_byte_does(pairs: list[tuple[bytes, bytes | None]]) -> None:
    left = signatures.hashes_from(b"".join(old for old, _ in pairs))
    right = signatures.hashes_from(b"".join(new or old for old, new in pairs))

    found = signatures.differ(left, right).tolist()

    assert found == [(new or old) != old for old, new in pairs]


@pytest.mark.parametrize("position", range(16))
def test_a_single_bit_makes_a_hash_nonzero(position: int) -> None:
    raw = bytearray(32)
    raw[16 + position] = 0x80

    assert signatures.is_nonzero(signatures.hashes_from(raw)).tolist() == [False, True]


@given(st.dictionaries(NUMBERS, HASHES, min_size=1), st.data())
def test_pages_cut_inside_are_refused(blocks: Blocks, data: st.DataObject) -> None:
    last_page = len(pages_of(blocks)[-1].encode())
    encoded = encode(blocks)
    cut = data.draw(st.integers(len(encoded) - last_page + 1, len(encoded) - 1))

    with pytest.raises(SignatureError, match="cut short"):
        list(signatures.pages(io.BytesIO(encoded[:cut])))


@pytest.mark.parametrize(
    "encoded",
    [
        struct.pack("<II", 0, 0),
        struct.pack("<II", 0, REGION_BLOCKS + 1),
        struct.pack("<IIHH", 0, 2, 5, 5) + bytes(32),
        struct.pack("<IIHH", 0, 2, 5, 4) + bytes(32),
        2 * (struct.pack("<IIH", 1, 1, 5) + bytes(16)),
        struct.pack("<IIH", 1, 1, 5) + bytes(16) + struct.pack("<IIH", 0, 1, 5) + bytes(16),
    ],
)
def test_pages_out_of_order_are_refused(encoded: bytes) -> None:
    with pytest.raises(SignatureError):
        list(signatures.pages(io.BytesIO(encoded)))
