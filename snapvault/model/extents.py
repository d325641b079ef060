# SPDX-License-Identifier: Apache-2.0
"""Maps: where every byte of a stream lies, as columns of numbers.

A map is a partition of a stream, in stream order, into extents. An extent lies in a
volume, is zeros, or (only in a map of changes) is a range of the parent's stream. The
stream offset of an extent is the sum of the lengths before it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

ZERO = 0
PARENT = 1
FIRST_VOLUME = 2

_AT_ONCE = 1 << 16  # extents composed at once


@dataclass(frozen=True, slots=True, eq=False)
class ExtentMap:
    """The extents of one stream.

    `length` (u64) is in bytes and never zero. `place` (u32) is ZERO, PARENT, or
    FIRST_VOLUME plus an index into `volumes`. `offset` (u64) is the position in the
    volume's raw bytes, or in the parent's stream; 0 for zeros. `volumes` are volume ids
    without duplicates; some may be unused.
    """

    length: U64
    place: U32
    offset: U64
    volumes: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.length) == len(self.place) == len(self.offset):
            raise ValueError("columns of a map differ in length")
        if len(self.length) and int(self.length.min()) == 0:
            raise ValueError("a map holds an empty extent")
        if len(self.place) and int(self.place.max()) >= FIRST_VOLUME + len(self.volumes):
            raise ValueError("a map names a volume that it does not list")

    def __len__(self) -> int:
        return len(self.length)

    @property
    def size(self) -> int:
        """Bytes of the stream."""
        return int(self.length.sum())

    @property
    def is_full(self) -> bool:
        """Whether no extent refers to a parent."""
        return not bool((self.place == PARENT).any())

    def starts(self) -> U64:
        """Return the stream offset of every extent."""
        ends = np.cumsum(self.length, dtype=np.uint64)
        return ends - self.length

    def live_bytes(self) -> dict[str, int]:
        """Return the bytes that the map uses of each volume it uses, in the order of `volumes`."""
        sums = np.bincount(
            self.place.astype(np.int64),
            weights=self.length,
            minlength=FIRST_VOLUME + len(self.volumes),
        )
        return {
            volume: int(used)
            for volume, used in zip(self.volumes, sums[FIRST_VOLUME:], strict=True)
            if used
        }


def from_rows(rows: Sequence[tuple[int, int, int]], volumes: Iterable[str]) -> ExtentMap:
    """Build a map from (length, place, offset) rows."""
    return ExtentMap(
        np.array([row[0] for row in rows], dtype=np.uint64),
        np.array([row[1] for row in rows], dtype=np.uint32),
        np.array([row[2] for row in rows], dtype=np.uint64),
        tuple(volumes),
    )


def concatenate(parts: Iterable[tuple[U64, U32, U64]], volumes: Iterable[str]) -> ExtentMap:
    """Join columns that follow each other in the stream, merging extents that continue.

    Takes twice the memory of the result, where parts are made one by one.
    """
    rows: list[tuple[U64, U32, U64]] = []
    for part in parts:
        length, place, offset = coalesce(*part)
        if rows and len(length):
            lengths, places, offsets = rows[-1]
            if _continues(lengths[-1:], places[-1:], offsets[-1:], place[:1], offset[:1]).all():
                lengths[-1] += length[0]
                length, place, offset = length[1:], place[1:], offset[1:]
        if len(length):
            rows.append((length.copy(), place, offset))  # the part stays as it is
    if not rows:
        return from_rows([], volumes)
    length, place, offset = (np.concatenate(column) for column in zip(*rows, strict=True))
    return ExtentMap(length, place, offset, tuple(volumes))


def runs_of(wanted: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where the runs of what is wanted begin, and where they end."""
    edges = np.flatnonzero(np.diff(wanted, prepend=False, append=False))
    return edges[::2], edges[1::2]


def coalesce(length: U64, place: U32, offset: U64) -> tuple[U64, U32, U64]:
    """Merge neighbors that continue each other: zeros, or adjoining bytes of one place."""
    if len(length) < 2:
        return length, place, offset
    continues = _continues(length[:-1], place[:-1], offset[:-1], place[1:], offset[1:])
    heads = np.flatnonzero(np.concatenate(([True], ~continues)))
    return np.add.reduceat(length, heads), place[heads], offset[heads]


