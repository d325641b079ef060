# SPDX-License-Identifier: Apache-2.0
"""Holding a disk that is there already against what it shall be, by the hashes of a signature."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from snapvault.engine.blocks import block_hashes
from snapvault.engine.buffers import dense, sparse
from snapvault.engine.pipeline import WORKERS, ordered, threads
from snapvault.formats.signatures import (
    HASH_SIZE,
    REGION_BLOCKS,
    Hashes,
    Page,
    differ,
    hashes_from,
    is_nonzero,
    no_hashes,
)
from snapvault.model import extents
from snapvault.model.extents import PARENT, U32, U64, ZERO, ExtentMap
from snapvault.model.point import StreamRecord
from snapvault.model.ranges import Range, align
from snapvault.ports.events import Progress
from snapvault.ports.target import Target

_CHUNK = 4 << 20  # bytes read at once
_AHEAD = WORKERS + 1  # chunks in work


class PresentTarget(Target, Protocol):
    """A target that is there already, and is changed where it lies.

    Nothing of it changes before `begin`. `commit` says that it is whole; without it, after
    `begin`, it says of itself that it is not.
    """

    @property
    def present_bytes(self) -> int:
        """How many bytes it has; of a device, as many as the stream."""
        ...

    def data_ranges(self) -> Iterator[Range]:
        """Yield the ranges that may be other than zeros, sorted and disjoint.

        None reaches past the stream's end.
        """
        ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Read to fill the whole buffer, from before `begin` on; zeros beyond the end."""
        ...

    def begin(self, growth: int) -> None:
        """Let it be changed, and give it the stream's size; it takes at most `growth` more bytes.

        Raises:
            RestoreError: there is no room; nothing has changed then.
        """
        ...


@dataclass(frozen=True, slots=True)
class StreamResult:
    """What was found of one stream and done about it, in bytes.

    `compared` is the stream's size; what is no hole of it was `read`. Of what is `different`,
    `written` was fetched, and the rest made zeros. `resized` tells whether the length was wrong.
    """

    compared: int
    read: int
    different: int
    written: int
    resized: bool


@dataclass(slots=True)
class Difference:
    """Where a target is not what its stream shall be, in bytes of the stream.

    `selection` is a map of changes: what is to be fetched stands in the "parent", which is the
    point itself; everything else is left out as zeros. `zeros` are ranges to be made zeros.
    `growth` is how much lies in holes of the target and shall be data.
    """

    selection: ExtentMap
    zeros: tuple[Range, ...]
    growth: int
    result: StreamResult
    _wanted: memoryview
    _key: bytes
    _block_size: int

    def fits(self, offset: int, piece: memoryview) -> bool:
        """Tell whether whole blocks, of those to be fetched, are what the signature says."""
        hashes = block_hashes(piece, self._key, self._block_size)
        at = offset // self._block_size * HASH_SIZE
        return self._wanted[at : at + len(hashes)] == hashes


