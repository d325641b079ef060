# SPDX-License-Identifier: Apache-2.0
"""Half-open ranges of bytes, sorted and disjoint, as iterators: any number in bounded memory."""

from collections.abc import Iterable, Iterator
from heapq import merge

Range = tuple[int, int]


def is_well_formed(ranges: Iterable[Range], size: int) -> bool:
    """Tell whether ranges are sorted, disjoint, not empty and inside `size` bytes."""
    at = 0
    for begin, end in ranges:
        if not at <= begin < end:
            return False
        at = end
    return at <= size


def bytes_in(ranges: Iterable[Range]) -> int:
    """Return how many bytes ranges have together."""
    return sum(end - begin for begin, end in ranges)


def align(ranges: Iterable[Range], block_size: int, size: int) -> Iterator[Range]:
    """Grow ranges to whole blocks (the last may be short), and merge those that meet."""
    begin = end = -1
    for next_begin, next_end in ranges:
        next_begin -= next_begin % block_size  # noqa: PLW2901 - aligned before it is used
        next_end = min(size, next_end + -next_end % block_size)  # noqa: PLW2901 - as above
        if next_begin <= end:
            end = max(end, next_end)
            continue
        if end > begin:
            yield begin, end
        begin, end = next_begin, next_end
    if end > begin:
        yield begin, end


def intersect(left: Iterable[Range], right: Iterable[Range]) -> Iterator[Range]:
    """Yield what is in both."""
    others = iter(right)
    other = next(others, None)
    for begin, end in left:
        while other is not None and other[1] <= begin:
            other = next(others, None)
        while other is not None and other[0] < end:
            yield max(begin, other[0]), min(end, other[1])
            if other[1] > end:
                break
            other = next(others, None)


def subtract(left: Iterable[Range], right: Iterable[Range]) -> Iterator[Range]:
    """Yield what is in the first and not in the second."""
    others = iter(right)
    other = next(others, None)
    for begin, end in left:
        at = begin
        while other is not None and other[1] <= at:
            other = next(others, None)
        while other is not None and other[0] < end:
            if other[0] > at:
                yield at, other[0]
            at = other[1]
            if at > end:
                break
            other = next(others, None)
        if at < end:
            yield at, end


def from_on(ranges: Iterable[Range], begin: int, end: int) -> Iterator[Range]:
    """Yield the ranges with everything from `begin` to `end` added; none reaches past `end`."""
    for each in ranges:
        if each[1] >= begin:
            yield min(each[0], begin), end
            return
        yield each
    if begin < end:
        yield begin, end


def union(left: Iterable[Range], right: Iterable[Range]) -> Iterator[Range]:
    """Yield what is in either; ranges that meet are one."""
    begin = end = -1
    for next_begin, next_end in merge(left, right):
        if next_begin <= end:
            end = max(end, next_end)
            continue
        if end > begin:
            yield begin, end
        begin, end = next_begin, next_end
    if end > begin:
        yield begin, end
