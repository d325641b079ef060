# SPDX-License-Identifier: Apache-2.0
"""Storing of a changed block only the grains that differ from what it was.

The rest of such a block stays where the parent has it. Its bytes then lie in several places, and
each place costs a restore something: so runs that are close become one, a block that is mostly new
is stored whole, and so is one that would lie in too many places.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from snapvault.engine.grains import GRAIN, Grains, Mask, Sums, grains_of
from snapvault.engine.sorted_volumes import SortedVolumes
from snapvault.engine.volumes import Piece
from snapvault.formats.signatures import Hashes, is_nonzero
from snapvault.model.extents import PARENT, U32, U64, ExtentMap
from snapvault.model.rewriting import Lifetime

PLACES: Final = 1 / 2
"""Places that a block's bytes may lie in, for each of its grains."""

MOST_EXTENTS: Final = 2 << 20
"""Extents of a disk's map, with those that tonight adds, from which on no block is divided."""

_SHARE: Final = 3 / 4  # of a block's grains, from which on it is stored whole
_WAITING: Final = 1 << 20  # bytes of grains that wait to be appended together
_PAGE: Final = 4096  # bytes


@dataclass(slots=True)
class _Divided:
    """Some blocks of which only grains are stored: which ones, and where those of each begin.

    `volume` numbers the volumes in the order in which they came up.
    """

    block: U64
    grains: Mask
    volume: U32
    offset: U64


