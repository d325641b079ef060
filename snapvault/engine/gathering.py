# SPDX-License-Identifier: Apache-2.0
"""Putting pieces together on their way to a target, so that it gets few large writes.

A night's changes lie in volumes of their own, and belong between bytes of older ones: hundreds to
some kilobytes here and there. Written as they come, they and what is between them would be hundreds
of thousands of small writes after some nights, which cost the kernel more than unpacking costs us,
and read a page each where it is no longer in the cache. So the volumes whose pieces are scattered
come before what is around them, their pieces wait in memory, and each mebibyte is written at once.
What memory does not hold is put aside on the target, and read back from there when the rest has
come: only time depends on this.

Most of a disk lies in many whole blocks, that go past the cache from where they were unpacked to:
there, to copy them once more costs as much as a few small writes.
"""

import heapq
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from snapvault.engine import buffers
from snapvault.engine.extract import I64, PIECE, Deliver, Pieces, Plan
from snapvault.engine.stretches import Stretch
from snapvault.model.extents import U32, U64, ExtentMap, runs_of_zeros
from snapvault.ports.target import Target

ROOM: Final = 64 << 20
"""Bytes that wait in memory, at most, but for one call's."""

_LEFT = 3 / 4  # of the room, that is still taken once some was made
_MOST = 0.9  # of the pieces of a volume: few may lie anywhere
_TOGETHER = 64  # mebibytes in which volumes are taken to begin at one place
_SPARE = 1000  # keys that are kept of stretches that wait no more
_COUNTED_AT_ONCE = 1 << 16  # pieces
_BUFFERS_AT_ONCE = 2  # mebibytes that memory is taken for: a huge page
_FREE_BUFFERS = 8  # mebibytes that are kept for what comes next
_GIVEN_BACK_AFTER = 32  # mebibytes that were put together, or room that was made


class Gathered:
    """A stream whose mebibytes are put together where they come in more than `few` pieces.

    No piece of it reaches over a multiple of `PIECE`. Its target can be read.
    """

    def __init__(self, extents: ExtentMap, target: Target, *, few: int) -> None:
        self.target = target
        self.few = few
        self.age = {volume: turn for turn, volume in enumerate(extents.volumes)}
        start, length, is_zero = runs_of_zeros(extents)
        self._starts = start[~is_zero]
        self._ends = self._starts + length[~is_zero]
        size = extents.size // PIECE + 1
        self.left = np.zeros(size, dtype=np.int64)
        """Bytes of each mebibyte that are still to come."""

        self.gathers = np.zeros(size, dtype=bool)
        self.is_aside = np.zeros(size, dtype=bool)
        """Whether some of a mebibyte is on the target already."""

    def count(self, work: Plan, number: int) -> None:
        """Look at the pieces of the plan that are this stream's, which has that number."""
        pieces = np.zeros(len(self.left), dtype=np.int64)
        for begin in range(0, len(work.stream), _COUNTED_AT_ONCE):
            of_it = work.stream[begin : begin + _COUNTED_AT_ONCE] == number
            rows = begin + np.flatnonzero(of_it)
            index = work.offset[rows] // np.uint64(PIECE)
            np.add.at(self.left, index, work.length[rows])
            np.add.at(pieces, index, 1)
        self.gathers = pieces > self.few

    def views(self, index: int, buffer: memoryview) -> list[tuple[int, memoryview]]:
        """Return, of a buffer with a mebibyte, the ranges that are no zeros, and their offsets."""
        begin, end = index * PIECE, (index + 1) * PIECE
        edges = np.array([begin, end], dtype=np.uint64)
        first = int(np.searchsorted(self._ends, edges[0], side="right"))
        last = int(np.searchsorted(self._starts, edges[1], side="left"))
        starts = np.maximum(self._starts[first:last], edges[0]).tolist()
        ends = np.minimum(self._ends[first:last], edges[1]).tolist()
        return [
            (start, buffer[start - begin : stop - begin])
            for start, stop in zip(starts, ends, strict=True)
        ]


