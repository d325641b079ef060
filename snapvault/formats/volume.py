# SPDX-License-Identifier: Apache-2.0
"""Volumes in clear: zstd frames and a seek table. docs/format.md, section 4.

Source: zstd seekable format 0.1.0 (facebook/zstd, contrib/seekable_format).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from snapvault.errors import VolumeError

FRAME_SIZE = 1 << 20
"""Raw bytes in a frame, at most."""

# frame: magic u32 | size u32 | entries | frame count u32 | descriptor u8 | magic u32, little-endian
_SKIPPABLE = struct.Struct("<II")
_ENTRY = struct.Struct("<II")
_FOOTER = struct.Struct("<IBI")
_SKIPPABLE_MAGIC = 0x184D2A5E
_SEEKABLE_MAGIC = 0x8F92EAB1
FOOTER_SIZE = _FOOTER.size


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: bytes as stored (compressed) and raw."""

    stored: int
    raw: int


def seek_table(frames: Sequence[Frame]) -> bytes:
    """Return the skippable frame that closes a volume; plain zstd skips it."""
    entries = b"".join(_ENTRY.pack(frame.stored, frame.raw) for frame in frames)
    footer = _FOOTER.pack(len(frames), 0, _SEEKABLE_MAGIC)
    return _SKIPPABLE.pack(_SKIPPABLE_MAGIC, len(entries) + len(footer)) + entries + footer


def seek_table_size(footer: bytes) -> int:
    """Return how many bytes at the end of a volume are its seek table, given its last 9.

    Raises:
        VolumeError: this is not the end of a volume.
    """
    if len(footer) != FOOTER_SIZE:
        raise VolumeError(f"seek table footer is {len(footer)} bytes, expected {FOOTER_SIZE}")
    count, descriptor, magic = _FOOTER.unpack(footer)
    if magic != _SEEKABLE_MAGIC or descriptor != 0:
        raise VolumeError(f"not a seek table: magic {magic:#010x}, descriptor {descriptor:#04x}")
    return int(_SKIPPABLE.size + count * _ENTRY.size + FOOTER_SIZE)


def parse_seek_table(table: bytes) -> list[Frame]:
    """Read a whole seek table, as `seek_table` wrote it.

    Raises:
        VolumeError: these bytes are not a seek table.
    """
    size = seek_table_size(table[-FOOTER_SIZE:])
    if len(table) != size:
        raise VolumeError(f"seek table is {len(table)} bytes, its footer says {size}")
    magic, rest = _SKIPPABLE.unpack_from(table)
    if magic != _SKIPPABLE_MAGIC or rest != size - _SKIPPABLE.size:
        raise VolumeError(f"not a seek table: magic {magic:#010x}, size {rest}")
    entries = table[_SKIPPABLE.size : -FOOTER_SIZE]
    return [Frame(stored, raw) for stored, raw in _ENTRY.iter_unpack(entries)]
