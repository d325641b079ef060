# SPDX-License-Identifier: Apache-2.0
"""How long the body of an OpenPGP packet is, or a part of it: RFC 4880, section 4.2.2."""

from typing import Final, NamedTuple

LONGEST: Final = 5
"""Octets that a length has at most."""


class Length(NamedTuple):
    """Bytes of a body, or of a part of it behind which another length follows."""

    octets: int
    """That the length itself takes."""

    size: int
    is_last: bool


def part_size(first: int) -> int:
    """Return the bytes of a part that is not the last one; 0 if this begins another length."""
    return 1 << (first & 0x1F) if 224 <= first < 255 else 0


def read_length(octets: bytes) -> Length | None:
    """Read the length that begins here; None if these are not all of its octets."""
    if not octets:
        return None
    first = octets[0]
    if size := part_size(first):
        return Length(1, size, is_last=False)
    if first < 192:
        return Length(1, first, is_last=True)
    if first < 224:
        wanted, size = 2, ((first - 192) << 8) + 192 + int.from_bytes(octets[1:2], "big")
    else:
        wanted, size = LONGEST, int.from_bytes(octets[1:LONGEST], "big")
    return Length(wanted, size, is_last=True) if len(octets) >= wanted else None
