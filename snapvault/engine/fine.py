# SPDX-License-Identifier: Apache-2.0
"""A finer grain for streams of bytes: hashes of every 128 bytes, kept on the host alone.

Where librsync finds that some blocks of the old stream were replaced by other bytes, these hashes
find which of those bytes are old ones. They are a cache: without them a night costs more bytes.
Nobody else sees them, and each file has a key of its own, so nobody can prepare collisions.

A hash is a weak sum that rolls, and two sums modulo a prime with random weights: two different
grains have the same two sums with a chance of 2^-62, whatever they hold (Carter and Wegman's
universal hashing). All sums are of 16-bit words and stay below 2^53, so that doubles hold them
exactly and the linear algebra library does the work.
"""

import hashlib
import mmap
import secrets
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from snapvault.model.extents import U64

GRAIN: Final = 128
"""Bytes of a hash."""

HASH_BYTES: Final = 12
"""What a grain takes in the file."""

_MAGIC: Final = b"SVFINE2\n"
_SEED: Final = 16
_HEADER: Final = struct.Struct(f"<8sI4x{_SEED}s")
_WORDS: Final = GRAIN // 2
_SHORTEST: Final = 2 * GRAIN  # bytes that are worth looking at
_PRIME: Final = 2**31 - 1
_CHUNK: Final = 512  # grains hashed at once: what fits in a core's own cache as doubles
_STROKE: Final = 1 << 13  # grains: a mebibyte, in which blocks of any length fit
_HELD: Final = 1 << 13  # windows copied, and rows of numbers, at once
_TABLE_BITS: Final = 20

_Hashes: TypeAlias = NDArray[np.uint32]  # rows of: weak sum, two strong sums
I64: TypeAlias = NDArray[np.int64]


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


class _Sums:
    """Computes hashes with the weights that a seed gives."""

    def __init__(self, seed: bytes) -> None:
        raw = np.frombuffer(hashlib.shake_256(seed).digest(8 * 2 * _WORDS), dtype="<u8")
        strong = (raw % np.uint64(_PRIME)).astype(np.float64).reshape(_WORDS, 2)
        falling = np.arange(_WORDS, 0, -1, dtype=np.float64)
        self._weights = np.column_stack([np.ones(_WORDS), falling, strong])
        self._strong_weights = np.ascontiguousarray(self._weights[:, 2:])
        # Used over and over again: fresh memory for each chunk would cost page faults.
        self._doubles = np.empty((_CHUNK, _WORDS))
        self._products = np.empty((_CHUNK, 4))
        self._strong_products = np.empty((_CHUNK, 2))

    def of(self, words: NDArray[np.uint16]) -> _Hashes:
        """Hash grains, one a row."""
        hashes = np.empty((len(words), 3), dtype=np.uint32)
        for begin in range(0, len(words), _CHUNK):
            part = words[begin : begin + _CHUNK]
            doubles, sums = self._doubles[: len(part)], self._products[: len(part)]
            doubles[:] = part
            np.matmul(doubles, self._weights, out=sums)
            plain = sums[:, :2].astype(np.uint64)
            hashes[begin : begin + _CHUNK, 0] = _weak(plain[:, 0], plain[:, 1])
            hashes[begin : begin + _CHUNK, 1:] = _remainder(sums[:, 2:])
        return hashes

    def strong_of(self, words: NDArray[np.uint16]) -> NDArray[np.uint32]:
        """Return the two strong sums of grains, one grain a row."""
        hashes = np.empty((len(words), 2), dtype=np.uint32)
        for begin in range(0, len(words), _CHUNK):
            part = words[begin : begin + _CHUNK]
            doubles, sums = self._doubles[: len(part)], self._strong_products[: len(part)]
            doubles[:] = part
            np.matmul(doubles, self._strong_weights, out=sums)
            hashes[begin : begin + _CHUNK] = _remainder(sums)
        return hashes


