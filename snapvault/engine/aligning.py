# SPDX-License-Identifier: Apache-2.0
"""Laying the old stream along the new one: which bytes are old ones, in place or moved.

A dump is, night after night, mostly the same bytes in the same order, each time a little further
on or back. Anchors tell how far; the finer hashes of the old grains, compared at just that
distance, tell whether it is so. That is a few sums of whole arrays, where rolling a hash is a step
for every byte. What is not found goes on as a literal, to be looked for in other ways.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snapvault.engine.anchors import NO_ANCHORS, AnchorIndex, Anchors
from snapvault.engine.fine import FineHashes
from snapvault.engine.fine_search import counted
from snapvault.engine.fine_sums import GRAIN
from snapvault.engine.refining import outside
from snapvault.model.ranges import Range

_I64: TypeAlias = NDArray[np.int64]
_Part: TypeAlias = tuple[int, int, int, bool]  # start, end, shift, is it hidden

_BATCH = 1 << 20  # bytes looked at together
_KEEP = 4096  # bytes at the end of a batch that are looked at again with the next


class Aligner:
    """Passes a stream on, in order, as copies of old bytes and literals.

    `index` has the anchors of the old stream, if there are any. Its `hidden` ranges, sorted and
    disjoint, are never copied: what is found there goes to `again`, with where it was, and so does
    what little changed in between. `worth` tells how long a copy must be. Every copy was compared,
    by the hashes.
    """

    def __init__(
        self,
        hashes: FineHashes,
        index: AnchorIndex | None,
        copy: Callable[[int, int], None],
        literal: Callable[[memoryview], None],
        again: Callable[[int, memoryview], None],
        *,
        hidden: Sequence[Range] = (),
        worth: Callable[[], int],
    ) -> None:
        self._hashes = hashes
        self._index = index
        self._to_copy = copy
        self._to_literal = literal
        self._to_again = again
        self._hidden = hidden
        self._worth = worth
        self._pieces: list[bytes] = []
        self._anchors: list[Anchors] = []
        self._size = 0
        self._begin = 0  # of the pieces, in the stream
        self._shift = 0  # from new to old places, as it was last

    def feed(self, data: bytes, anchors: Anchors) -> None:
        """Take the next bytes, and the anchors of the stream that are known since the last."""
        self._pieces.append(data)
        self._anchors.append(anchors)
        self._size += len(data)
        if self._size >= _BATCH:
            self._look(is_last=False)

    def finish(self) -> None:
        """Take the end of the stream."""
        self._look(is_last=True)

    def _look(self, *, is_last: bool) -> None:
        data = b"".join(self._pieces)
        start, end, shift = self._found(data)
        found = int(end[-1]) if len(end) else 0
        stop = len(data) if is_last else max(found, len(data) - _KEEP)
        view = memoryview(data)
        at = 0
        for first, last, far, is_hidden in self._parts(start, end, shift):
            if first > at:
                self._to_literal(view[at:first])
            if is_hidden:
                self._to_again(first + self._begin + far, view[first:last])
            else:
                self._to_copy(first + self._begin + far, last - first)
            at = last
        if len(shift):
            self._shift = int(shift[-1])
        if is_last and self._is_old_end(view[at:], at):
            self._to_copy(at + self._begin + self._shift, len(data) - at)
        elif stop > at:
            self._to_literal(view[at:stop])
        self._pieces = [data[stop:]]
        self._size = len(data) - stop
        self._begin += stop
        self._anchors = [
            _from(self._begin, each) for each in self._anchors if _ends(each) >= self._begin
        ]

    def _is_old_end(self, data: memoryview, at: int) -> bool:
        """Tell whether the stream ends with what the old one has after its last whole grain."""
        is_there = at + self._begin + self._shift == self._hashes.grains * GRAIN
        return bool(data) and is_there and self._hashes.ends_with(data) and not self._hidden

    def _found(self, data: bytes) -> tuple[_I64, _I64, _I64]:
        """Return the runs of old bytes in a batch: start, end and shift, in order, disjoint."""
        place, shift = self._guesses()
        # Guesses that agree are one; it holds from the last that differs to the next one.
        turn = np.flatnonzero(shift[1:] != shift[:-1]) + 1
        first, last = np.concatenate(([0], turn)), np.concatenate((turn - 1, [len(shift) - 1]))
        low = np.concatenate(([0], place[last[:-1]]))
        high = np.concatenate((place[first[1:]], [len(data)]))
        shift = shift[first]
        old = shift + self._begin
        begin = np.maximum(0, -(-(low + old) // GRAIN))
        stop = np.minimum((high + old) // GRAIN, self._hashes.grains)
        number, step = counted(np.maximum(0, stop - begin))
        grain = begin[number] + step
        at = grain * GRAIN - old[number]
        equal = np.flatnonzero(self._hashes.are_old(data, at, grain))
        self._hashes.let_go()
        if not len(equal):
            return NO_ANCHORS.position, NO_ANCHORS.position, NO_ANCHORS.position
        ends = (np.diff(equal) != 1) | np.diff(number[equal]).astype(bool)
        heads = equal[np.concatenate(([True], ends))]
        tails = equal[np.concatenate((ends, [True]))]
        return _disjoint(at[heads], at[tails] + GRAIN, shift[number[heads]], self._worth())

    def _guesses(self) -> tuple[_I64, _I64]:
        """Return places in the batch, rising, and how far from there the old bytes may lie."""
        first = np.zeros(1, dtype=np.int64), np.full(1, self._shift, dtype=np.int64)
        if self._index is None:
            return first
        found = [self._index.find(anchors) for anchors in self._anchors]
        new = np.concatenate([NO_ANCHORS.position, *(each[0] for each in found)])
        old = np.concatenate([NO_ANCHORS.position, *(each[1] for each in found)])
        # An anchor is known once its bytes are: what it lies in may have been passed on before.
        known = (new >= self._begin) & (old >= 0) & (old < self._hashes.grains * GRAIN)
        new, old = new[known], old[known]
        return np.concatenate((first[0], new - self._begin)), np.concatenate((first[1], old - new))

    def _parts(self, start: _I64, end: _I64, shift: _I64) -> Iterator[_Part]:
        """Yield runs with whether they are hidden: in parts, where only parts of them are."""
        runs = zip(start.tolist(), end.tolist(), shift.tolist(), strict=True)
        if not self._hidden:
            yield from ((*run, False) for run in runs)
            return
        hidden: _Part | None = None
        for part in self._cut(runs):
            if hidden is not None and part[3] and part[0] - hidden[1] < _KEEP:
                hidden = (hidden[0], part[1], hidden[2], True)
                continue
            if hidden is not None:
                yield hidden
            hidden = part if part[3] else None
            if hidden is None:
                yield part
        if hidden is not None:
            yield hidden

    def _cut(self, runs: Iterable[tuple[int, int, int]]) -> Iterator[_Part]:
        """Yield the parts of runs that are hidden, and those that are not, in order."""
        for begin, stop, far in runs:
            move = far + self._begin
            at = begin
            for first, last in outside(begin + move, stop + move, self._hidden):
                if first - move > at:
                    yield at, first - move, far, True
                yield first - move, last - move, far, False
                at = last - move
            if at < stop:
                yield at, stop, far, True


def _ends(anchors: Anchors) -> int:
    return int(anchors.position[-1]) if len(anchors.position) else -1


def _from(begin: int, anchors: Anchors) -> Anchors:
    first = int(np.searchsorted(anchors.position, begin))
    return Anchors(anchors.position[first:], anchors.key[first:])


def _disjoint(start: _I64, end: _I64, shift: _I64, worth: int) -> tuple[_I64, _I64, _I64]:
    """Cut runs where they overlap, and leave out those that are too short to be worth it."""
    order = np.argsort(start, kind="stable")
    start, end, shift = start[order], end[order], shift[order]
    before = np.concatenate(([0], np.maximum.accumulate(end)[:-1]))
    cut = np.maximum(start, before)
    good = (end - cut >= worth) | ((cut == before) & (end > cut))
    return cut[good], end[good], shift[good]
