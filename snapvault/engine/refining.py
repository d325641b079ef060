# SPDX-License-Identifier: Apache-2.0
"""Between two copies of old bytes: which bytes of a literal are old ones after all.

librsync copies whole blocks of 2 KiB and more, and what lays the streams along each other whole
grains at distances it can guess. Where a row of a dump changed, the literal between two copies
holds some other rows too. The finer hashes of the old bytes that lie between the two find them.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from snapvault.engine.fine import FineHashes
from snapvault.engine.fine_search import Gap, Run, find
from snapvault.engine.fine_sums import GRAIN
from snapvault.model.ranges import Range, subtract

_BATCH = 1 << 20  # bytes of literals looked at together
_LONGEST = 1 << 18  # bytes of one literal looked at together
_MARGIN = 64 << 10  # bytes of the old stream searched beyond twice the literal


@dataclass(frozen=True, slots=True)
class _Copied:
    offset: int
    length: int


class Refiner:
    """Passes commands on, in order, with literals made shorter where old bytes are found in them.

    `size` is that of the old stream, in bytes; copies from beyond it are left alone. In its
    `hidden` ranges, sorted and disjoint, nothing is found. `worth` tells how long a run must be.
    Memory holds some three megabytes.
    """

    def __init__(
        self,
        hashes: FineHashes,
        size: int,
        copy: Callable[[int, int], None],
        literal: Callable[[memoryview], None],
        *,
        hidden: Sequence[Range] = (),
        worth: Callable[[], int],
    ) -> None:
        self._hashes = hashes
        self._size = size
        self._to_copy = copy
        self._to_literal = literal
        self._hidden = hidden
        self._worth = worth
        self._data = bytearray()
        self._queue: list[_Copied | Gap] = []
        self._open_at = 0  # where the literal begins that is not closed yet
        self._old_at = 0  # where the old bytes begin that it may come from
        self._is_hopeless = False

    def copy(self, offset: int, length: int) -> None:
        """Take a copy of old bytes."""
        self._is_hopeless = False
        self._close(offset if offset < self._size else None)
        self._queue.append(_Copied(offset, length))
        self._old_at = min(offset + length, self._size)
        if len(self._data) >= _BATCH or len(self._queue) >= _BATCH // GRAIN:
            self._flush()

    def literal(self, data: memoryview) -> None:
        """Take a piece of a literal."""
        if self._is_hopeless:
            self._to_literal(data)
            return
        while data:
            room = _LONGEST - (len(self._data) - self._open_at)
            self._data += data[:room]
            data = data[room:]
            if len(self._data) - self._open_at == _LONGEST:
                self._close(None)
                if not self._flush():
                    # All of it is new; what follows up to the next copy is not looked at.
                    self._is_hopeless = True
                    if data:
                        self._to_literal(data)
                    return
                self._old_at = min(self._old_at + _LONGEST, self._size)

    def again(self, offset: int, data: memoryview) -> None:
        """Take old bytes that were at `offset`, and are stored again as they are."""
        self._is_hopeless = False
        self._close(offset)
        self._flush()
        self._old_at = min(offset + len(data), self._size)
        self._to_literal(data)

    def finish(self) -> None:
        """Take the end of the stream."""
        self._close(self._size)
        self._flush()

    def _close(self, next_at: int | None) -> None:
        """End the open literal, if there is one; old bytes go on at `next_at`, if that is known."""
        length = len(self._data) - self._open_at
        if not length:
            return
        most = 2 * length + _MARGIN
        begin, end = self._old_at, self._size if next_at is None else next_at
        if begin > end:
            begin = max(0, end - most)
        self._queue.append(Gap(self._open_at, len(self._data), begin, min(end, begin + most)))
        self._open_at = len(self._data)

    def _flush(self) -> bool:
        """Pass on what is closed; tell whether old bytes were found in the last literal."""
        gaps = [each for each in self._queue if isinstance(each, Gap)]
        data = bytes(self._data)
        found = iter(find(self._hashes, data, gaps))
        view = memoryview(data)
        worth = self._worth()
        is_found = False
        for each in self._queue:
            if isinstance(each, _Copied):
                self._to_copy(each.offset, each.length)
                continue
            seen = (part for run in next(found) for part in self._outside(run))
            runs = [run for run in seen if _is_worth(run, each, worth)]
            is_found = bool(runs)
            at = each.start
            for run in runs:
                if run.start > at:
                    self._to_literal(view[at : run.start])
                self._to_copy(run.old, run.end - run.start)
                at = run.end
            if each.stop > at:
                self._to_literal(view[at : each.stop])
        self._queue.clear()
        self._data.clear()
        self._open_at = 0
        return is_found

    def _outside(self, run: Run) -> Iterator[Run]:
        """Yield the parts of a run that are not hidden."""
        for begin, end in outside(run.old, run.old + run.end - run.start, self._hidden):
            yield Run(run.start + begin - run.old, run.start + end - run.old, begin)


def outside(begin: int, end: int, hidden: Sequence[Range]) -> Iterator[Range]:
    """Yield the parts of a range that are not in some others, which are sorted and disjoint."""
    first = bisect_right(hidden, begin, key=lambda each: each[1])
    last = bisect_left(hidden, end, key=lambda each: each[0])
    return subtract([(begin, end)], hidden[first:last])


def _is_worth(run: Run, gap: Gap, worth: int) -> bool:
    """Tell whether a run saves more than it costs; one that continues a copy costs nothing."""
    length = run.end - run.start
    return (
        length >= worth
        or (run.start == gap.start and run.old == gap.begin)
        or (run.end == gap.stop and run.old + length == gap.end)
    )
