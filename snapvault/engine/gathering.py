# SPDX-License-Identifier: Apache-2.0
"""Putting pieces of dumps together on their way to a target, so that it gets few large writes.

A night's changes lie in volumes of their own, and belong between bytes of older ones: hundreds to
some kilobytes here and there, at any offset. Written as they come, they and what is between them
would be hundreds of thousands of small writes after some nights, which cost the kernel more than
unpacking costs us. So the volumes whose pieces are scattered come first, their pieces wait in
memory, packed again, and each mebibyte is written at once. What memory does not hold even so is
written as it comes: only time depends on this.

Disks do without: most of their pieces are many whole blocks, that go past the cache from
where they were unpacked to. To copy all of a disk once more costs as much as its small writes.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Lock
from typing import Final

import numpy as np
import zstandard

from snapvault.engine import buffers
from snapvault.engine.extract import I64, PIECE, Deliver, Pieces, Plan
from snapvault.model.extents import U32, U64, ExtentMap

ROOM: Final = 96 << 20
"""Bytes that wait in memory, at most, but for one call's."""

_ROW = 16  # bytes that a waiting piece takes beside its own
_PART = 600  # bytes that a part takes beside its pieces
_WORTH_PACKING = 1024  # bytes
_UNPACKED = 24 << 20  # bytes that wait before anything is packed
_FAST = 1  # zstd's level
_SPARE = 1000  # keys that are kept of stretches that wait no more
_COUNTED_AT_ONCE = 1 << 16  # pieces
_BUFFERS_AT_ONCE = 2  # mebibytes that memory is taken for: a huge page
_FREE_BUFFERS = 8  # mebibytes that are kept for what comes next


@dataclass(frozen=True, slots=True)
class _Part:
    """Pieces of a mebibyte that came together, and their bytes, unless these lie in the buffer."""

    offset: U64
    length: U32
    data: bytes = b""
    is_packed: bool = False

    def bytes(self, unpacker: zstandard.ZstdDecompressor) -> bytes:
        """Return the pieces' bytes, one piece after the other."""
        if not self.is_packed:
            return self.data
        return unpacker.decompress(self.data, max_output_size=PIECE)


@dataclass(slots=True)
class _Stretch:
    """What is there of a mebibyte, in any order: in the buffer, if it has one."""

    parts: list[_Part] = field(default_factory=list)
    size: int = 0
    weight: int = 0
    """Bytes of memory that it takes."""

    buffer: memoryview | None = None

    def keep(
        self, offset: U64, length: U32, raw: I64, window: memoryview, packer: "_Packer | None"
    ) -> None:
        """Copy pieces: to where they are written from, if there is a buffer."""
        self.size += int(length.sum())
        self.weight += _PART + _ROW * len(offset)
        if self.buffer is not None:
            _copy(window, raw, self.buffer, offset % np.uint64(PIECE), length)
            self.parts.append(_Part(offset, length))
            return
        ends = raw + length.astype(np.int64)
        places = zip(raw.tolist(), ends.tolist(), strict=True)
        data, is_packed = b"".join([window[at:end] for at, end in places]), False
        if packer is not None:
            data, is_packed = packer.packed(data)
        self.parts.append(_Part(offset, length, data, is_packed))
        self.weight += len(data)

    def move_to(self, buffer: memoryview, unpacker: zstandard.ZstdDecompressor) -> None:
        """Copy what is there into a buffer."""
        parts, self.parts, self.buffer = self.parts, [], buffer
        self.weight += len(buffer)
        for part in parts:
            begin = np.cumsum(part.length) - part.length
            within = part.offset % np.uint64(PIECE)
            data = memoryview(part.bytes(unpacker))
            _copy(data, begin.astype(np.int64), buffer, within, part.length)
            self.parts.append(_Part(part.offset, part.length))
            self.weight -= len(part.data)


class _Packer:
    """Packs what waits: it is text as a rule, and takes a third of the memory then."""

    def __init__(self) -> None:
        self._packer = zstandard.ZstdCompressor(level=_FAST)

    def packed(self, data: bytes) -> tuple[bytes, bool]:
        """Return bytes packed, and whether they are: not if that saves nothing."""
        if len(data) >= _WORTH_PACKING and len(packed := self._packer.compress(data)) < len(data):
            # What zstandard returns keeps the room that the worst case would have needed.
            return bytes(memoryview(packed)), True
        return data, False


