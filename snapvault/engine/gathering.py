# SPDX-License-Identifier: Apache-2.0
"""Putting pieces of dumps together on their way to a target, so that it gets few large writes.

A night's changes lie in volumes of their own, and belong between bytes of older ones: hundreds to
some kilobytes here and there, at any offset. Written as they come, they and what is between them
would be tens of thousands of small writes, which cost the kernel more than unpacking costs us. So
the volumes whose pieces are scattered come first, their pieces wait in memory, and each mebibyte is
written at once. What memory does not hold is written as it comes: only time depends on this.

Disks do without: most of their pieces are many whole blocks, that go past the cache from
where they were unpacked to. To copy all of a disk once more costs as much as its small writes.
"""

import heapq
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

import numpy as np

from snapvault.engine import buffers
from snapvault.engine.extract import PIECE, Deliver, Pieces, Plan

ROOM: Final = 48 << 20
"""Bytes that wait in memory, at most, but for one call's."""

_OBJECT = 200  # bytes that a waiting piece takes beside its own
_SPARE = 1000  # keys that are kept of stretches that wait no more
_BUFFERS_AT_ONCE = 8  # mebibytes that memory is taken for


@dataclass(slots=True)
class _Stretch:
    """What is there of a mebibyte: (offset, bytes), in any order; in the buffer, if it has one."""

    parts: list[tuple[int, bytes | memoryview]] = field(default_factory=list)
    size: int = 0
    buffer: memoryview | None = None

    @property
    def weight(self) -> int:
        """Bytes of memory that it takes."""
        taken = self.size if self.buffer is None else len(self.buffer)
        return taken + _OBJECT * len(self.parts)

    def keep(self, offset: int, piece: bytes | memoryview) -> None:
        """Copy a piece: to where it is written from, if there is a buffer."""
        if self.buffer is None:
            self.parts.append((offset, bytes(piece)))
            return
        place = self.buffer[offset % PIECE : offset % PIECE + len(piece)]
        place[:] = piece
        self.parts.append((offset, place))

    def move_to(self, buffer: memoryview) -> None:
        """Copy what is there into a buffer."""
        parts, self.parts, self.buffer = self.parts, [], buffer
        for offset, part in parts:
            self.keep(offset, part)


class _Left:
    """How many bytes are still to come of each mebibyte of a stream that has several pieces."""

    def __init__(self, work: Plan, number: int) -> None:
        of_it = work.stream == number
        index, which, count = np.unique(
            work.offset[of_it] // np.uint64(PIECE), return_inverse=True, return_counts=True
        )
        left = np.bincount(which, weights=work.length[of_it]).astype(np.int64)
        several = count > 1
        self._index = index[several].astype(np.int64).data
        self.bytes = left[several].data

    def row(self, index: int) -> int | None:
        """Return where in `bytes` a mebibyte is; None if it is one piece, or nothing."""
        row = bisect_left(self._index, index)
        return row if row < len(self._index) and self._index[row] == index else None


