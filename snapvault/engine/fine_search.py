# SPDX-License-Identifier: Apache-2.0
"""Which bytes between two copies of the old stream are old ones, by finer hashes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from snapvault.engine.fine import FineHashes
from snapvault.engine.fine_sums import GRAIN, I64, WORDS, Hashes, rolling_sums, windows
from snapvault.model.extents import U64

_SHORTEST: Final = 2 * GRAIN  # bytes that are worth looking at
_HELD: Final = 1 << 13  # windows copied, and rows of numbers, at once
_TABLE_BITS: Final = 20


@dataclass(frozen=True, slots=True)
class Run:
    """Some bytes of a literal, from `start` to `end`, that are old ones from `old` on."""

    start: int
    end: int
    old: int


@dataclass(frozen=True, slots=True)
class Gap:
    """A literal, and the part of the old stream (from `begin` to `end`) that it may have come from.

    `start` and `stop` say where it lies among the bytes of all gaps.
    """

    start: int
    stop: int
    begin: int
    end: int


def find(fine: FineHashes, data: bytes, gaps: Sequence[Gap]) -> list[list[Run]]:
    """Find old bytes in literals: for each gap its runs, in order and disjoint.

    `data` holds the literals of all gaps one after the other. Most changes leave all before
    and all after them where it was; what they leave in between is looked for everywhere.
    """
    if not gaps or not len(fine.table):
        return [[] for _ in gaps]
    start, stop, begin, end = (
        np.array(column, dtype=np.int64)
        for column in zip(*((gap.start, gap.stop, gap.begin, gap.end) for gap in gaps), strict=True)
    )
    first, last = -(-begin // GRAIN), np.minimum(end // GRAIN, len(fine.table))
    room = np.minimum((stop - start) // GRAIN, last - first)
    head = _as_before(fine, data, start, first, np.where(begin % GRAIN, 0, room), 1)
    room = np.where((end % GRAIN != 0) | (last * GRAIN != end), 0, room - head)
    tail = _as_before(fine, data, stop - GRAIN, last - 1, room, -1)
    start, stop = start + head * GRAIN, stop - tail * GRAIN
    first, last = first + head, last - tail
    found = [
        [Run(gap.start, at, gap.begin)] if at > gap.start else []
        for gap, at in zip(gaps, start.tolist(), strict=True)
    ]
    _look_around(fine, data, start, stop, first, last, found)
    for runs, gap, at, grain in zip(found, gaps, stop.tolist(), last.tolist(), strict=True):
        if at < gap.stop:
            _append(runs, Run(at, gap.stop, grain * GRAIN))
    return found


def _as_before(
    fine: FineHashes, data: bytes, position: I64, grain: I64, room: I64, way: int
) -> I64:
    """Count, for each gap, the grains from a position on, that way, that are as they were."""
    counts = np.maximum(room, 0)
    if not counts.any():
        return counts
    number, step = counted(counts)
    at = position[number] + way * GRAIN * step
    old = fine.table[grain[number] + way * step]
    equal = (fine.sums.of(windows(data, at)) == old).all(axis=1)
    begins = np.cumsum(counts) - counts
    # The first that differs, or else the end, of each gap's grains.
    differing = np.concatenate((np.flatnonzero(~equal), [len(equal)]))
    ends = differing[np.searchsorted(differing, begins)]
    alike: I64 = np.minimum(ends - begins, counts)
    return alike


def _look_around(
    fine: FineHashes,
    data: bytes,
    start: I64,
    stop: I64,
    first: I64,
    last: I64,
    found: list[list[Run]],
) -> None:
    """Look for the grains from `first` to `last` of each gap at any place in its literal."""
    gaps = np.flatnonzero((stop - start >= _SHORTEST) & (last > first))
    if not len(gaps):
        return
    parts = zip(start[gaps].tolist(), stop[gaps].tolist(), strict=True)
    some = b"".join([data[begin:end] for begin, end in parts])
    edges = np.cumsum(stop[gaps] - start[gaps])
    number, step = counted(last[gaps] - first[gaps])
    grains = first[gaps][number] + step
    old = fine.table[grains]
    keys = (number.astype(np.uint64) << np.uint64(32)) | old[:, 0]
    order = np.argsort(keys, kind="stable")
    keys, grains, old = keys[order], grains[order], old[order]
    position, key = _matching(some, edges.astype(np.uint64), keys)
    if not len(position):
        return
    # Where bytes repeat themselves each place is a match: not all windows are held at once.
    slices = (position[at : at + _HELD] for at in range(0, len(position), _HELD))
    new = np.concatenate([fine.sums.of(windows(some, each)) for each in slices])
    likely = _are_likely(key, new, keys, old)
    position, key, new = position[likely], key[likely], new[likely]
    # From places among the parts to places in `data`.
    shift = (stop[gaps] - edges).tolist()
    names = gaps.tolist()
    for at, gap, grain in _proven(position, key, new, keys, grains, old):
        place = at + shift[gap]
        _append(found[names[gap]], Run(place, place + GRAIN, grain * GRAIN))


def _append(runs: list[Run], run: Run) -> None:
    """Add a run, or make the last one longer if this one continues it."""
    if runs and runs[-1].end == run.start and runs[-1].old + run.start - runs[-1].start == run.old:
        runs[-1] = Run(runs[-1].start, run.end, runs[-1].old)
    else:
        runs.append(run)


def counted(counts: I64) -> tuple[I64, I64]:
    """Return, for that many rows of each number, the numbers, and the rows' places under them."""
    number = np.repeat(np.arange(len(counts)), counts)
    return number, np.arange(len(number)) - np.repeat(np.cumsum(counts) - counts, counts)


