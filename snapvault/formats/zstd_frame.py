# SPDX-License-Identifier: Apache-2.0
"""Where zstd frames and their blocks lie: RFC 8878, sections 3.1.1 and 3.1.2.

zstd unpacks a block once all of it is there; who has the start of a frame finds here how much more
makes the next block whole. And who has a volume that streams by finds where a frame ends.
"""

from collections.abc import Iterator
from typing import Final

import zstandard

from snapvault.errors import VolumeError
from snapvault.formats.volume import FRAME_SIZE

HEADER: Final = 3
"""Bytes before each block, which say how long it is."""

_MAGIC = bytes.fromhex("28b52ffd")
_REPEATED = 1  # a block of one byte, which stands for many
_DICTIONARY_SIZES = (0, 1, 2, 4)  # bytes
_CONTENT_SIZES = (0, 2, 4, 8)  # bytes
_HAS_CHECKSUM = 1 << 2
_CHECKSUM = 4  # bytes
_SKIPPABLE_HEADER = 8  # bytes; the last four are how many follow
_LONGEST = FRAME_SIZE + (64 << 10)  # bytes of a frame, which are more if nothing compresses


class Frames:
    """Cuts a volume that streams by into its frames; nothing is unpacked."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(4 * _LONGEST))
        self._begin = self._end = 0

    def take(self, piece: bytes) -> Iterator[memoryview]:
        """Yield the frames that end in this piece, whole; what zstd skips is left out.

        A piece has a mebibyte or less. A frame is good until the next call.

        Raises:
            VolumeError: these are no frames of a volume.
        """
        if self._end + len(piece) > len(self._buffer):
            rest = self._end - self._begin
            self._buffer[:rest] = self._buffer[self._begin : self._end]
            self._begin, self._end = 0, rest
        self._buffer[self._end : self._end + len(piece)] = piece
        self._end += len(piece)
        while end := _end_of_frame(self._buffer[self._begin : self._end]):
            frame = self._buffer[self._begin : self._begin + end]
            self._begin += end
            if not _is_skippable(frame):
                yield frame
        if self._end - self._begin > _LONGEST:
            raise VolumeError(f"a frame is longer than {_LONGEST} bytes")


def unpack_into(frame: memoryview, buffer: memoryview, unpacker: zstandard.ZstdDecompressor) -> int:
    """Unpack a frame, or the start of one, as far as that goes; return to how many bytes.

    No more than has room, whatever these bytes say of themselves: nothing may have proven them.

    Raises:
        zstandard.ZstdError: they cannot be unpacked.
    """
    at = 0
    with unpacker.stream_reader(frame) as reader:
        while at < len(buffer) and (count := reader.readinto(buffer[at:])):
            at += count
    return at


def raw_size(frame: memoryview) -> int | None:
    """Return how many bytes a frame unpacks to, if its header says so.

    Raises:
        VolumeError: they are more than a frame of a volume may have.
    """
    size: int = zstandard.frame_content_size(frame)
    if size > FRAME_SIZE:
        raise VolumeError(f"a frame unpacks to {size} bytes, more than {FRAME_SIZE}")
    return size if size >= 0 else None


def cut_block(packed: bytes | memoryview) -> tuple[int, int]:
    """Return from where to where the block lies in which the start of a frame breaks off.

    When that is between two blocks, or in a block's header, the end is the header's.

    Raises:
        VolumeError: this is no start of a frame, or it is all of one.
    """
    at = _header_size(packed)
    while at + HEADER <= len(packed):
        is_last, end = _block(packed, at)
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


def _is_skippable(data: memoryview) -> bool:
    return bytes(data[1:4]) == b"\x2a\x4d\x18" and data[0] >> 4 == 5


def _end_of_frame(data: memoryview) -> int | None:
    """Return how long the frame is that begins here; None if its end is not there yet."""
    if len(data) < _SKIPPABLE_HEADER:
        return None
    if _is_skippable(data):
        end = _SKIPPABLE_HEADER + int.from_bytes(data[4:_SKIPPABLE_HEADER], "little")
        return end if end <= len(data) else None
    at = _header_size(data)
    is_last = 0
    while not is_last:
        is_last, end = _block(data, at)
        if end > len(data):
            return None
        at = end
    at += _CHECKSUM if data[len(_MAGIC)] & _HAS_CHECKSUM else 0
    return at if at <= len(data) else None


def _block(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return whether the block at `at` is its frame's last, and where it ends."""
    header = int.from_bytes(data[at : at + HEADER], "little")
    kind, size = header >> 1 & 3, header >> 3
    return header & 1, at + HEADER + (1 if kind == _REPEATED else size)
