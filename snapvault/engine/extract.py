# SPDX-License-Identifier: Apache-2.0
"""Bringing extents back: each volume is fetched once, and each byte goes where it belongs.

The plan is columns of numbers, sorted by volume; a volume is decrypted and decompressed as it
streams by, and holds a window of four megabytes in memory.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import zstandard
from numpy.typing import NDArray

from snapvault.engine import buffers, fetch
from snapvault.engine.pipeline import WORKERS, ordered, threads
from snapvault.errors import IntegrityError, SignatureError, VolumeError
from snapvault.formats.volume import FRAME_SIZE
from snapvault.formats.volume_list import VolumeRecord
from snapvault.formats.zstd_frame import Frames, raw_size, unpack_into
from snapvault.model.extents import FIRST_VOLUME, U32, U64, ExtentMap
from snapvault.ports.sealer import Sealer
from snapvault.ports.store import StoreReader

I64 = NDArray[np.int64]
Pieces = Sequence[tuple[int, int]]
"""Where bytes belong in their stream: (offset, length) of pieces that lie in a row in memory."""

Deliver = Callable[[int, Pieces, memoryview], None]
"""Takes a stream's number, pieces of it, and their bytes.

The bytes start at a page of memory if the first piece does in its volume, and are good until it
returns. Called from several threads.
"""


@runtime_checkable
class TakesRows(Protocol):
    """Takes pieces by their numbers in the plan's columns: much the cheaper, where they are many.

    Called from several threads.
    """

    def take(self, number: int, pieces: Pieces, data: memoryview) -> None:
        """Take pieces of a volume that it does not want by numbers, as a `Deliver` does."""

    def wants(self, rows: slice) -> bool:
        """Tell whether it takes these pieces, all those of a volume."""

    def take_rows(self, rows: slice, window: memoryview, base: int) -> None:
        """Take pieces; `window` has their volume's raw bytes from `base` on until it returns."""


PIECE = 1 << 20
"""Bytes delivered at once, unless a block is larger."""

_WINDOW = 3 << 20  # bytes of a volume, unpacked, beside the longest piece
_PAGE = 4096  # bytes
VOLUMES_AT_ONCE = max(4, WORKERS)


class Piece(NamedTuple):
    """Bytes [begin, end) of a volume's raw bytes, and where they belong."""

    begin: int
    end: int
    stream: int
    offset: int

    lowest: int
    """Where the first of this and all later pieces begins: what is before it is done with."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to fetch, in pieces of a mebibyte or less, and where they belong.

    Volumes are in the order of their first use by the streams. Pieces are columns, sorted by
    volume and then by where they end in its raw bytes: the order in which they can be had. `raw`
    is where a piece begins there, `offset` where it belongs in its stream.
    `bounds[n]:bounds[n + 1]` are the pieces of `volumes[n]`. They begin and end at multiples of
    the stream's unit, or where an extent does; one that is not whole units lies within one.
    """

    volumes: tuple[VolumeRecord, ...]
    bounds: I64
    raw: U64
    length: U32
    stream: U32
    offset: U64

    @property
    def data_bytes(self) -> int:
        """Bytes to be written that are not zeros."""
        return int(self.length.sum())

    def rows(self, index: int) -> slice:
        """Return where the pieces of a volume are in the columns."""
        return slice(int(self.bounds[index]), int(self.bounds[index + 1]))

    def pieces(self, index: int) -> Iterator[Piece]:
        """Yield the pieces of a volume."""
        rows = self.rows(index)
        raw = self.raw[rows]
        return map(
            Piece,
            raw.tolist(),
            (raw + self.length[rows]).tolist(),
            self.stream[rows].tolist(),
            self.offset[rows].tolist(),
            _lowest(raw).tolist(),
        )


def _lowest(raw: U64) -> U64:
    """Return, for each piece, where the first of it and all later ones begins."""
    return np.minimum.accumulate(raw[::-1])[::-1]


_Columns = tuple[U64, U32, U32, U64]  # raw, length, stream and offset of pieces


