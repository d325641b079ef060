# SPDX-License-Identifier: Apache-2.0
"""The blocks of a frame, found without unpacking it."""

import random
from itertools import pairwise

import pytest
import zstandard

from snapvault.errors import VolumeError
from snapvault.formats.volume import FRAME_SIZE, Frame, seek_table
from snapvault.formats.zstd_frame import HEADER, Frames, cut_block, raw_size

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


def volume() -> tuple[list[bytes], bytes]:
    """Return the frames of a volume, and all of it with its seek table."""
    packed = [*frames().values()] * 3
    return packed, b"".join(packed) + seek_table([Frame(len(each), len(RAW)) for each in packed])


@pytest.mark.parametrize("step", [1, 7, 1000, 65_536, 500_000, 1 << 20])
def test_a_volume_that_streams_by_is_cut_into_its_frames(step: int) -> None:
    packed, whole = volume()
    if step == 1:
        packed, whole = packed[2:3], packed[2] + seek_table([Frame(len(packed[2]), 200)])
    cutter = Frames()

    found = [
        bytes(frame)
        for at in range(0, len(whole), step)
        for frame in cutter.take(whole[at : at + step])
    ]

    assert found == packed


def test_a_frame_says_what_it_unpacks_to() -> None:
    sizes = {kind: raw_size(memoryview(frame)) for kind, frame in frames().items()}

    assert sizes == {
        "with its size": len(RAW),
        "without": None,
        "short": 200,
        "with a checksum": len(RAW),
    }


def test_a_frame_that_unpacks_to_too_much_is_refused() -> None:
    frame = zstandard.ZstdCompressor().compress(bytes(FRAME_SIZE + 1))

    with pytest.raises(VolumeError, match="unpacks to 1048577 bytes"):
        raw_size(memoryview(frame))


def test_a_frame_without_an_end_is_not_waited_for() -> None:
    cutter = Frames()
    endless = b"\x5e\x2a\x4d\x18" + b"\xff" * 4 + bytes((1 << 20) - 8)

    assert list(cutter.take(endless)) == []
    with pytest.raises(VolumeError, match="is longer than"):
        list(cutter.take(endless))


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(VolumeError, match="does not begin"):
        list(Frames().take(b"no frame of a volume"))
