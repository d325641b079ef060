# SPDX-License-Identifier: Apache-2.0
"""A mebibyte of a stream that is being put together from pieces in any order."""

from dataclasses import dataclass, field

import numpy as np

from snapvault.engine.extract import I64, PIECE
from snapvault.model.extents import U32, U64

_ROW = 16  # bytes that a waiting piece takes beside its own
_PART = 600  # bytes that a part takes beside its pieces


@dataclass(frozen=True, slots=True)
class _Part:
    """Pieces of a mebibyte that came together, and their bytes, one after the other.

    These are in the mebibyte's buffer instead, where they belong, if it has one.
    """

    offset: U64
    length: U32
    data: bytes = b""


@dataclass(slots=True)
class Stretch:
    """What is there of a mebibyte, in any order: in the buffer, if it has one.

    `size` are its bytes, `weight` those of memory that it takes.
    """

    parts: list[_Part] = field(default_factory=list)
    size: int = 0
    weight: int = 0
    buffer: memoryview | None = None

    def keep(self, offset: U64, length: U32, raw: I64, window: memoryview) -> None:
        """Copy pieces: to where they are written from, if there is a buffer."""
        self.size += int(length.sum())
        self.weight += _PART + _ROW * len(offset)
        if self.buffer is not None:
            _copy(window, raw, self.buffer, offset % np.uint64(PIECE), length)
            self.parts.append(_Part(offset, length))
            return
        places = zip(raw.tolist(), (raw + length.astype(np.int64)).tolist(), strict=True)
        data = b"".join([window[at:end] for at, end in places])
        self.parts.append(_Part(offset, length, data))
        self.weight += len(data)

    def move_to(self, buffer: memoryview) -> None:
        """Copy what is there to where it belongs in a buffer, and keep it there from now on."""
        self.copy_to(buffer)
        self.weight += len(buffer) - sum(len(part.data) for part in self.parts)
        self.parts = [_Part(part.offset, part.length) for part in self.parts]
        self.buffer = buffer

    def copy_to(self, buffer: memoryview) -> None:
        """Copy what is there to where it belongs in a mebibyte."""
        for part in self.parts:
            within = part.offset % np.uint64(PIECE)
            if self.buffer is not None:
                _copy(self.buffer, within.astype(np.int64), buffer, within, part.length)
            else:
                at = np.cumsum(part.length, dtype=np.int64) - part.length
                _copy(memoryview(part.data), at, buffer, within, part.length)


def _copy(source: memoryview, at: I64, target: memoryview, to: U64, length: U32) -> None:
    for begin, place, size in zip(at.tolist(), to.tolist(), length.tolist(), strict=True):
        target[place : place + size] = source[begin : begin + size]
