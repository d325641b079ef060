# SPDX-License-Identifier: Apache-2.0
"""Reading a sample of what a platform claims not to have changed."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np

from snapvault.engine.blocks import block_hashes, inheritable_end
from snapvault.engine.buffers import dense
from snapvault.engine.pipeline import WORKERS, ordered, threads
from snapvault.formats.signatures import (
    REGION_BLOCKS,
    Hashes,
    Page,
    differ,
    hashes_from,
    no_hashes,
)
from snapvault.model import ranges
from snapvault.ports.source import Changes, DiskStream, Trust

_AHEAD = 8  # pieces in work at once: a platform behind a network answers late
_LARGEST = 4 << 20  # bytes of a piece; a thin pool's chunk can be a gibibyte
# Writes that were noted as they came can have gone another way; comparing cannot miss them.
_LEAST = {Trust.COMPARED: 10, Trust.TRACKED: 30}


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a sample found: bytes read, and where the first block lies that did change."""

    read_bytes: int
    wrong_at: int | None


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample of one disk, against the signature of the parent; a percentage of its pieces.

    At least ten pieces are read (of changes that were tracked thirty), or all there are.
    """

    stream: DiskStream
    changes: Changes
    key: bytes
    block_size: int
    parent_size: int
    parent_pages: Iterator[Page]
    percent: float
    rng: random.Random = field(default_factory=random.SystemRandom)

    def run(self) -> Sampled:
        """Read the sample.

        Raises:
            SourceError: the disk could not be read.
        """
        read_bytes = 0
        expected = _Expected(self.parent_pages)
        pieces = self._pieces()
        buffers = [dense(self._piece_size()) for _ in range(_AHEAD + 1)]

        def work(item: tuple[int, ranges.Range]) -> tuple[int, int, Hashes]:
            number, (begin, end) = item
            view = buffers[number % len(buffers)][: end - begin]
            self.stream.read_into(begin, view)
            return begin, end, hashes_from(block_hashes(view, self.key, self.block_size))

        with threads(WORKERS * 2, "sample") as pool:
            found = ordered(work, enumerate(pieces), ahead=_AHEAD, pool=pool)
            for begin, end, hashes in found:
                read_bytes += end - begin
                first = begin // self.block_size
                wrong = np.flatnonzero(differ(hashes, expected.hashes(first, len(hashes))))
                if len(wrong):
                    return Sampled(read_bytes, (first + int(wrong[0])) * self.block_size)
        return Sampled(read_bytes, None)

    def _piece_size(self) -> int:
        size = min(max(self.changes.grain, self.block_size), max(_LARGEST, self.block_size))
        return size + -size % self.block_size

    def _pieces(self) -> list[ranges.Range]:
        """Choose pieces of what is claimed to be as it was, in rising order."""
        disk, block = self.stream.size, self.block_size
        # What a disk gained or lost at its end is read in any case.
        told = ranges.align(self.changes.ranges, block, disk)
        changed = ranges.from_on(told, inheritable_end(self.parent_size, disk, block), disk)
        data = ranges.align(self.stream.data_ranges(), block, disk)
        claimed = list(ranges.subtract(data, changed))
        size = self._piece_size()
        ends = [*accumulate(-(-(end - begin) // size) for begin, end in claimed)]
        total = ends[-1] if ends else 0
        wanted = max(math.ceil(total * self.percent / 100), _LEAST[self.changes.trust])
        chosen = sorted(self.rng.sample(range(total), min(wanted, total)))
        pieces = []
        ranges_of = np.searchsorted(ends, chosen, side="right").tolist() if chosen else []
        for number, index in zip(chosen, ranges_of, strict=True):
            begin, end = claimed[index]
            start = begin + (number - (ends[index - 1] if index else 0)) * size
            pieces.append((start, min(start + size, end)))
        return pieces


class _Expected:
    """The parent's hashes, asked for in rising order."""

    def __init__(self, pages: Iterator[Page]) -> None:
        self._pages = pages
        self._page = next(pages, None)
        self._region = -1
        self._hashes = no_hashes(REGION_BLOCKS)

    def hashes(self, first: int, count: int) -> Hashes:
        """Return the hashes of `count` blocks from `first` on; they may lie in two regions."""
        last = first + count
        cuts = [first, *range(first - first % REGION_BLOCKS + REGION_BLOCKS, last, REGION_BLOCKS)]
        parts = [
            self._of_region(begin // REGION_BLOCKS)[begin % REGION_BLOCKS :][: end - begin]
            for begin, end in pairwise([*cuts, last])
        ]
        return np.concatenate(parts)

    def _of_region(self, region: int) -> Hashes:
        if region != self._region:
            self._region = region
            self._hashes = no_hashes(REGION_BLOCKS)
            while self._page is not None and self._page.region < region:
                self._page = next(self._pages, None)
            if self._page is not None and self._page.region == region:
                self._page.apply(self._hashes)
        return self._hashes