def _remainder(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sums modulo the prime. All of it is exact: the quotient is off by one at most."""
    left: NDArray[np.float64] = sums - np.floor(sums * (1 / _PRIME)) * _PRIME
    left += (left < 0) * float(_PRIME)
    left -= (left >= _PRIME) * float(_PRIME)
    return left


def _weak(plain: U64, falling: U64) -> NDArray[np.uint32]:
    return ((falling << np.uint64(11)) + plain).astype(np.uint32)


class FineWriter:
    """Writes the hashes of a stream that comes piece by piece.

    What would make the file longer than `most` bytes goes without.
    """

    def __init__(self, file: BinaryIO, most: int) -> None:
        seed = secrets.token_bytes(_SEED)
        self._sums = _Sums(seed)
        self._file = file
        left = max(0, most - _HEADER.size) // HASH_BYTES
        # What follows is found by blocks: they should begin where these end.
        self._left = left - left % _STROKE if left > _STROKE else left
        self._rest = b""
        file.write(_HEADER.pack(_MAGIC, GRAIN, seed))

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if not self._left:
            return
        if self._rest:
            data = self._rest + data
        whole = min(len(data) // GRAIN, self._left) * GRAIN
        self._left -= whole // GRAIN
        self._rest = data[whole:]
        if whole:
            words = np.frombuffer(data, dtype="<u2", count=whole // 2).reshape(-1, _WORDS)
            self._file.write(self._sums.of(words).tobytes())

    def finish(self) -> None:
        """Take the end of the stream: what is left, filled with zeros, has the last hash."""
        if self._rest and self._left:
            words = np.frombuffer(self._rest.ljust(GRAIN, b"\0"), dtype="<u2").reshape(1, _WORDS)
            self._file.write(self._sums.of(words).tobytes())


def is_complete(path: Path, old_size: int) -> bool:
    """Tell whether a file has the hashes of all of a stream of so many bytes."""
    try:
        return path.stat().st_size == _HEADER.size + -(-old_size // GRAIN) * HASH_BYTES
    except OSError:
        return False


class FineHashes:
    """The hashes of an old stream, in a file as `FineWriter` writes it."""

    def __init__(self, path: Path, old_size: int) -> None:
        """Open the file; it is mapped, not read. The old stream has `old_size` bytes.

        Raises:
            ValueError: it is not such a file.
            OSError: it could not be read.
        """
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
            if len(header) != _HEADER.size:
                raise ValueError("too short for fine hashes")
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        magic, grain, seed = _HEADER.unpack(header)
        size = len(mapped) - _HEADER.size
        if magic != _MAGIC or grain != GRAIN or size % HASH_BYTES:
            raise ValueError("not a file of fine hashes")
        self._sums = _Sums(seed)
        self._mapped = mapped
        self._table: _Hashes = np.zeros((0, 3), dtype=np.uint32)
        if size:
            count = size // HASH_BYTES * 3
            self._table = np.frombuffer(mapped, "<u4", count, _HEADER.size).reshape(-1, 3)
        grains, self._last_size = divmod(old_size, GRAIN)
        if len(self._table) > -(-old_size // GRAIN):
            raise ValueError("fine hashes of a longer stream")
        self.is_complete = len(self._table) == -(-old_size // GRAIN)
        # The hash of what is no whole grain at the end, if there is such and it has a hash.
        self._last = self._table[grains:]
        self._table = self._table[:grains]

    @property
    def grains(self) -> int:
        """The number of grains of the old stream that have hashes, from its start."""
        return len(self._table)

    def let_go(self) -> None:
        """Give back the memory of what was looked at; it stays in the system's file cache."""
        self._mapped.madvise(mmap.MADV_DONTNEED)

    def ends_with(self, data: memoryview) -> bool:
        """Tell whether `data` is what the old stream has after its last whole grain."""
        if len(data) != self._last_size or not len(self._last):
            return False
        words = np.frombuffer(bytes(data).ljust(GRAIN, b"\0"), dtype="<u2").reshape(1, _WORDS)
        return bool((self._sums.of(words) == self._last).all())

    def are_old(self, data: bytes, position: I64, grain: I64) -> NDArray[np.bool_]:
        """Tell which grains' worths of `data`, from some positions on, are those old grains."""
        if not len(position):
            return np.zeros(0, dtype=bool)
        equal: NDArray[np.bool_] = np.ones(len(position), dtype=bool)
        strong = self._sums.strong_of(_windows(data, position))
        old = self._table[grain]
        for column in (0, 1):
            equal &= strong[:, column] == old[:, column + 1]
        return equal

    def find(self, data: bytes, gaps: Sequence[Gap]) -> list[list[Run]]:
        """Find old bytes in literals: for each gap its runs, in order and disjoint.

        `data` holds the literals of all gaps one after the other. Most changes leave all before
        and all after them where it was; what they leave in between is looked for everywhere.
        """
        if not gaps or not len(self._table):
            return [[] for _ in gaps]
        start, stop, begin, end = (
            np.array(column, dtype=np.int64)
            for column in zip(
                *((gap.start, gap.stop, gap.begin, gap.end) for gap in gaps), strict=True
            )
        )
        first, last = -(-begin // GRAIN), np.minimum(end // GRAIN, len(self._table))
        room = np.minimum((stop - start) // GRAIN, last - first)
        head = self._as_before(data, start, first, np.where(begin % GRAIN, 0, room), 1)
        room = np.where((end % GRAIN != 0) | (last * GRAIN != end), 0, room - head)
        tail = self._as_before(data, stop - GRAIN, last - 1, room, -1)
        start, stop = start + head * GRAIN, stop - tail * GRAIN
        first, last = first + head, last - tail
        found = [
            [Run(gap.start, at, gap.begin)] if at > gap.start else []
            for gap, at in zip(gaps, start.tolist(), strict=True)
        ]
        self._look_around(data, start, stop, first, last, found)
        for runs, gap, at, grain in zip(found, gaps, stop.tolist(), last.tolist(), strict=True):
            if at < gap.stop:
                _append(runs, Run(at, gap.stop, grain * GRAIN))
        return found

    def _as_before(self, data: bytes, position: I64, grain: I64, room: I64, way: int) -> I64:
        """Count, for each gap, the grains from a position on, that way, that are as they were."""
        counts = np.maximum(room, 0)
        if not counts.any():
            return counts
        number, step = counted(counts)
        at = position[number] + way * GRAIN * step
        old = self._table[grain[number] + way * step]
        equal = (self._sums.of(_windows(data, at)) == old).all(axis=1)
        begins = np.cumsum(counts) - counts
        # The first that differs, or else the end, of each gap's grains.
        differing = np.concatenate((np.flatnonzero(~equal), [len(equal)]))
        ends = differing[np.searchsorted(differing, begins)]
        alike: I64 = np.minimum(ends - begins, counts)
        return alike

    def _look_around(
        self, data: bytes, start: I64, stop: I64, first: I64, last: I64, found: list[list[Run]]
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
        old = self._table[grains]
        keys = (number.astype(np.uint64) << np.uint64(32)) | old[:, 0]
        order = np.argsort(keys, kind="stable")
        keys, grains, old = keys[order], grains[order], old[order]
        position, key = _matching(some, edges.astype(np.uint64), keys)
        if not len(position):
            return
        # Where bytes repeat themselves each place is a match: not all windows are held at once.
        slices = (position[at : at + _HELD] for at in range(0, len(position), _HELD))
        new = np.concatenate([self._sums.of(_windows(some, each)) for each in slices])
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
        if len(words) < _WORDS:
            continue
        weak = _rolling(words)
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


def _rolling(words: U64) -> NDArray[np.uint32]:
    """Return the weak sums of the windows that begin at each word."""
    index = np.arange(len(words), dtype=np.uint64)
    plain_to = np.concatenate((np.zeros(1, np.uint64), np.cumsum(words, dtype=np.uint64)))
    rising_to = np.concatenate((np.zeros(1, np.uint64), np.cumsum(words * index, dtype=np.uint64)))
    plain = plain_to[_WORDS:] - plain_to[:-_WORDS]
    rising = rising_to[_WORDS:] - rising_to[:-_WORDS]
    falling = (index[: len(plain)] + np.uint64(_WORDS)) * plain - rising
    return _weak(plain, falling)


def _windows(data: bytes, position: U64 | I64) -> NDArray[np.uint16]:
    """Return the grains' worth of bytes at some positions, one a row."""
    # One opaque element for each window: numpy gathers those by copying memory.
    whole: NDArray[np.void] = np.ndarray((len(data) - GRAIN + 1,), f"V{GRAIN}", data, strides=(1,))
    rows: NDArray[np.uint16] = whole[position].view("<u2").reshape(-1, _WORDS)
    return rows


def _are_likely(key: U64, new: _Hashes, keys: U64, old: _Hashes) -> NDArray[np.bool_]:
    """Tell which windows have the strong sums of an old grain of their gap, most likely.

    Whoever writes the streams can have any number of grains with one weak sum, and each window
    would be held against all of them. Strong sums nobody can choose.
    """
    return np.isin(_mixed(key, new), _mixed(keys, old))


def _mixed(key: U64, hashes: _Hashes) -> U64:
    strong = hashes[:, 1].astype(np.uint64) | (hashes[:, 2].astype(np.uint64) << np.uint64(31))
    mixed: U64 = strong + key * np.uint64(0x9E3779B97F4A7C15)
    return mixed


def _proven(
    position: U64, key: U64, new: _Hashes, keys: U64, grains: I64, old: _Hashes
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