def runs_of_zeros(extents: ExtentMap) -> tuple[U64, U64, NDArray[np.bool_]]:
    """Return start and length of the runs, as long as they go, of zeros and of other bytes.

    They are in order, cover the stream, and the last column tells which are zeros.
    """
    zeros = (extents.place == ZERO).astype(np.uint32)
    length, is_zero, start = coalesce(extents.length, zeros, extents.starts())
    return start, length, is_zero.astype(bool)


def _continues(
    length: U64, place: U32, offset: U64, next_place: U32, next_offset: U64
) -> NDArray[np.bool_]:
    continues: NDArray[np.bool_] = (next_place == place) & (
        (next_place == ZERO) | (next_offset == offset + length)
    )
    return continues


def compose(changes: ExtentMap, parent: ExtentMap) -> ExtentMap:
    """Replace every PARENT extent of `changes` with what the parent's map says of that range.

    `parent` is full; so is the result, whose volumes are those in use: the parent's
    first, in the parent's order. Takes twice the memory of the result, and some megabytes.

    Raises:
        ValueError: the changes refer to bytes beyond the parent's end.
    """
    if not parent.is_full:
        raise ValueError("a map of changes has no full map under it")
    volumes = tuple(dict.fromkeys((*parent.volumes, *changes.volumes)))
    number = {volume: FIRST_VOLUME + index for index, volume in enumerate(volumes)}
    changes = replace(changes, place=_renumbered(changes, number), volumes=volumes)
    parent = replace(parent, place=_renumbered(parent, number), volumes=volumes)
    return without_unused(concatenate(_composed(changes, parent), volumes))


def _composed(changes: ExtentMap, parent: ExtentMap) -> Iterator[tuple[U64, U32, U64]]:
    """Yield the columns of a composed map, some extents at a time; both number volumes alike."""
    from_parent = changes.place == PARENT
    begin = changes.offset[from_parent]
    end = begin + changes.length[from_parent]
    if len(end) and int(end.max()) > parent.size:
        raise ValueError("a map of changes refers to bytes beyond the end of its parent")
    starts = parent.starts()
    first = np.zeros(len(changes), dtype=np.int64)
    first[from_parent] = np.searchsorted(starts, begin, side="right") - 1
    count = np.ones(len(changes), dtype=np.int64)
    count[from_parent] = np.searchsorted(starts, end, side="left") - first[from_parent]
    ends = np.cumsum(count)
    total = int(count.sum())
    for at in range(0, total, _AT_ONCE):
        turn = np.arange(at, min(at + _AT_ONCE, total))
        row = np.searchsorted(ends, turn, side="right")
        length, place, offset = changes.length[row], changes.place[row], changes.offset[row]
        inherited = from_parent[row]
        # The k-th piece of a PARENT extent is the k-th parent extent that it touches.
        source = (first[row] + turn - (ends[row] - count[row]))[inherited]
        begin = np.maximum(starts[source], offset[inherited])
        end = np.minimum(
            starts[source] + parent.length[source], offset[inherited] + length[inherited]
        )
        length[inherited] = end - begin
        place[inherited] = parent.place[source]
        offset[inherited] = np.where(
            parent.place[source] == ZERO,
            np.uint64(0),
            parent.offset[source] + (begin - starts[source]),
        )
        yield length, place, offset


def without_unused(extents: ExtentMap) -> ExtentMap:
    """Drop the volumes that no extent uses; the order of the others stays."""
    used = np.zeros(FIRST_VOLUME + len(extents.volumes), dtype=bool)
    used[:FIRST_VOLUME] = True
    used[extents.place] = True
    if used.all():
        return extents
    renumber = (np.cumsum(used) - 1).astype(np.uint32)
    kept = tuple(
        volume for volume, keep in zip(extents.volumes, used[FIRST_VOLUME:], strict=True) if keep
    )
    return ExtentMap(extents.length, renumber[extents.place], extents.offset, kept)


def _renumbered(extents: ExtentMap, number: dict[str, int]) -> U32:
    table = np.array(
        [ZERO, PARENT, *(number[volume] for volume in extents.volumes)], dtype=np.uint32
    )
    return table[extents.place]