def _matching(data: bytes, edges: U64, keys: U64) -> tuple[U64, U64]:
    """Return where windows lie whose weak sum an old grain of their gap has, with their keys."""
    slots = np.zeros(1 << _TABLE_BITS, dtype=bool)
    slots[_slot(keys)] = True
    positions: list[U64] = []
    found: list[U64] = []
    for phase in (0, 1):
        words = np.frombuffer(data, "<u2", (len(data) - phase) // 2, phase).astype(np.uint64)
        if len(words) < WORDS:
            continue
        weak = rolling_sums(words)
        position = np.arange(phase, phase + 2 * len(weak), 2, dtype=np.uint64)
        gap = np.searchsorted(edges, position, side="right").astype(np.uint64)
        key = (gap << np.uint64(32)) | weak
        likely = np.flatnonzero(slots[_slot(key)])
        position, key, gap = position[likely], key[likely], gap[likely]
        inside = position + np.uint64(GRAIN) <= edges[gap]
        at = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        hit = np.flatnonzero(inside & (keys[at] == key))
        positions.append(position[hit])
        found.append(key[hit])
    position, key = np.concatenate(positions), np.concatenate(found)
    order = np.argsort(position)
    return position[order], key[order]


def _slot(keys: U64) -> U64:
    return (keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - _TABLE_BITS)


def _are_likely(key: U64, new: Hashes, keys: U64, old: Hashes) -> NDArray[np.bool_]:
    """Tell which windows have the strong sums of an old grain of their gap, most likely.

    Whoever writes the streams can have any number of grains with one weak sum, and each window
    would be held against all of them. Strong sums nobody can choose.
    """
    return np.isin(_mixed(key, new), _mixed(keys, old))


def _mixed(key: U64, hashes: Hashes) -> U64:
    strong = hashes[:, 1].astype(np.uint64) | (hashes[:, 2].astype(np.uint64) << np.uint64(31))
    mixed: U64 = strong + key * np.uint64(0x9E3779B97F4A7C15)
    return mixed


def _proven(
    position: U64, key: U64, new: Hashes, keys: U64, grains: I64, old: Hashes
) -> Iterator[tuple[int, int, int]]:
    """Yield (position, gap, grain) of windows whose strong sums are those of an old grain.

    They are disjoint. Among equal grains it takes the one that follows the last one, or else
    the first.
    """
    first = np.searchsorted(keys, key, side="left")
    last = np.searchsorted(keys, key, side="right")
    is_only = last - first == 1
    is_first = (old[first, 1:] == new[:, 1:]).all(axis=1)
    rows = np.flatnonzero(is_first | ~is_only)
    columns = (position, key >> np.uint64(32), first, last, is_only)
    free, wanted = 0, -1
    for row, at, gap, begin, end, is_clear in _numbers(rows, columns):
        if at < free:
            continue
        if is_clear:
            grain = int(grains[begin])
        else:
            equal = (old[begin:end, 1:] == new[row, 1:]).all(axis=1)
            some = grains[begin:end][equal].tolist()
            if not some:
                continue
            grain = wanted if wanted in some else some[0]
        yield at, gap, grain
        free, wanted = at + GRAIN, grain + 1


def _numbers(rows: I64, columns: Sequence[NDArray[Any]]) -> Iterator[tuple[int, ...]]:
    """Yield some rows of columns, as numbers: not all of them are objects at once."""
    for at in range(0, len(rows), _HELD):
        part = rows[at : at + _HELD]
        yield from zip(part.tolist(), *(column[part].tolist() for column in columns), strict=True)
