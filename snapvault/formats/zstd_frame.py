# SPDX-License-Identifier: Apache-2.0
"""Where the blocks of a zstd frame lie: RFC 8878, section 3.1.1.

zstd unpacks a block once all of it is there; who has the start of a frame finds here how much more
makes the next block whole.
"""

from typing import Final

from snapvault.errors import VolumeError

HEADER: Final = 3
"""Bytes before each block, which say how long it is."""

_MAGIC = bytes.fromhex("28b52ffd")
_REPEATED = 1  # a block of one byte, which stands for many
_DICTIONARY_SIZES = (0, 1, 2, 4)  # bytes
_CONTENT_SIZES = (0, 2, 4, 8)  # bytes


def cut_block(packed: bytes | memoryview) -> tuple[int, int]:
    """Return from where to where the block lies in which the start of a frame breaks off.

    When that is between two blocks, or in a block's header, the end is the header's.

    Raises:
        VolumeError: this is no start of a frame, or it is all of one.
    """
    at = _header_size(packed)
    while at + HEADER <= len(packed):
        header = int.from_bytes(packed[at : at + HEADER], "little")
        is_last, kind, size = header & 1, header >> 1 & 3, header >> 3
        end = at + HEADER + (1 if kind == _REPEATED else size)
        if end > len(packed):
            return at, end
        if is_last:
            raise VolumeError("a frame is shorter than its volume says")
        at = end
    return at, at + HEADER


def _header_size(packed: bytes | memoryview) -> int:
    """Return the bytes before the first block."""
    if len(packed) < len(_MAGIC) + 1 or packed[: len(_MAGIC)] != _MAGIC:
        raise VolumeError("a frame does not begin as it has to")
    descriptor = packed[len(_MAGIC)]
    is_single = descriptor >> 5 & 1
    dictionary = _DICTIONARY_SIZES[descriptor & 3]
    content = _CONTENT_SIZES[descriptor >> 6] or is_single
    return len(_MAGIC) + 1 + (not is_single) + dictionary + content
