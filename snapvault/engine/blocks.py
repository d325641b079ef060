# SPDX-License-Identifier: Apache-2.0
"""The `blocks` engine: find what changed on a disk by hashing fixed blocks in place.

A disk is walked region by region (65,536 blocks), so memory holds a few hash tables of one
megabyte and a few read buffers, whatever the disk's size.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import BinaryIO, Generic, TypeVar

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from snapvault.engine.buffers import dense
from snapvault.engine.finer import Finer
from snapvault.engine.journal import PendingBlocks
from snapvault.engine.pipeline import WORKERS, ordered, threads
from snapvault.engine.rewriting import UNKNOWN, OldStream
from snapvault.engine.sharing import Shared
from snapvault.engine.sorted_volumes import SortedVolumes
from snapvault.engine.tags import Tagged, Tags
from snapvault.engine.volumes import Piece
from snapvault.formats.signatures import (
    HASH_SIZE,
    REGION_BLOCKS,
    Hashes,
    Page,
    differ,
    hashes_from,
    is_nonzero,
    no_hashes,
    page_of,
)
from snapvault.model.extents import (
    FIRST_VOLUME,
    PARENT,
    U32,
    U64,
    ZERO,
    ExtentMap,
    coalesce,
    concatenate,
    runs_of,
    without_unused,
)
from snapvault.model.ranges import Range, align, from_on, intersect, subtract, union
from snapvault.model.rewriting import Lifetime
from snapvault.ports.source import DiskStream

_Mask = NDArray[np.bool_]

_CHUNK = 4 << 20  # bytes read at once
_AHEAD = 3  # chunks in work beside the one being looked at


def block_hashes(view: memoryview, key: bytes, block_size: int) -> bytes:
    """Hash a run of whole blocks (the last may be short); 16 bytes each, and zeros for zeros."""
    raw = b"".join(
        [
            blake3(view[start : start + block_size], key=key).digest(HASH_SIZE)
            for start in range(0, len(view), block_size)
        ]
    )
    tail = len(view) % block_size
    if tail and raw.endswith(_hash_of_zeros(key, tail)):
        raw = raw[:-HASH_SIZE] + bytes(HASH_SIZE)
    of_zeros = _hash_of_zeros(key, block_size)
    if of_zeros not in raw:
        return raw
    hashes = hashes_from(bytearray(raw))
    hashes[~differ(hashes, hashes_from(of_zeros))] = no_hashes(1)
    return hashes.tobytes()


def inheritable_end(parent_size: int, size: int, block_size: int) -> int:
    """Return where the bytes end that can be as in the parent: blocks that are whole in both."""
    if parent_size == size:
        return size
    return min(parent_size, size) // block_size * block_size


@cache
def _hash_of_zeros(key: bytes, size: int) -> bytes:
    digest: bytes = blake3(bytes(size), key=key).digest(HASH_SIZE)
    return digest


@dataclass(slots=True)
class ScanResult:
    """What a scan found: the changes to the parent's map (a full map when there is no parent).

    `digest` is the stream's content digest in lower-case hex; sizes are in bytes. `lies` are blocks
    that did change outside of what was told to have changed, as far as they were read.
    """

    changes: ExtentMap
    digest: str
    read_bytes: int
    changed_bytes: int
    rewritten_bytes: int
    lies: int


@dataclass(slots=True)
class BlockScan:
    """One disk to be scanned against its parent.

    `finer`, if it is there, stores only grains of blocks that change; `tags` tell what is as in the
    parent without its hashes.
    `parent_pages` are those of the parent's full signature, `parent_size` its bytes (0: none).
    `share` finds new blocks that are stored already. `full_pages` takes the new full signature,
    `changed_pages` what differs from the parent. With `changed`, blocks outside of these ranges are
    taken to be as in the parent, unread: but for what of the `old` stream is stored again.
    """

    stream: DiskStream
    key: bytes
    block_size: int
    parent_size: int
    parent_pages: Iterator[Page]
    pending: PendingBlocks
    writer: SortedVolumes
    full_pages: BinaryIO
    changed_pages: BinaryIO
    on_stored: Callable[[Piece, int, Hashes], None]
    on_read: Callable[[int], None]
    share: Callable[[Hashes, _Mask], list[Shared]]
    changed: Sequence[Range] | None = None
    old: OldStream = UNKNOWN
    finer: Finer | None = None
    tags: Tags | None = None
    _volumes: dict[str, int] = field(default_factory=dict)
    _changed_bytes: int = 0
    _read_bytes: int = 0
    _rewritten_bytes: int = 0
    _lies: int = 0

    def run(self) -> ScanResult:
        """Read the disk once and append what is new to the writer.

        Raises:
            SourceError: the disk could not be read.
        """
        digest = blake3()
        columns: list[tuple[U64, U32, U64]] = []
        parent = _Peekable(self.parent_pages)
        kept = _Blocks(self._kept_ranges(), self.block_size)
        again = _Blocks(self._again(), self.block_size)
        untold = _Blocks(self._untold(), self.block_size)
        blocks = -(-self.stream.size // self.block_size)
        with threads(WORKERS, "scan") as pool:
            chunks = _Peekable(self._hashed_chunks(pool))
            for first in range(0, blocks, REGION_BLOCKS):
                count = min(REGION_BLOCKS, blocks - first)
                hashes = no_hashes(count)
                region = first // REGION_BLOCKS
                page = parent.take_if(_of_region(region))
                before = no_hashes(REGION_BLOCKS)
                as_before = kept.within(first, count)
                if page is not None:
                    page.apply(before)
                    hashes[as_before] = before[:count][as_before]
                old_only = again.within(first, count)
                columns.append(self._region(region, hashes, before, page, chunks, old_only))
                if self.changed is not None and self.old.again:
                    is_other = is_nonzero(hashes) & differ(hashes, before[:count])
                    self._lies += int((untold.within(first, count) & is_other).sum())
                digest.update(hashes.view(np.uint8).data)
                # Most of a large disk is holes: of a region of nothing else there is no page.
                if hashes.view(np.uint64).any() and (
                    found := page_of(region, hashes, is_nonzero(hashes))
                ):
                    self.full_pages.write(found.encode())
        changes = concatenate(columns, tuple(self._volumes))
        return ScanResult(
            changes=without_unused(changes),
            digest=digest.hexdigest(),
            read_bytes=self._read_bytes,
            changed_bytes=self._changed_bytes,
            rewritten_bytes=self._rewritten_bytes,
            lies=self._lies,
        )

    def _region(
        self,
        region: int,
        hashes: Hashes,
        before: Hashes,
        page: Page | None,
        chunks: "_Peekable[_Chunk]",
        again: _Mask,
    ) -> tuple[U64, U32, U64]:
        first, count = region * REGION_BLOCKS, len(hashes)
        inherited = self._inheritable(first, count)
        head = chunks.peek()
        if page is None and (head is None or head.block >= first + count):
            return self._hole(first, count, all_inherited=bool(inherited.all()))
        place = np.zeros(count, dtype=np.uint32)
        offset = np.zeros(count, dtype=np.uint64)
        while chunk := chunks.take_if(lambda chunk: chunk.block < first + count):
            at = chunk.block - first
            here = slice(at, at + len(chunk.hashes))
            if self.tags is not None and chunk.tagged is not None:
                chunk.hashes[chunk.unchanged] = before[here][chunk.unchanged]
                self.tags.take(chunk.tagged)
            hashes[here] = chunk.hashes
            new = is_nonzero(chunk.hashes) & (differ(chunk.hashes, before[here]) | ~inherited[here])
            same = again[here] & is_nonzero(chunk.hashes) & ~new
            # SAFETY: nothing of what is stored again stays where the parent has it.
            were = _Before(before[here], inherited[here] & ~again[here])
            self._store(chunk, new, same, were, place, offset)
        same = inherited & ~differ(hashes, before[:count]) & (place == ZERO)
        place[same] = PARENT
        starts = (np.arange(count, dtype=np.uint64) + first) * np.uint64(self.block_size)
        offset[same] = starts[same]
        # What the parent had beyond this disk's end is gone with it: compose drops it too.
        is_other = differ(hashes, before[:count])
        if self.tags is not None:
            self.tags.end_region(region, ~is_other)
        changed = page_of(region, hashes, is_other)
        if changed is not None:
            self.changed_pages.write(changed.encode())
        length = np.full(count, self.block_size, dtype=np.uint64)
        length[-1] = min(self.block_size, self.stream.size - int(starts[-1]))
        columns = length, place, offset
        if self.finer is not None:
            columns = self.finer.end_region(first, columns, self._number)
        return coalesce(*columns)

    def _hole(self, first: int, count: int, *, all_inherited: bool) -> tuple[U64, U32, U64]:
        """Return the extent of a region that is, and was, nothing but zeros."""
        start = first * self.block_size
        length = min(count * self.block_size, self.stream.size - start)
        return (
            np.array([length], dtype=np.uint64),
            np.array([PARENT if all_inherited else ZERO], dtype=np.uint32),
            np.array([start if all_inherited else 0], dtype=np.uint64),
        )

    def _inheritable(self, first: int, count: int) -> _Mask:
        """Tell which blocks cover the very same bytes in the parent."""
        return np.arange(first, first + count) * self.block_size < self._inheritable_end()

    def _inheritable_end(self) -> int:
        return inheritable_end(self.parent_size, self.stream.size, self.block_size)

    def _store(
        self,
        chunk: "_Chunk",
        new: _Mask,
        again: _Mask,
        before: "_Before",
        place: U32,
        offset: U64,
    ) -> None:
        """Store blocks of a chunk that are new, and others again; the columns are a region's."""
        self._changed_bytes += int(new.sum()) * self.block_size
        self._rewritten_bytes += int(again.sum()) * self.block_size
        wanted = new | again
        learns_all = self.finer is not None and self.finer.grains.is_new
        if not wanted.any() and not learns_all:
            return
        here = slice(chunk.block % REGION_BLOCKS, chunk.block % REGION_BLOCKS + len(wanted))
        place, offset = place[here], offset[here]
        pending = self.pending.find(chunk.block, chunk.hashes, wanted)
        for index, volume, position in pending:
            place[index] = self._number(volume)
            offset[index] = position
            wanted[index] = False
        for shared in self.share(chunk.hashes, wanted & ~again):
            place[shared.index] = self._number(shared.volume)
            offset[shared.index] = shared.offset
            wanted[shared.index] = False
        lifetimes = self.old.lifetimes(chunk.block * self.block_size, len(wanted))
        lifetimes[again] = self.old.proven
        if self.finer is not None:
            taken, saved = self.finer.take(
                chunk.block,
                chunk.data,
                chunk.hashes,
                before.hashes,
                new,
                wanted & before.divisible,
                lifetimes,
            )
            self._changed_bytes -= saved
            wanted &= ~taken
        for begin, end in _runs(wanted, lifetimes):
            at = begin

            def on_piece(piece: Piece) -> None:
                nonlocal at
                blocks = -(-piece.length // self.block_size)
                place[at : at + blocks] = self._number(piece.volume)
                offset[at : at + blocks] = piece.offset + np.arange(
                    0, blocks * self.block_size, self.block_size, dtype=np.uint64
                )
                self.on_stored(piece, chunk.block + at, chunk.hashes[at : at + blocks])
                at += blocks

            data = chunk.data[begin * self.block_size : end * self.block_size]
            lifetime = Lifetime(int(lifetimes[begin]))
            self.writer.append(data, unit=self.block_size, on_piece=on_piece, lifetime=lifetime)

    def _number(self, volume: str) -> int:
        return FIRST_VOLUME + self._volumes.setdefault(volume, len(self._volumes))

    def _hashed_chunks(self, pool: Executor) -> Iterator["_Chunk"]:
        size = max(_CHUNK, self.block_size)
        buffers = [dense(size) for _ in range(_AHEAD + 1)]

        def work(item: tuple[int, int, int, Tagged | None]) -> _Chunk:
            number, begin, end, tagged = item
            view = buffers[number % len(buffers)][: end - begin]
            self.stream.read_into(begin, view)
            return self._hashed(begin, view, tagged)

        ranges = (
            (number, begin, end, self.tags.before(begin, end) if self.tags else None)
            for number, (begin, end) in enumerate(self._chunk_ranges(size))
        )
        for chunk in ordered(work, ranges, ahead=_AHEAD, pool=pool):
            yield chunk
            self._read_bytes += len(chunk.data)
            self.on_read(len(chunk.data))

    def _hashed(self, begin: int, view: memoryview, before: Tagged | None) -> "_Chunk":
        """Hash what was read; but for what the tags, if there are any, tell to be unchanged."""
        block, size = begin // self.block_size, self.block_size
        if self.tags is None or before is None:
            return _Chunk(block, view, hashes_from(block_hashes(view, self.key, size)))
        tagged = self.tags.of(begin, view)
        hashes = no_hashes(-(-len(view) // size))
        unchanged = self.tags.unchanged(tagged, before, begin, len(hashes))
        begins, ends = runs_of(~unchanged)
        for first, stop in zip(begins.tolist(), ends.tolist(), strict=True):
            part = view[first * size : stop * size]
            hashes[first:stop] = hashes_from(block_hashes(part, self.key, size))
        return _Chunk(block, view, hashes, unchanged, tagged)

    def _chunk_ranges(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield the block-aligned ranges to read, in order, cut at multiples of `size`."""
        wanted = self._data_ranges()
        if self.changed is not None:
            wanted = intersect(wanted, self._changed_ranges(self.changed))
        for begin, end in wanted:
            at = begin
            while at < end:
                stop = min(end, at - at % size + size)
                yield at, stop
                at = stop

    def _data_ranges(self) -> Iterator[Range]:
        return align(self.stream.data_ranges(), self.block_size, self.stream.size)

    def _changed_ranges(self, changed: Sequence[Range]) -> Iterator[Range]:
        """Yield what is to be read: what changed, and what the parent cannot stand in for."""
        aligned = align(changed, self.block_size, self.stream.size)
        if self._inheritable_end() == self.stream.size:
            return union(aligned, self._again())
        return from_on(union(aligned, self._again()), self._inheritable_end(), self.stream.size)

    def _again(self) -> Iterator[Range]:
        """Yield what is stored again where it is as in the parent."""
        again = align(self.old.again, self.block_size, self.parent_size)
        return intersect(again, [(0, self._inheritable_end())])

    def _untold(self) -> Iterator[Range]:
        """Yield what is read although it is told not to have changed."""
        if self.changed is None:
            return iter(())
        told = align(self.changed, self.block_size, self.stream.size)
        return subtract(self._again(), told)

    def _kept_ranges(self) -> Iterator[Range]:
        """Yield the data that is not read, because it is as in the parent."""
        if self.changed is None:
            return iter(())
        return subtract(self._data_ranges(), self._changed_ranges(self.changed))


def _runs(wanted: _Mask, lifetimes: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Yield the runs of wanted blocks that have one lifetime."""
    kinds = np.where(wanted, lifetimes.astype(np.int16) + 1, 0)
    edges = np.flatnonzero(np.diff(kinds, prepend=0, append=0)).tolist()
    for begin, end in pairwise(edges):
        if wanted[begin]:
            yield begin, end


def _of_region(region: int) -> Callable[[Page], bool]:
    return lambda page: page.region == region


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some blocks as read, with their hashes; `block` is the number of the first.

    Where there are tags, blocks that they tell to be `unchanged` get their hashes later.
    """

    block: int
    data: memoryview
    hashes: Hashes
    unchanged: _Mask | None = None
    tagged: Tagged | None = None


@dataclass(frozen=True, slots=True)
class _Before:
    """What the blocks of a chunk were; of those that are `divisible` parts may stay there."""

    hashes: Hashes
    divisible: _Mask


class _Blocks:
    """Block-aligned ranges as blocks, asked for in rising order."""

    def __init__(self, aligned: Iterator[Range], block_size: int) -> None:
        self._ranges = ((begin // block_size, -(-end // block_size)) for begin, end in aligned)
        self._next = next(self._ranges, None)

    def within(self, first: int, count: int) -> _Mask:
        """Tell which of `count` blocks from `first` on the ranges hold."""
        found = np.zeros(count, dtype=bool)
        while self._next is not None and self._next[0] < first + count:
            begin, end = self._next
            found[max(begin - first, 0) : end - first] = True
            if end > first + count:
                break
            self._next = next(self._ranges, None)
        return found


_Item = TypeVar("_Item")


class _Peekable(Generic[_Item]):
    """An iterator whose next item can be left for later; none is fetched before it is asked for."""

    def __init__(self, items: Iterator[_Item]) -> None:
        self._items = items
        self._next: _Item | None = None

    def peek(self) -> _Item | None:
        """Return the next item, and leave it there; None at the end."""
        if self._next is None:
            self._next = next(self._items, None)
        return self._next

    def take_if(self, wanted: Callable[[_Item], bool]) -> _Item | None:
        """Return the next item if there is one and it is wanted."""
        item = self.peek()
        if item is None or not wanted(item):
            return None
        self._next = None
        return item