def plan(
    maps: Sequence[ExtentMap], records: Mapping[str, VolumeRecord], units: Sequence[int]
) -> Plan:
    """Cut the extents of some streams into pieces and sort them by where they are fetched from.

    `units` are, for each stream, the bytes that belong together. While they are sorted, volume by
    volume, extents and pieces take some 20 bytes each beside the plan.

    Raises:
        SignatureError: a map uses a volume that nothing vouches for.
    """
    uses: dict[str, list[tuple[_Stream, I64]]] = {}
    for number, (extents, unit) in enumerate(zip(maps, units, strict=True)):
        stream = _Stream(number, extents, unit)
        for volume, rows in _by_volume(extents):
            uses.setdefault(volume, []).append((stream, rows))
    bounds = [0]
    columns: list[list[Any]] = [
        [np.empty(0, dtype=kind)] for kind in (np.uint64, np.uint32, np.uint32, np.uint64)
    ]
    for parts_of_it in uses.values():
        pieces = _sorted([stream.pieces(rows) for stream, rows in parts_of_it])
        bounds.append(bounds[-1] + len(pieces[0]))
        for parts, column in zip(columns, pieces, strict=True):
            parts.append(column)
    volumes = tuple(_vouched(volume, records) for volume in uses)
    return Plan(volumes, np.array(bounds), *map(_joined, columns))


def _sorted(parts: Sequence[_Columns]) -> _Columns:
    """Return the pieces of a volume in the order in which they can be had."""
    raw, length, stream, offset = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((offset, stream, raw, raw + length))
    return raw[order], length[order], stream[order], offset[order]


def _joined(parts: list[Any]) -> Any:
    """Return a column whole, and let its parts go."""
    column = np.concatenate(parts)
    parts.clear()
    return column


def _by_volume(extents: ExtentMap) -> Iterator[tuple[str, I64]]:
    """Yield the volumes that a map uses, in the order of their first use, each with its extents."""
    order = np.argsort(extents.place, kind="stable")
    places = np.arange(FIRST_VOLUME, FIRST_VOLUME + len(extents.volumes) + 1)
    bounds = np.searchsorted(extents.place, places, sorter=order).tolist()
    uses = (
        (volume, order[begin:end])
        for volume, begin, end in zip(extents.volumes, bounds[:-1], bounds[1:], strict=True)
        if end > begin
    )
    yield from sorted(uses, key=lambda use: int(use[1][0]))


class _Stream:
    """A stream whose extents are cut into pieces; `unit` bytes of it belong together."""

    def __init__(self, number: int, extents: ExtentMap, unit: int) -> None:
        self._extents = extents
        self._number = number
        self._unit = unit
        self._starts = extents.starts()
        self._size = extents.size

    def pieces(self, rows: I64) -> _Columns:
        """Return the columns of what some extents are cut into."""
        raw, length, start = (
            self._extents.offset[rows],
            self._extents.length[rows],
            self._starts[rows],
        )
        if self._unit > 1:
            which, shift, length = _cut_at_units(start, length, self._unit, self._size)
            raw, start = raw[which] + shift, start[which] + shift
        step = np.uint64(max(self._unit, PIECE - PIECE % self._unit))
        # A piece ends at the next multiple of the step, so that most are whole and aligned.
        first = start // step
        count = ((start + length - np.uint64(1)) // step - first + np.uint64(1)).astype(np.int64)
        row = np.repeat(np.arange(len(count)), count)
        turn = (np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)).astype(np.uint64)
        begin = np.maximum(start[row], (first[row] + turn) * step)
        end = np.minimum((start + length)[row], (first[row] + turn + np.uint64(1)) * step)
        return (
            raw[row] + (begin - start[row]),
            (end - begin).astype(np.uint32),
            np.full(len(row), self._number, dtype=np.uint32),
            begin,
        )


