# SPDX-License-Identifier: Apache-2.0
"""The blocks of a frame, found without unpacking it."""

import random
from itertools import pairwise

import pytest
import zstandard

from snapvault.errors import VolumeError
from snapvault.formats.zstd_frame import HEADER, cut_block

CHANCE = random.Random(5)
# Blocks that pack, some that do not, and some of one byte.
RAW = (
    b"".join(b"%d apples" % CHANCE.randrange(999) for _ in range(30_000))
    + CHANCE.randbytes(200_000)
    + bytes(400_000)
)


def frames() -> dict[str, bytes]:
    """Return the same bytes in frames with headers of several lengths."""
    return {
        "with its size": zstandard.ZstdCompressor(level=3).compress(RAW),
        "without": zstandard.ZstdCompressor(level=3, write_content_size=False).compress(RAW),
        "short": zstandard.ZstdCompressor(level=3).compress(RAW[:200]),
        "with a checksum": zstandard.ZstdCompressor(level=1, write_checksum=True).compress(RAW),
    }


def unpacked(packed: bytes) -> int:
    """Return how many bytes the start of a frame unpacks to."""
    return len(zstandard.ZstdDecompressor().decompressobj().decompress(packed))


@pytest.mark.parametrize("kind", frames())
def test_each_block_unpacks_as_soon_as_it_is_whole(kind: str) -> None:
    frame = frames()[kind]
    begin, header = cut_block(frame[:14])
    ends = [begin]
    while True:
        try:
            begin, end = cut_block(frame[: ends[-1] + HEADER])
        except VolumeError:
            break  # a last block of nothing
        assert begin == ends[-1]
        ends.append(end)
        if end >= len(frame) - 4:
            break

    assert header >= begin or header > 0
    for before, end in pairwise(ends):
        assert cut_block(frame[: end - 1])[0] in (before, end - 1)
        assert unpacked(frame[:end]) > unpacked(frame[: end - 1])


@pytest.mark.parametrize("packed", [b"", b"\x28\xb5\x2f", b"none at all", bytes(20)])
def test_what_is_no_start_of_a_frame_is_refused(packed: bytes) -> None:
    with pytest.raises(VolumeError):
        cut_block(packed)


def test_a_whole_frame_has_no_block_that_is_cut() -> None:
    with pytest.raises(VolumeError, match="shorter"):
        cut_block(frames()["with its size"])