@dataclass(slots=True)
class Finer:
    """Divides the blocks of one disk. Used from one thread, region by region.

    `parent` is the disk's full map there; None if there is none, and nothing can be divided.
    """

    block_size: int
    parent: ExtentMap | None
    grains: Grains
    writer: SortedVolumes
    _starts: U64 = field(init=False)
    _extents: int = 0
    _divided: list[_Divided] = field(default_factory=list)
    _waiting: dict[Lifetime, list[tuple[_Divided, int, bytes]]] = field(default_factory=dict)
    _waiting_bytes: int = 0
    _volumes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.parent is not None:
            self._starts = self.parent.starts()
            self._extents = len(self.parent)

    def take(
        self,
        first: int,
        data: memoryview,
        hashes: Hashes,
        before: Hashes,
        changed: Mask,
        wanted: Mask,
        lifetimes: NDArray[np.uint8],
    ) -> tuple[Mask, int]:
        """Store grains of blocks from `first` on; return which blocks, and the bytes saved by it.

        `changed` are those that are not what they were there; of them, those may be divided that
        are `wanted`.
        """
        taken = np.zeros(len(changed), dtype=bool)
        blocks = len(data) // self.block_size
        learned = is_nonzero(hashes) if self.grains.is_new else changed
        at = np.flatnonzero(learned[:blocks])
        if not len(at):
            return taken, 0
        whole = np.frombuffer(data, np.uint8, blocks * self.block_size)
        is_row = at[-1] - at[0] + 1 == len(at)
        # A slice is no copy, and a first backup takes all blocks.
        content = whole.reshape(blocks, -1)[slice(at[0], at[-1] + 1) if is_row else at]
        block = at.astype(np.uint64) + np.uint64(first)
        sums, old, is_known = self.grains.take(block, hashes[at], content, before[at])
        rows = np.flatnonzero(is_known & wanted[at])
        if self.parent is None or not len(rows) or self._extents > MOST_EXTENTS:
            return taken, 0
        grains = self._differing(sums[rows], old[rows])
        count = grains.sum(axis=1)
        # SAFETY: where the block's hash differs and no grain does, the block is stored whole.
        is_few = (count > 0) & (count <= _SHARE * grains.shape[1])
        were, places = self._places(block[rows], grains)
        is_few &= places <= PLACES * grains.shape[1]
        self._extents += int((places - were)[is_few].sum())
        rows, grains, count = rows[is_few], grains[is_few], count[is_few]
        if len(rows):
            taken[at[rows]] = True
            self._keep(block[rows], content[rows], grains, lifetimes[at[rows]])
        return taken, (len(rows) * self.block_size) - int(count.sum()) * GRAIN

    @staticmethod
    def _differing(new: Sums, old: Sums) -> Mask:
        """Tell which grains differ; one between two that do is taken with them."""
        grains: Mask = (new != old).any(axis=2)
        grains[:, 1:-1] |= grains[:, :-2] & grains[:, 2:]
        return grains

    def _places(self, block: U64, grains: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return in how many places each block lies in the parent, and would lie now."""
        size = np.uint64(self.block_size)
        begin = block * size
        first = np.searchsorted(self._starts, begin, side="right")
        last = np.searchsorted(self._starts, begin + size, side="left")
        count = last - first
        row = np.repeat(np.arange(len(block)), count)
        step = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        inside = self._starts[first[row] + step] - begin[row]
        was_cut = np.zeros(grains.shape, dtype=bool)
        was_cut[row, (inside // np.uint64(GRAIN)).astype(np.int64)] = True
        both_old = ~grains[:, 1:] & ~grains[:, :-1]
        cut = (grains[:, 1:] != grains[:, :-1]) | (was_cut[:, 1:] & both_old)
        return 1 + count, 1 + cut.sum(axis=1)

    def _keep(
        self, block: U64, content: NDArray[np.uint8], grains: Mask, lifetimes: NDArray[np.uint8]
    ) -> None:
        count = len(block)
        divided = _Divided(block, grains, np.zeros(count, np.uint32), np.zeros(count, np.uint64))
        self._divided.append(divided)
        parts = content.reshape(count, -1, GRAIN)
        for row in range(count):
            data = parts[row][grains[row]].tobytes()
            self._waiting.setdefault(Lifetime(int(lifetimes[row])), []).append((divided, row, data))
            self._waiting_bytes += len(data)
        if self._waiting_bytes >= _WAITING:
            self._append()

    def _append(self) -> None:
        """Append what waits, all of a lifetime in a row, so that tiny pieces are packed together.

        No block's grains come to lie in two volumes: that is up to `unit`.
        """
        for lifetime, waiting in self._waiting.items():
            for some in _together([len(data) for _, _, data in waiting], self.block_size):
                batch = waiting[some]
                pieces: list[Piece] = []
                data = memoryview(b"".join([data for _, _, data in batch]))
                self.writer.append(
                    data, unit=self.block_size, on_piece=pieces.append, lifetime=lifetime
                )
                (piece,) = pieces
                volume = self._volumes.setdefault(piece.volume, len(self._volumes))
                offset = piece.offset
                for divided, row, part in batch:
                    divided.volume[row], divided.offset[row] = volume, offset
                    offset += len(part)
            # What follows are whole blocks: at pages of the volume they are restored faster.
            self.writer.align(_PAGE, lifetime=lifetime)
        self._waiting.clear()
        self._waiting_bytes = 0

    def end_region(
        self, first: int, columns: tuple[U64, U32, U64], number: Callable[[str], int]
    ) -> tuple[U64, U32, U64]:
        """Return the columns of a region, one row a block, with the blocks divided that are.

        `number` gives the place of a volume in the map.
        """
        self._append()
        length, place, offset = columns
        divided, self._divided = self._divided, []
        if not divided:
            return length, place, offset
        start = (np.arange(len(length), dtype=np.uint64) + np.uint64(first)) * np.uint64(
            self.block_size
        )
        rest = np.ones(len(length), dtype=bool)
        rest[np.concatenate([each.block for each in divided]).astype(np.int64) - first] = False
        parts = [(start[rest], length[rest], place[rest], offset[rest])]
        places = np.array([number(volume) for volume in self._volumes], dtype=np.uint32)
        parts += [self._columns(each, places) for each in divided]
        start, length, place, offset = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        order = np.argsort(start, kind="stable")
        return length[order], place[order], offset[order]

    def _columns(self, divided: _Divided, places: U32) -> tuple[U64, U64, U32, U64]:
        grains = divided.grains
        count = grains_of(self.block_size)
        begins = np.ones(grains.shape, dtype=bool)
        begins[:, 1:] = grains[:, 1:] != grains[:, :-1]
        row, column = np.nonzero(begins)
        at = row * count + column
        length = np.diff(at, append=len(grains) * count).astype(np.uint64) * np.uint64(GRAIN)
        is_new = grains[row, column]
        stored: NDArray[np.int64] = np.cumsum(grains, axis=1, dtype=np.int64) - grains
        start = divided.block[row] * np.uint64(self.block_size)
        start += column.astype(np.uint64) * np.uint64(GRAIN)
        offset = divided.offset[row] + stored[row, column].astype(np.uint64) * np.uint64(GRAIN)
        place = np.where(is_new, places[divided.volume[row]], np.uint32(PARENT))
        return start, length, place.astype(np.uint32), np.where(is_new, offset, start)


def _together(sizes: list[int], most: int) -> list[slice]:
    """Return slices of neighbors that together have no more bytes than that."""
    found: list[slice] = []
    begin = total = 0
    for number, size in enumerate(sizes):
        if total + size > most:
            found.append(slice(begin, number))
            begin, total = number, 0
        total += size
    found.append(slice(begin, len(sizes)))
    return found
