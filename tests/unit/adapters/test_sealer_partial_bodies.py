# SPDX-License-Identifier: Apache-2.0
"""Finding places in the body of a packet that comes in parts, by counting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.adapters.sealers.partial_bodies import REACH, Body, LayoutError, cut, parse

PART = 512


def definite(length: int) -> bytes:
    """Write the length of a last part."""
    if length < 192:
        return bytes([length])
    if length < 8384:
        return bytes([(length - 192 >> 8) + 192, length - 192 & 0xFF])
    return b"\xff" + length.to_bytes(4, "big")


def packed(body: bytes, *, part: int = PART) -> bytes:
    """Write a length and a body as gpg does: equal parts, then powers of two, then the rest."""
    out, at = bytearray(), 0
    while len(body) - at > part:
        out += bytes([0xE0 | part.bit_length() - 1]) + body[at : at + part]
        at += part
    while len(body) - at >= 512 < part:
        size = 1 << (len(body) - at).bit_length() - 1
        out += bytes([0xE0 | size.bit_length() - 1]) + body[at : at + size]
        at += size
    return bytes(out) + definite(len(body) - at) + body[at:]


def body_of(size: int) -> bytes:
    return bytes(number * 7 % 251 for number in range(size))


class Looking:
    """Bytes that are looked at, and which of them were."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.calls: list[tuple[int, int]] = []

    def __call__(self, begin: int, end: int) -> bytes:
        assert 0 <= begin < end <= len(self.data)
        self.calls.append((begin, end))
        return self.data[begin:end]


@given(
    size=st.one_of(st.integers(0, 3000), st.integers(15_000, 60_000)),
    before=st.integers(0, 3),
    part=st.sampled_from([512, 2048, 8192]),
    places=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_any_range_of_a_body_is_found_by_counting(
    size: int, before: int, part: int, places: tuple[float, float]
) -> None:
    body = body_of(size)
    look = Looking(b"x" * before + packed(body, part=part))
    end = len(look.data)

    found = parse(look, before, end)
    begin, stop = sorted(int(place * size) for place in places)

    assert found.size == size
    assert all(at == before or at >= end - REACH for at, _ in look.calls)
    look.calls.clear()
    assert cut(found, begin, stop, look) == body[begin:stop]
    assert len(look.calls) == (begin < stop)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes([5]) + b"four",
        bytes([4]) + b"four.",
        b"\xff\x00\x00",
        bytes([0xE9]) + bytes(512),  # no last part
        bytes([0xE9]) + bytes(512) + bytes([3]) + b"four",
        bytes([0xEE]) + bytes(16384) + b"\x00",  # larger parts than we know
    ],
    ids=["nothing", "too short", "too long", "cut", "endless", "ends early", "larger"],
)
def test_lengths_that_do_not_add_up_are_no_layout(data: bytes) -> None:
    with pytest.raises(LayoutError):
        parse(Looking(data), 0, len(data))


def test_what_is_beyond_the_end_of_a_body_is_no_layout() -> None:
    with pytest.raises(LayoutError):
        list(Body(1, 4, ((0, 1, 4),)).locate(2, 5))
