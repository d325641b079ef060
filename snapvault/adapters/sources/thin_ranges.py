# SPDX-License-Identifier: Apache-2.0
"""Many ranges of bytes in little memory."""

from array import array
from collections.abc import Sequence
from typing import overload

_MOST = 1 << 18  # ranges kept apart; 16 bytes each


class Ranges(Sequence[tuple[int, int]]):
    """Half-open ranges, sorted and disjoint, that grow at their end.

    Once there are `most`, those that lie closest to each other are joined over the gap between
    them, so a list may cover more than what was added to it, and never less. Ranges that
    meet are one.
    """

    def __init__(self, *, most: int = _MOST) -> None:
        self._most = most
        self._starts = array("Q")
        self._ends = array("Q")
        self._gap = 0  # bytes; a gap up to this long is not kept

    def add(self, start: int, end: int) -> None:
        """Add a range that starts at or after the end of all before it."""
        if start >= end or (self._ends and start < self._ends[-1]):
            raise ValueError(f"not a range to add: {start} to {end}")
        if self._ends and start - self._ends[-1] <= self._gap:
            self._ends[-1] = end
            return
        self._starts.append(start)
        self._ends.append(end)
        while len(self._starts) > self._most:
            self._widen()

    def _widen(self) -> None:
        """Close the shortest gaps; at least one is closed each time, most often many."""
        shortest = min(
            start - end for start, end in zip(self._starts[1:], self._ends[:-1], strict=True)
        )
        self._gap = max(self._gap * 2, shortest)
        starts, ends = self._starts[:1], self._ends[:1]
        for start, end in zip(self._starts[1:], self._ends[1:], strict=True):
            if start - ends[-1] <= self._gap:
                ends[-1] = end
            else:
                starts.append(start)
                ends.append(end)
        self._starts, self._ends = starts, ends

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, int]]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, int] | list[tuple[int, int]]:
        if isinstance(index, slice):
            return list(zip(self._starts[index], self._ends[index], strict=True))
        return self._starts[index], self._ends[index]