def _copy(source: memoryview, at: I64, target: memoryview, to: U64, length: U32) -> None:
    for begin, place, size in zip(at.tolist(), to.tolist(), length.tolist(), strict=True):
        target[place : place + size] = source[begin : begin + size]


class _Left:
    """How many bytes are still to come of each mebibyte of a stream that has several pieces."""

    def __init__(self, work: Plan, number: int) -> None:
        of_it = work.stream == number
        size = int(work.offset[of_it].max(initial=0)) // PIECE + 1
        self.bytes = np.zeros(size, dtype=np.int64)
        pieces = np.zeros(size, dtype=np.int64)
        for begin in range(0, len(of_it), _COUNTED_AT_ONCE):
            rows = begin + np.flatnonzero(of_it[begin : begin + _COUNTED_AT_ONCE])
            index = work.offset[rows] // np.uint64(PIECE)
            np.add.at(self.bytes, index, work.length[rows])
            np.add.at(pieces, index, 1)
        self.several = pieces > 1


class Gathering:
    """Takes pieces in any order, each once, and delivers runs of them. Safe from several threads.

    `streams` are the numbers of those that are gathered. Of these, no piece reaches over a multiple
    of `PIECE`; others' pieces are passed on. With `room` 0 all are.
    """

    def __init__(
        self, work: Plan, streams: Sequence[int], deliver: Deliver, *, room: int = ROOM
    ) -> None:
        self._work = work
        self._deliver = deliver
        self._room = room
        self._left = {number: _Left(work, number) for number in streams}
        self._stretches: dict[tuple[int, int], _Stretch] = {}
        self._last: list[tuple[int, int]] = []  # a heap of their keys, which begins with the last
        self._held = 0
        self._free: list[memoryview] = []
        self._packer = _Packer()
        self._unpacker = zstandard.ZstdDecompressor()
        self._lock = Lock()

    def wants(self, rows: slice) -> bool:
        """Tell whether all of these pieces of the plan are gathered."""
        return bool(np.isin(self._work.stream[rows], list(self._left)).all())

    def take(self, number: int, pieces: Pieces, data: memoryview) -> None:
        """Take pieces that lie in a row, and deliver what they make whole."""
        if number not in self._left:
            self._deliver(number, pieces, data)
            return
        offset, length = np.array(pieces, dtype=np.uint64).reshape(-1, 2).T
        raw = (np.cumsum(length) - length).astype(np.int64)
        stream = np.full(len(raw), number, dtype=np.uint32)
        self._take(stream, offset, length.astype(np.uint32), raw, data)

    def take_rows(self, rows: slice, window: memoryview, base: int) -> None:
        """Take pieces of the plan, which `wants` them, and deliver what they make whole.

        `window` has the raw bytes of their volume from byte `base` on.
        """
        raw = self._work.raw[rows].astype(np.int64) - base
        columns = self._work.stream[rows], self._work.offset[rows], self._work.length[rows]
        self._take(*columns, raw, window)

    def _take(self, stream: U32, offset: U64, length: U32, raw: I64, window: memoryview) -> None:
        index = offset // np.uint64(PIECE)
        is_edge = (index[1:] != index[:-1]) | (stream[1:] != stream[:-1])
        edges = [0, *(np.flatnonzero(is_edge) + 1).tolist(), len(index)]
        straight: list[tuple[int, int, memoryview]] = []
        whole: list[tuple[int, int, _Stretch]] = []
        dropped: list[tuple[int, _Stretch]] = []
        with self._lock:
            for begin, end in pairwise(edges):
                here = slice(begin, end)
                number = int(stream[begin])
                if not self._left[number].several[index[begin]]:
                    at, size = int(raw[begin]), int(length[begin])
                    straight.append((number, int(offset[begin]), window[at : at + size]))
                    continue
                self._keep(number, offset[here], length[here], raw[here], window, whole)
            while self._held > self._room and self._last:
                self._drop_last(dropped)
        for number, place, piece in straight:
            self._deliver(number, [(place, len(piece))], piece)
        for number, stretch in dropped:
            self._deliver_dropped(number, stretch)
        for number, mebibyte, stretch in whole:
            self._deliver_whole(number, mebibyte, stretch)
        buffered = [each for _, _, each in whole] + [each for _, each in dropped]
        with self._lock:
            self._free += [each.buffer for each in buffered if each.buffer is not None]
            del self._free[_FREE_BUFFERS:]

    def _keep(
        self,
        number: int,
        offset: U64,
        length: U32,
        raw: I64,
        window: memoryview,
        whole: list[tuple[int, int, _Stretch]],
    ) -> None:
        """Keep pieces of a mebibyte that is put together."""
        index = int(offset[0]) // PIECE
        size = int(length.sum())
        self._left[number].bytes[index] -= size
        left = int(self._left[number].bytes[index])
        key = -number, -index
        stretch = self._stretches.get(key)
        if stretch is None:
            stretch = self._stretches[key] = _Stretch()
            heapq.heappush(self._last, key)
        self._held -= stretch.weight
        # From the half on each piece is copied once, and what waits is not twice as large as it is.
        if stretch.buffer is None and stretch.size + size >= left:
            stretch.move_to(self._buffer(), self._unpacker)
        packer = self._packer if self._held > _UNPACKED else None
        stretch.keep(offset, length, raw, window, packer)
        if left:
            self._held += stretch.weight
            return
        del self._stretches[key]
        whole.append((number, index, stretch))
        if len(self._last) > 2 * len(self._stretches) + _SPARE:
            # Else a dump of a tebibyte leaves a million keys, some 130 bytes each.
            self._last = list(self._stretches)
            heapq.heapify(self._last)

    def _drop_last(self, dropped: list[tuple[int, _Stretch]]) -> None:
        """Give up waiting for the rest of the last one: those in front of it are whole before."""
        key = heapq.heappop(self._last)
        stretch = self._stretches.pop(key, None)
        if stretch is None:
            return
        self._held -= stretch.weight
        dropped.append((-key[0], stretch))

    def _deliver_dropped(self, number: int, stretch: _Stretch) -> None:
        unpacker = zstandard.ZstdDecompressor()  # the other one is used by other threads
        for part in stretch.parts:
            data = memoryview(part.bytes(unpacker)) if stretch.buffer is None else stretch.buffer
            at = 0
            for offset, size in zip(part.offset.tolist(), part.length.tolist(), strict=True):
                begin = at if stretch.buffer is None else offset % PIECE
                self._deliver(number, [(offset, size)], data[begin : begin + size])
                at += size

    def _deliver_whole(self, number: int, index: int, stretch: _Stretch) -> None:
        if stretch.buffer is None:
            raise ValueError("what is whole has a buffer")
        start = index * PIECE
        for begin, end in _runs(stretch.parts):
            view = stretch.buffer[begin - start : end - start]
            self._deliver(number, [(begin, end - begin)], view)

    def _buffer(self) -> memoryview:
        if not self._free:
            memory = buffers.dense(_BUFFERS_AT_ONCE * PIECE)
            self._free = [memory[at : at + PIECE] for at in range(0, len(memory), PIECE)]
        return self._free.pop()


