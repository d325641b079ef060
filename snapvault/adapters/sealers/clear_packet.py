# SPDX-License-Identifier: Apache-2.0
"""What an encrypted packet (version 1) holds in clear: a prefix, literal data, and a digest.

Source: RFC 4880, sections 5.9, 5.13 and 5.14.
"""

from typing import Final

from snapvault.adapters.sealers.cfb import BLOCK
from snapvault.adapters.sealers.partial_bodies import LayoutError

VERSION: Final = b"\x01"
"""Of the packet; it is not encrypted."""

PREFIX: Final = BLOCK + 2
"""Bytes, random; the last two repeat the two before them. The literal packet follows."""

DIGEST_PACKET: Final = b"\xd3\x14"
"""What follows the literal packet: 20 bytes of SHA-1 come behind it."""

DIGEST_SIZE: Final = 22
"""Bytes of the digest's packet, which is the last."""

_LITERAL = 0xC0 | 11  # a packet's first octet


def require_literal(clear: bytes) -> None:
    """Return if the packet begins as one that holds literal data, and was opened by its key.

    Raises:
        LayoutError: it does not, in its first `PREFIX` + 1 bytes.
    """
    if clear[PREFIX - 4 : PREFIX - 2] != clear[PREFIX - 2 : PREFIX]:
        raise LayoutError("this is not its key")
    if clear[PREFIX] != _LITERAL:
        raise LayoutError("it does not hold literal data")


def before_data(start: bytes) -> int:
    """Return how many bytes of a literal packet's body come before the data.

    `start` is the first two bytes of the body, or more.

    Raises:
        LayoutError: it is no binary data.
    """
    form, name_size = start[:2]
    if form != ord("b"):
        raise LayoutError("it holds text")
    return 1 + 1 + name_size + 4  # format, name with its length, time