class Comparison:
    """Holds one target against a full signature, region by region; used once.

    Memory holds 16 bytes for each block that has to be fetched, and a few read buffers.
    """

    def __init__(
        self, stream: StreamRecord, key: bytes, target: PresentTarget, progress: Progress
    ) -> None:
        self._stream = stream
        self._key = key
        self._target = target
        self._progress = progress
        self._block_size = stream.block_size
        # A power of two of blocks, so that no chunk lies in two regions.
        in_chunk = min(REGION_BLOCKS, max(1, _CHUNK // stream.block_size))
        self._chunk = (1 << (in_chunk.bit_length() - 1)) * stream.block_size
        self._buffers = [dense(self._chunk) for _ in range(_AHEAD)]
        self._blocks = -(-stream.size // stream.block_size)
        # Where little differs most of this table is never written, and takes no memory.
        self._wanted = sparse(self._blocks * HASH_SIZE)
        self._columns: list[tuple[U64, U32, U64]] = []
        self._zeros: list[Range] = []
        self._data_bytes = self._zero_bytes = self._growth = self._read = 0

    def run(self, wanted_pages: Iterator[Page]) -> tuple[Difference, str]:
        """Read the target once; return what differs, and the signature's own content digest."""
        digest = blake3()
        page = next(wanted_pages, None)
        chunks = groupby(self._chunk_ranges(), lambda each: each[0] // self._region_bytes)
        chunk = next(chunks, None)
        with threads(WORKERS, "compare") as pool:
            for first in range(0, self._blocks, REGION_BLOCKS):
                region = first // REGION_BLOCKS
                count = min(REGION_BLOCKS, self._blocks - first)
                wanted, there = no_hashes(REGION_BLOCKS), no_hashes(count)
                if page is not None and page.region == region:
                    page.apply(wanted)
                    page = next(wanted_pages, None)
                wanted = wanted[:count]
                digest.update(wanted.tobytes())
                is_hole = np.ones(count, dtype=bool)
                if chunk is not None and chunk[0] == region:
                    work = ordered(self._hash, enumerate(chunk[1]), ahead=_AHEAD, pool=pool)
                    for block, hashes in work:
                        here = slice(block - first, block - first + len(hashes))
                        there[here] = hashes
                        is_hole[here] = False
                    chunk = next(chunks, None)
                self._note(first, wanted, there, is_hole)
        return self._difference(), digest.hexdigest()

    @property
    def _region_bytes(self) -> int:
        return REGION_BLOCKS * self._block_size

    def _chunk_ranges(self) -> Iterator[Range]:
        """Yield the block-aligned ranges to read, in order."""
        ranges = self._target.data_ranges()
        for begin, end in align(ranges, self._block_size, self._stream.size):
            at = begin
            while at < end:
                stop = min(end, at - at % self._chunk + self._chunk)
                self._read += stop - at
                yield at, stop
                at = stop

    def _hash(self, item: tuple[int, Range]) -> tuple[int, Hashes]:
        number, (begin, end) = item
        view = self._buffers[number % _AHEAD][: end - begin]
        self._target.read_into(begin, view)
        hashes = hashes_from(block_hashes(view, self._key, self._block_size))
        self._progress.advance(end - begin)
        return begin // self._block_size, hashes

    def _note(self, first: int, wanted: Hashes, there: Hashes, is_hole: NDArray[np.bool_]) -> None:
        """Note what differs among the blocks from `first` on."""
        start = (np.arange(len(wanted), dtype=np.uint64) + first) * np.uint64(self._block_size)
        length = np.full(len(wanted), self._block_size, dtype=np.uint64)
        length[-1] = min(self._block_size, self._stream.size - int(start[-1]))
        unlike = differ(wanted, there)
        data = unlike & is_nonzero(wanted)
        zeros = unlike & ~data
        place = np.where(data, PARENT, ZERO).astype(np.uint32)
        self._columns.append(extents.coalesce(length, place, np.where(data, start, np.uint64(0))))
        self._zeros += _runs(zeros, start, length)
        table = np.frombuffer(self._wanted, dtype=wanted.dtype)[first : first + len(wanted)]
        table[data] = wanted[data]
        self._data_bytes += int(length[data].sum())
        self._zero_bytes += int(length[zeros].sum())
        self._growth += int(length[data & is_hole].sum())

    def _difference(self) -> Difference:
        return Difference(
            selection=extents.concatenate(self._columns, ()),
            zeros=tuple(align(self._zeros, 1, self._stream.size)),  # merged where they meet
            growth=max(0, self._growth - self._zero_bytes),
            result=StreamResult(
                compared=self._stream.size,
                read=self._read,
                different=self._data_bytes + self._zero_bytes,
                written=self._data_bytes,
                resized=self._target.present_bytes != self._stream.size,
            ),
            _wanted=self._wanted,
            _key=self._key,
            _block_size=self._block_size,
        )


def _runs(wanted: NDArray[np.bool_], start: U64, length: U64) -> list[Range]:
    """Return the ranges of the blocks that are wanted."""
    begins, ends = extents.runs_of(wanted)
    last = ends - 1
    return list(zip(start[begins].tolist(), (start[last] + length[last]).tolist(), strict=True))