def _cut_at_units(start: U64, length: U64, unit: int, size: int) -> tuple[I64, U64, U64]:
    """Cut off what extents have of a unit at either end; the stream's last unit may be short.

    Returns, for each part, its extent's row, how far into the extent it begins, and its length.
    """
    whole, end = np.uint64(unit), start + length
    head = np.minimum(-(-start.astype(np.int64) // unit) * unit, end.astype(np.int64))
    begin = head.astype(np.uint64)
    last = np.where(end == np.uint64(size), end, np.maximum(end - end % whole, begin))
    if (begin == start).all() and (last == end).all():
        return np.arange(len(start)), np.zeros(len(start), dtype=np.uint64), length
    edges = np.stack((start, begin, last, end), axis=1)
    lengths = np.diff(edges, axis=1)
    rows, part = np.nonzero(lengths)
    return rows, edges[rows, part] - start[rows], lengths[rows, part]


def _vouched(volume: str, records: Mapping[str, VolumeRecord]) -> VolumeRecord:
    record = records.get(volume)
    if record is None:
        raise SignatureError(f'map uses volume "{volume}", which its manifest does not vouch for')
    return record


def extract(
    store: StoreReader,
    sealer: Sealer,
    work: Plan,
    deliver: Deliver | TakesRows,
    *,
    at_once: int = VOLUMES_AT_ONCE,
    proves: bool = True,
    turns: Sequence[int] | None = None,
) -> None:
    """Fetch every volume of a plan once and deliver every piece.

    `turns` are the numbers of the volumes if only some are wanted, or in another order. With
    `at_once` 1 the pieces come in the plan's order. With `proves` False the volumes' digests
    are left to the caller, who proves what was delivered by the streams' own: then one that can
    be unpacked may be damaged all the same, and `require_undamaged` finds it.

    Raises:
        IntegrityError: a volume is missing or damaged, and is named.
        KeyMissingError: no key here opens it.
    """
    open_object = fetch.open_sealed if proves else fetch.open_unproven

    def one(index: int) -> None:
        record = work.volumes[index]
        longest = int(work.length[work.rows(index)].max(initial=1))
        cutter = _Cutter(_due(work, index, deliver), longest)
        open_object(store, sealer, fetch.object_of(record), cutter.take)
        try:
            cutter.finish(record.volume)
        except IntegrityError:
            if not proves:
                fetch.require_undamaged(store, fetch.object_of(record))
            raise

    with threads(at_once, "extract") as pool:
        all_turns = range(len(work.volumes)) if turns is None else turns
        for _ in ordered(one, all_turns, ahead=at_once, pool=pool):
            pass


def require_undamaged(store: StoreReader, work: Plan) -> None:
    """Read all volumes of a plan, to see which of them is damaged.

    Raises:
        IntegrityError: one is, and is named.
    """
    for record in work.volumes:
        fetch.require_undamaged(store, fetch.object_of(record))


class _Due(Protocol):
    """The pieces of one volume that are still to come, by where they end in its raw bytes."""

    def lowest(self) -> int | None:
        """Return where the first byte lies that is still needed; None if all is delivered."""

    def deliver(self, buffer: memoryview, base: int, end: int) -> None:
        """Deliver what ends at `end` or before; `buffer` has the raw bytes from `base` on."""


def _due(work: Plan, index: int, deliver: Deliver | TakesRows) -> _Due:
    if not isinstance(deliver, TakesRows):
        return _DuePieces(work, index, deliver)
    if deliver.wants(work.rows(index)):
        return _DueRows(work, index, deliver)
    return _DuePieces(work, index, deliver.take)


class _DuePieces:
    """Delivers pieces one by one, or several that lie in a row."""

    def __init__(self, work: Plan, index: int, deliver: Deliver) -> None:
        self._deliver = deliver
        self._pieces = work.pieces(index)
        self._next = next(self._pieces, None)

    def lowest(self) -> int | None:
        return None if self._next is None else self._next.lowest

    def deliver(self, buffer: memoryview, base: int, end: int) -> None:
        while (piece := self._next) is not None and piece.end <= end:
            stop = piece.end
            pieces = [(piece.offset, stop - piece.begin)]
            self._next = next(self._pieces, None)
            while (
                self._next is not None
                and self._next.begin == stop
                and self._next.stream == piece.stream
                and self._next.end <= end
            ):
                stop = self._next.end
                pieces.append((self._next.offset, stop - self._next.begin))
                self._next = next(self._pieces, None)
            self._deliver(piece.stream, pieces, buffer[piece.begin - base : stop - base])


class _DueRows:
    """Delivers pieces by their numbers, all that are there at once."""

    def __init__(self, work: Plan, index: int, taker: TakesRows) -> None:
        self._taker = taker
        rows = work.rows(index)
        self._begin, self._at = rows.start, 0
        raw = work.raw[rows]
        self._ends = (raw + work.length[rows]).astype(np.int64)
        self._lowest = _lowest(raw)

    def lowest(self) -> int | None:
        return int(self._lowest[self._at]) if self._at < len(self._lowest) else None

    def deliver(self, buffer: memoryview, base: int, end: int) -> None:
        stop = int(np.searchsorted(self._ends, end, side="right"))
        if stop > self._at:
            rows = slice(self._begin + self._at, self._begin + stop)
            self._at = stop
            self._taker.take_rows(rows, buffer, base)


class _Cutter:
    """Cuts the pieces out of one volume's raw bytes, which are unpacked into one buffer.

    The buffer holds raw bytes from `base`, a multiple of a page, to `end`. So a piece that lies at
    a page of the volume lies at a page of memory, and is written from where it was unpacked to.
    """

    def __init__(self, due: _Due, longest: int) -> None:
        self._due = due
        # No piece that is still to come begins further back than the longest is long.
        self._buffer = buffers.dense(_WINDOW + longest)
        self._base = 0
        self._end = 0
        self._frames = Frames()
        self._unpacker = zstandard.ZstdDecompressor()
        self._failure: Exception | None = None

    def take(self, packed: bytes) -> None:
        """Take a piece of the volume as it was packed, and deliver what is whole.

        What is wrong with it is kept for `finish`: the volume's digest, which is known only at
        its end, says better that it is damaged.
        """
        if self._failure is not None or self._due.lowest() is None:
            return
        try:
            for frame in self._frames.take(packed):
                self._unpack(frame)
                self._due.deliver(self._buffer, self._base, self._end)
        except (zstandard.ZstdError, VolumeError) as error:
            self._failure = error

    def finish(self, volume: str) -> None:
        """Take the end of a volume whose digest fits.

        Raises:
            IntegrityError: it is not what its map says, or cannot be unpacked.
        """
        if self._failure is not None:
            error = self._failure
            raise VolumeError(f'volume "{volume}" cannot be unpacked: {error}') from error
        if self._due.lowest() is not None:
            raise SignatureError(
                f'map refers to bytes beyond the end of volume "{volume}" ({self._end} bytes)'
            )

    def _unpack(self, frame: memoryview) -> None:
        """Unpack a frame behind what is there, or pass over it if nothing of it is wanted."""
        size = raw_size(frame)
        lowest = self._due.lowest()
        wanted = self._end if lowest is None else lowest
        if size is not None and self._end + size <= wanted:
            self._end += size
            self._base = self._end - self._end % _PAGE
            return
        if self._end - self._base + FRAME_SIZE >= len(self._buffer):
            self._make_room(min(wanted, self._end))
        # With a whole frame at hand, and room for all it holds, zstd unpacks to where it belongs.
        begin = self._end - self._base
        room = self._buffer[begin : begin + FRAME_SIZE + 1]
        found = unpack_into(frame, room, self._unpacker)
        self._end += found
        if found > FRAME_SIZE or size not in (None, found):
            raise VolumeError(f"a frame holds {found} bytes, and should hold {size or FRAME_SIZE}")

    def _make_room(self, needed: int) -> None:
        """Keep what lies from `needed` on, at the buffer's beginning."""
        base = needed - needed % _PAGE
        kept = self._end - base
        self._buffer[:kept] = self._buffer[base - self._base : self._end - self._base]
        self._base = base
