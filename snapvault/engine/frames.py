# SPDX-License-Identifier: Apache-2.0
"""Which bytes of a volume, in clear, unpack to the raw bytes that are wanted of it.

A frame unpacks from its start only. So what is wanted of it is its start, to behind the last wanted
byte. How many packed bytes that is, is guessed from the frame's own ratio; what was too few is
made good block by block.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from snapvault.errors import VolumeError
from snapvault.formats.volume import (
    FOOTER_SIZE,
    FRAME_SIZE,
    Frame,
    parse_seek_table,
    seek_table_size,
)
from snapvault.formats.zstd_frame import HEADER
from snapvault.model.extents import U32, U64
from snapvault.model.ranges import Range
from snapvault.ports.sealer import Parts

GAP: Final = 32 << 10
"""Packed bytes that nobody wants are fetched for the sake of one request less, up to so many."""

ROOM: Final = 2 << 20
"""Raw bytes that are fetched at once, at most; of packed ones twice as many."""

# Packed bytes more than the ratio says. zstd's blocks are of some 36 KiB raw here. Of a disk's
# frames two in three have what is wanted then; twice as many would do for four in five, and cost
# more than they save (docs/adr/0008-parts-of-volumes.md).
_SPARE = 8 << 10
_END = 4096  # bytes; a seek table is rarely longer
_LEAST = 4 << 10  # packed bytes that are worth a request


@dataclass(frozen=True, slots=True)
class FrameStart:
    """A frame, of which so many raw bytes are wanted from its start on: one at least.

    `begin` and `stored` are where the frame lies in the volume in clear, `raw_begin` and `raw`
    where it does in its raw bytes.
    """

    begin: int
    stored: int
    raw_begin: int
    raw: int
    wanted: int

    @property
    def guess(self) -> int:
        """How many stored bytes will do, probably."""
        return self._at_most_all(self._share(self.wanted) + _SPARE)

    def more(self, have: int, unpacked: int, block: Range) -> int:
        """How many stored bytes will do, where `have` unpack to `unpacked`, which are too few.

        `block` is where the block lies in which they break off.
        """
        begin, end = block
        more = max(end + HEADER, begin + self._share(self.wanted - unpacked), have + _LEAST)
        return self._at_most_all(more)

    def _share(self, raw: int) -> int:
        return self.stored * raw // self.raw

    def _at_most_all(self, stored: int) -> int:
        return self.stored if self.wanted == self.raw else min(self.stored, stored)


def read_seek_table(parts: Parts) -> list[Frame]:
    """Read a volume's seek table.

    Raises:
        VolumeError: it has none, or one that does not add up.
    """
    end = parts.read(max(0, parts.size - _END), parts.size)
    size = seek_table_size(end[-FOOTER_SIZE:])
    if size > len(end):
        end = parts.read(max(0, parts.size - size), parts.size)
    frames = parse_seek_table(end[-size:])
    if sum(frame.stored for frame in frames) + size != parts.size or not all(
        0 < frame.raw <= FRAME_SIZE for frame in frames
    ):
        raise VolumeError("seek table does not add up")
    return frames


def wanted_frames(frames: Sequence[Frame], raw: U64, length: U32) -> list[FrameStart]:
    """Return the frames that hold any of the raw ranges, in order.

    The ranges are not empty; they may overlap, in any order.

    Raises:
        VolumeError: a range goes beyond the end.
    """
    size = np.array([frame.raw for frame in frames], dtype=np.uint64)
    ends, stops = np.cumsum(size, dtype=np.uint64), raw + length
    if len(raw) and (not len(ends) or stops.max() > ends[-1]):
        raise VolumeError("volume has fewer raw bytes than its map refers to")
    first = np.searchsorted(ends, raw, side="right")
    last = np.searchsorted(ends, stops, side="left")
    # A range that goes on in the next frame takes all that is left of this one.
    changes = np.zeros(len(frames) + 1, dtype=np.int64)
    np.add.at(changes, first, 1)
    np.add.at(changes, last, -1)
    wanted = np.where(np.cumsum(changes[:-1]) > 0, size, np.uint64(0))
    np.maximum.at(wanted, last, stops - (ends - size)[last])
    begins = np.cumsum([0, *(frame.stored for frame in frames)])
    return [
        FrameStart(
            int(begins[number]),
            frames[number].stored,
            int(ends[number]) - frames[number].raw,
            frames[number].raw,
            int(wanted[number]),
        )
        for number in np.flatnonzero(wanted).tolist()
    ]


def together(starts: Iterable[FrameStart]) -> Iterator[list[FrameStart]]:
    """Yield neighbors that are fetched by one request; in order."""
    group: list[FrameStart] = []
    raw = 0
    for start in starts:
        raw += start.wanted
        if group:
            end = start.begin + start.guess
            is_far = start.begin - group[-1].begin - group[-1].guess > GAP
            if is_far or raw > ROOM or end - group[0].begin > 2 * ROOM:
                yield group
                group, raw = [], start.wanted
        group.append(start)
    if group:
        yield group