class Gathering:
    """Takes pieces in any order, each once, and delivers runs of them. Safe from several threads.

    `streams` are the numbers of those that are gathered. Of these, no piece reaches over a multiple
    of `PIECE`; others' pieces are passed on. With `room` 0 all are.
    """

    def __init__(
        self, work: Plan, streams: Sequence[int], deliver: Deliver, *, room: int = ROOM
    ) -> None:
        self._deliver = deliver
        self._room = room
        self._left = {number: _Left(work, number) for number in streams}
        self._stretches: dict[tuple[int, int], _Stretch] = {}
        self._last: list[tuple[int, int]] = []  # a heap of their keys, which begins with the last
        self._held = 0
        self._free: list[memoryview] = []
        self._lock = Lock()

    def take(self, number: int, pieces: Pieces, data: memoryview) -> None:
        """Take pieces, and deliver what they make whole."""
        if number not in self._left:
            self._deliver(number, pieces, data)
            return
        straight: list[tuple[int, memoryview]] = []
        whole: list[tuple[int, _Stretch]] = []
        dropped: list[tuple[int, _Stretch]] = []
        at = 0
        with self._lock:
            for offset, length in pieces:
                piece = data[at : at + length]
                at += length
                if not self._keep(number, offset, piece, whole):
                    straight.append((offset, piece))
            while self._held > self._room and self._last:
                self._drop_last(dropped)
        for offset, piece in straight:
            self._deliver(number, [(offset, len(piece))], piece)
        for stream, stretch in dropped:
            for offset, part in stretch.parts:
                self._deliver(stream, [(offset, len(part))], memoryview(part))
        for index, stretch in whole:
            self._deliver_whole(number, index, stretch)
        with self._lock:
            self._free += [each.buffer for _, each in whole + dropped if each.buffer is not None]

    def _keep(
        self, number: int, offset: int, piece: memoryview, whole: list[tuple[int, _Stretch]]
    ) -> bool:
        """Keep a piece if its mebibyte is put together."""
        index, left = offset // PIECE, self._left[number]
        row = left.row(index)
        if row is None:
            return False
        left.bytes[row] -= len(piece)
        key = -number, -index
        stretch = self._stretches.get(key)
        if stretch is None:
            stretch = self._stretches[key] = _Stretch()
            heapq.heappush(self._last, key)
        self._held -= stretch.weight
        stretch.size += len(piece)
        # From the half on each piece is copied once, and what waits is not twice as large as it is.
        if stretch.buffer is None and stretch.size >= left.bytes[row]:
            stretch.move_to(self._buffer())
        stretch.keep(offset, piece)
        if left.bytes[row] == 0:
            del self._stretches[key]
            whole.append((index, stretch))
            if len(self._last) > 2 * len(self._stretches) + _SPARE:
                # Else a dump of a tebibyte leaves a million keys, some 130 bytes each.
                self._last = list(self._stretches)
                heapq.heapify(self._last)
        else:
            self._held += stretch.weight
        return True

    def _drop_last(self, dropped: list[tuple[int, _Stretch]]) -> None:
        """Give up waiting for the rest of the last one: those in front of it are whole before."""
        key = heapq.heappop(self._last)
        stretch = self._stretches.pop(key, None)
        if stretch is None:
            return
        self._held -= stretch.weight
        dropped.append((-key[0], stretch))

    def _deliver_whole(self, number: int, index: int, stretch: _Stretch) -> None:
        if stretch.buffer is None:
            raise ValueError("what is whole has a buffer")
        start = index * PIECE
        for begin, end in _runs(sorted((at, at + len(part)) for at, part in stretch.parts)):
            view = stretch.buffer[begin - start : end - start]
            self._deliver(number, [(begin, end - begin)], view)

    def _buffer(self) -> memoryview:
        if not self._free:
            memory = buffers.dense(_BUFFERS_AT_ONCE * PIECE)
            self._free = [memory[at : at + PIECE] for at in range(0, len(memory), PIECE)]
        return self._free.pop()


def scattered_first(work: Plan, streams: Sequence[int]) -> list[list[int]]:
    """Return the numbers of a plan's volumes: of those whose pieces are scattered, and the others.

    That is those which hold, of some streams, less than half of each mebibyte that they touch.
    """
    early: list[int] = []
    late: list[int] = []
    for index in range(len(work.volumes)):
        rows = work.rows(index)
        of_them = np.isin(work.stream[rows], streams)
        stream, offset = work.stream[rows][of_them], work.offset[rows][of_them]
        touched = len(np.unique((stream << 44) + (offset // np.uint64(PIECE)).astype(np.int64)))
        is_scattered = 2 * int(work.length[rows][of_them].sum()) < touched * PIECE
        (early if is_scattered else late).append(index)
    return [early, late]


def _runs(pieces: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join sorted pieces [begin, end) that touch each other."""
    begin = end = pieces[0][0]
    for start, stop in pieces:
        if start != end:
            yield begin, end
            begin = start
        end = stop
    yield begin, end
