# SPDX-License-Identifier: Apache-2.0
"""Lengths of OpenPGP packets: RFC 4880, section 4.2.3 has these examples."""

import pytest

from snapvault.adapters.sealers.packet_lengths import Length, part_size, read_length


@pytest.mark.parametrize(
    ("octets", "length"),
    [
        ("64", Length(1, 100, is_last=True)),
        ("c5fb", Length(2, 1723, is_last=True)),
        ("ff000186a0", Length(5, 100_000, is_last=True)),
        ("ef", Length(1, 32_768, is_last=False)),
        ("e1", Length(1, 2, is_last=False)),
        ("f0", Length(1, 65_536, is_last=False)),
        ("bf", Length(1, 191, is_last=True)),
        ("c000", Length(2, 192, is_last=True)),
        ("dfff", Length(2, 8383, is_last=True)),
    ],
)
def test_a_length_says_how_many_bytes_follow_and_if_they_are_the_last(
    octets: str, length: Length
) -> None:
    assert read_length(bytes.fromhex(octets) + b"body") == length


@pytest.mark.parametrize("octets", ["", "c5", "ff", "ff000186"])
def test_a_length_that_is_cut_off_is_none(octets: str) -> None:
    assert read_length(bytes.fromhex(octets)) is None


def test_only_parts_that_are_not_the_last_have_a_size_by_their_first_octet() -> None:
    sizes = {first: part_size(first) for first in range(256) if part_size(first)}

    assert sizes == {224 + power: 2**power for power in range(31)}