def scattered_first(work: Plan, maps: Mapping[int, ExtentMap]) -> list[list[int]]:
    """Return the numbers of a plan's volumes: of those whose pieces are scattered, and the others.

    Scattered are those which hold, of some streams, less than half of each mebibyte that they
    touch. The newest of them come first: what lies around their pieces is older, and may be a
    mebibyte that then is whole at once.
    """
    early: list[int] = []
    late: list[int] = []
    for index in range(len(work.volumes)):
        rows = work.rows(index)
        of_them = np.isin(work.stream[rows], list(maps))
        stream, offset = work.stream[rows][of_them], work.offset[rows][of_them]
        mebibytes = (stream.astype(np.uint64) << np.uint64(44)) + offset // np.uint64(PIECE)
        touched = len(np.unique(mebibytes))
        is_scattered = 2 * int(work.length[rows][of_them].sum()) < touched * PIECE
        (early if is_scattered else late).append(index)
    # A map lists its volumes as the nights brought them.
    age = {volume: turn for each in maps.values() for turn, volume in enumerate(each.volumes)}
    early.sort(key=lambda index: -age.get(work.volumes[index].volume, 0))
    return [early, late]


def _runs(parts: Sequence[_Part]) -> Iterator[tuple[int, int]]:
    """Yield the ranges that pieces fill, as long as they go."""
    begin = np.sort(np.concatenate([part.offset for part in parts]))
    end = np.sort(np.concatenate([part.offset + part.length for part in parts]))
    gaps = np.flatnonzero(begin[1:] != end[:-1])
    first, last = np.concatenate(([0], gaps + 1)), np.concatenate((gaps, [len(end) - 1]))
    yield from zip(begin[first].tolist(), end[last].tolist(), strict=True)
