# SPDX-License-Identifier: Apache-2.0
"""The seek table of volumes."""

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from snapvault.errors import VolumeError
from snapvault.formats import volume
from snapvault.formats.volume import Frame

FRAMES = st.lists(
    st.builds(Frame, st.integers(1, 1 << 21), st.integers(1, volume.FRAME_SIZE)), max_size=80
)


@given(FRAMES)
def test_any_frames_come_back(frames: list[Frame]) -> None:
    table = volume.seek_table(frames)

    assert volume.parse_seek_table(table) == frames
    assert volume.seek_table_size(table[-volume.FOOTER_SIZE :]) == len(table)


def test_the_bytes_are_those_of_the_documents_example() -> None:
    table = volume.seek_table([Frame(70_000, 1 << 20), Frame(31, 4096)])

    assert table == bytes.fromhex(
        "5e2a4d18 19000000  70110100 00001000  1f000000 00100000  02000000 00 b1ea928f"
    )


@given(st.lists(st.binary(min_size=1, max_size=500), max_size=5))
def test_any_zstd_decoder_passes_over_the_table(pieces: list[bytes]) -> None:
    packed = [zstandard.compress(piece) for piece in pieces]
    frames = [Frame(len(stored), len(piece)) for stored, piece in zip(packed, pieces, strict=True)]
    content = b"".join(packed) + volume.seek_table(frames)

    reader = zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True)

    assert reader.read() == b"".join(pieces)


@given(FRAMES, st.data())
def test_a_table_of_another_length_is_refused(frames: list[Frame], data: st.DataObject) -> None:
    table = volume.seek_table(frames)
    cut = data.draw(st.integers(1, len(table)))

    with pytest.raises(VolumeError):
        volume.parse_seek_table(table[cut:])
    with pytest.raises(VolumeError):
        volume.parse_seek_table(b"x" * cut + table)


@given(FRAMES, st.integers(0, 7), st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, *range(-9, 0)]))
def test_any_flipped_bit_around_the_entries_is_refused(
    frames: list[Frame], bit: int, position: int
) -> None:
    table = bytearray(volume.seek_table(frames))
    table[position] ^= 1 << bit

    with pytest.raises(VolumeError):
        volume.parse_seek_table(bytes(table))