class Gathering:
    """Takes pieces in any order, each once, and delivers runs of them. Safe from several threads.

    `streams` are those that are gathered, by number; others' pieces are passed on.
    """

    def __init__(
        self, work: Plan, streams: Mapping[int, Gathered], deliver: Deliver, *, room: int = ROOM
    ) -> None:
        self._work = work
        self._deliver = deliver
        self._room = room
        self._streams = streams
        for number, stream in streams.items():
            stream.count(work, number)
        self._stretches: dict[tuple[int, int], Stretch] = {}
        self._last: list[tuple[int, int]] = []  # a heap of their keys, which begins with the last
        self._held = 0
        self._finished = 0  # mebibytes since memory was given back
        self._free: list[memoryview] = []
        self._lock = Lock()

    def turns(self) -> list[list[int]]:
        """Return the numbers of the plan's volumes in groups, to be extracted one by one.

        They come in the order of the streams, and what is scattered before what is around it.
        """
        keys: dict[int, tuple[int, bool, int]] = {}
        age = {volume: turn for each in self._streams.values() for volume, turn in each.age.items()}
        for index, record in enumerate(self._work.volumes):
            rows = self._work.rows(index)
            gathers = self._gathers(self._work.stream[rows], self._work.offset[rows])
            place = self._places(rows)
            # Those which hold less than half of each mebibyte that they touch.
            touched = len(np.unique(place[gathers]))
            is_late = 2 * int(self._work.length[rows][gathers].sum()) >= touched * PIECE
            at = np.quantile(place, _MOST, method="lower") if is_late else place.min()
            # What lies around the newest is older, and may be a whole mebibyte then.
            keys[index] = int(at) // _TOGETHER, is_late, -age.get(record.volume, 0)
        order = sorted(keys, key=keys.__getitem__)
        return [list(group) for _, group in groupby(order, key=lambda index: keys[index][1])]

    def _places(self, rows: slice) -> U64:
        """Return the mebibytes, of all streams, that pieces lie in."""
        stream = self._work.stream[rows].astype(np.uint64)
        return (stream << np.uint64(44)) + self._work.offset[rows] // np.uint64(PIECE)

    def _gathers(self, stream: U32, offset: U64) -> NDArray[np.bool_]:
        """Tell which pieces are put together with others."""
        found = np.zeros(len(stream), dtype=bool)
        index = offset // np.uint64(PIECE)
        for number, each in self._streams.items():
            of_it = stream == number
            found[of_it] = each.gathers[index[of_it]]
        return found

    def wants(self, rows: slice) -> bool:
        """Tell whether all of these pieces of the plan are gathered."""
        return bool(np.isin(self._work.stream[rows], list(self._streams)).all())

    def take(self, number: int, pieces: Pieces, data: memoryview) -> None:
        """Take pieces that lie in a row, and deliver what they make whole."""
        if number not in self._streams:
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
        gathers = self._gathers(stream, offset)
        if not gathers.all():
            rest = np.flatnonzero(~gathers)
            self._pass_on(stream[rest], offset[rest], length[rest], raw[rest], window)
            rows = np.flatnonzero(gathers)
            stream, offset, length, raw = stream[rows], offset[rows], length[rows], raw[rows]
        if len(stream):
            self._gather(stream, offset, length, raw, window)

    def _pass_on(self, stream: U32, offset: U64, length: U32, raw: I64, window: memoryview) -> None:
        """Deliver pieces, those together that lie in a row."""
        ends = raw + length
        for begin, end in _runs((stream[1:] == stream[:-1]) & (raw[1:] == ends[:-1])):
            pieces = list(zip(offset[begin:end].tolist(), length[begin:end].tolist(), strict=True))
            self._deliver(int(stream[begin]), pieces, window[int(raw[begin]) : int(ends[end - 1])])

    def _gather(self, stream: U32, offset: U64, length: U32, raw: I64, window: memoryview) -> None:
        index = offset // np.uint64(PIECE)
        whole: list[tuple[int, int, Stretch]] = []
        with self._lock:
            for begin, end in _runs((index[1:] == index[:-1]) & (stream[1:] == stream[:-1])):
                here = slice(begin, end)
                key = int(stream[begin]), int(index[begin])
                stretch = self._keep(*key, offset[here], length[here], raw[here], window)
                if stretch is not None:
                    whole.append((*key, stretch))
            if self._held > self._room:
                self._make_room()
                self._finished = _GIVEN_BACK_AFTER
            self._finished += len(whole)
            is_much = self._finished >= _GIVEN_BACK_AFTER
            self._finished = 0 if is_much else self._finished
        for number, mebibyte, stretch in whole:
            self._deliver_whole(number, mebibyte, stretch)
        if is_much:
            # Else what waited in small pieces takes its room beside what waits in buffers.
            buffers.give_back()

    def _keep(
        self, number: int, index: int, offset: U64, length: U32, raw: I64, window: memoryview
    ) -> Stretch | None:
        """Keep pieces of a mebibyte; return it if they are the last ones."""
        stream = self._streams[number]
        size = int(length.sum())
        stream.left[index] -= size
        left = int(stream.left[index])
        key = -number, -index
        stretch = self._stretches.get(key)
        if stretch is None:
            stretch = self._stretches[key] = Stretch()
            heapq.heappush(self._last, key)
        self._held -= stretch.weight
        # From the half on each piece is copied once, and what waits is not twice as large as it is.
        if stretch.buffer is None and stretch.size + size >= left:
            stretch.move_to(self._buffer())
        stretch.keep(offset, length, raw, window)
        if left:
            self._held += stretch.weight
            return None
        del self._stretches[key]
        if len(self._last) > 2 * len(self._stretches) + _SPARE:
            # Else a dump of a tebibyte leaves a million keys, some 130 bytes each.
            self._last = list(self._stretches)
            heapq.heapify(self._last)
        return stretch

    def _make_room(self) -> None:
        """Put the last ones aside, to the target: those in front of them are whole before.

        Many at once, so that more of each has come.
        """
        while self._held > _LEFT * self._room and self._last:
            key = heapq.heappop(self._last)
            stretch = self._stretches.pop(key, None)
            if stretch is None:
                continue
            self._held -= stretch.weight
            number, index = -key[0], -key[1]
            stream = self._streams[number]
            buffer = self._buffer()
            self._complete(stream, index, stretch, buffer)
            for offset, view in stream.views(index, buffer):
                stream.target.write(offset, view)
            stream.is_aside[index] = True
            self._free.append(buffer)
            if stretch.buffer is not None:
                self._free.append(stretch.buffer)

    def _complete(self, stream: Gathered, index: int, stretch: Stretch, buffer: memoryview) -> None:
        """Fill a buffer with what is there of a mebibyte, and with zeros where nothing is."""
        for offset, view in stream.views(index, buffer):
            if stream.is_aside[index]:
                stream.target.read_into(offset, view)
            else:
                view[:] = bytes(len(view))
        stretch.copy_to(buffer)

    def _deliver_whole(self, number: int, index: int, stretch: Stretch) -> None:
        if stretch.buffer is None:
            raise ValueError("what is whole has a buffer")
        stream = self._streams[number]
        buffer = stretch.buffer
        if stream.is_aside[index]:
            with self._lock:
                buffer = self._buffer()
            self._complete(stream, index, stretch, buffer)
        for offset, view in stream.views(index, buffer):
            self._deliver(number, [(offset, len(view))], view)
        with self._lock:
            self._free += [stretch.buffer] if buffer is stretch.buffer else [stretch.buffer, buffer]
            del self._free[_FREE_BUFFERS:]

    def _buffer(self) -> memoryview:
        if not self._free:
            memory = buffers.dense(_BUFFERS_AT_ONCE * PIECE)
            self._free = [memory[at : at + PIECE] for at in range(0, len(memory), PIECE)]
        return self._free.pop()


def _runs(continues: NDArray[np.bool_]) -> Sequence[tuple[int, int]]:
    """Return where runs begin and end, given which rows but the first continue the one before."""
    edges = [0, *(np.flatnonzero(~continues) + 1).tolist(), len(continues) + 1]
    return list(pairwise(edges))
