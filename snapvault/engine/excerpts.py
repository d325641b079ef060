# SPDX-License-Identifier: Apache-2.0
"""Bringing extents back from parts of volumes, where each piece can be proven by itself.

Of a volume that can be opened in parts, its seek table and the starts of some frames are fetched.
Neither its digest nor OpenPGP's proves anything without the rest of it; whoever takes the pieces
does. What cannot be had in this way, whatever the reason, is left to be fetched in whole volumes:
that says what is wrong, if anything is.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from threading import Event, Lock
from typing import Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from snapvault.engine import buffers, fetch
from snapvault.engine.extract import VOLUMES_AT_ONCE, Plan
from snapvault.engine.frames import FrameStart, read_seek_table, together, wanted_frames
from snapvault.engine.pipeline import ordered, threads
from snapvault.errors import IntegrityError, ObjectMissingError, SealError, StoreError, VolumeError
from snapvault.formats.volume import FRAME_SIZE, Frame
from snapvault.formats.zstd_frame import cut_block, unpack_into
from snapvault.ports.sealer import Parts, Sealer
from snapvault.ports.store import StoreReader

Accept = Callable[[int, int, memoryview], bool]
"""Takes a stream's number, an offset in it, and bytes that nothing has proven yet.

Returns whether they are what belongs there. The bytes are good until then. Called from several
threads.
"""

SMALLEST: Final = 256 << 10
"""Bytes of a volume, as stored, that is fetched in parts; of a smaller one parts save nothing."""

WHOLE: Final = 0.65
"""The share of a volume from which on it is fetched as a whole, by one request."""

_FETCHES = 8  # at once, of all volumes
_AHEAD = 3  # fetches of one volume that wait to be written
_PAGE = 4096  # bytes


@dataclass(frozen=True, slots=True)
class Excerpt:
    """How many bytes were fetched, and what is still to be fetched, in whole volumes."""

    fetched_bytes: int
    rest: Plan


def extract_parts(
    store: StoreReader,
    sealer: Sealer,
    work: Plan,
    raw_sizes: Mapping[str, int],
    accept: Accept,
) -> Excerpt:
    """Have what can be had from parts of volumes accepted, each piece once and in any order.

    `raw_sizes` are, by volume, the raw bytes that it has at least. A piece that is not accepted is
    in the rest, with all that was to come from its volume.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    return _Excerpting(store, sealer, work, accept).run(raw_sizes)


class _Excerpting:
    """One run over the volumes of a plan."""

    def __init__(self, store: StoreReader, sealer: Sealer, work: Plan, accept: Accept) -> None:
        self._store = store
        self._sealer = sealer
        self._work = work
        self._accept = accept
        self._done = np.zeros(len(work.raw), dtype=bool)
        self._fetched = 0
        self._lock = Lock()
        self._is_futile = Event()

    def run(self, raw_sizes: Mapping[str, int]) -> Excerpt:
        """Go through the volumes of which parts are worth it."""
        worth = [
            index
            for index, record in enumerate(self._work.volumes)
            if self._is_worth_it(index, raw_sizes[record.volume])
        ]
        with threads(_FETCHES, "part") as fetching, threads(VOLUMES_AT_ONCE, "excerpt") as pool:
            for _ in ordered(
                lambda index: self._volume(index, fetching),
                worth,
                ahead=VOLUMES_AT_ONCE,
                pool=pool,
            ):
                pass
        return Excerpt(self._fetched, _only(self._work, ~self._done))

    def _is_worth_it(self, index: int, raw_size: int) -> bool:
        """Tell, before anything is fetched, whether parts may be much less than the whole."""
        record, rows = self._work.volumes[index], self._work.rows(index)
        if record.size < SMALLEST:
            return False
        frames = [Frame(FRAME_SIZE, FRAME_SIZE)] * -(-raw_size // FRAME_SIZE)
        raw = sum(
            start.wanted
            for start in wanted_frames(frames, self._work.raw[rows], self._work.length[rows])
        )
        # Packed they are fewer; and of a volume that is mostly not in use, a small part.
        return raw < WHOLE * record.size or raw < WHOLE * raw_size

    def _volume(self, index: int, fetching: Executor) -> None:
        """Have what a volume holds accepted, as far as that goes."""
        if self._is_futile.is_set():
            return
        try:
            self._take(index, fetching)
        except (IntegrityError, ObjectMissingError, zstandard.ZstdError):
            pass  # fetched as a whole, it is named
        except SealError:
            self._is_futile.set()  # it is the same with every volume
        except StoreError as error:
            if error.retryable:
                raise
            self._is_futile.set()

    def _take(self, index: int, fetching: Executor) -> None:
        record, rows = self._work.volumes[index], self._work.rows(index)
        look = fetch.part_reader(self._store, record, self._count)
        parts = self._sealer.open_parts(record.size, look)
        if parts is None:
            return
        frames = read_seek_table(parts)
        starts = wanted_frames(frames, self._work.raw[rows], self._work.length[rows])
        if sum(start.guess for start in starts) > WHOLE * record.size:
            return
        pieces = _Pieces(self._work, index)
        for unpacked in ordered(
            lambda group: _unpack(parts, group), together(starts), ahead=_AHEAD, pool=fetching
        ):
            for row, stream, offset, data in pieces.of(unpacked):
                if not self._accept(stream, offset, data):
                    return
                self._done[row] = True

    def _count(self, size: int) -> None:
        with self._lock:
            self._fetched += size


@dataclass(frozen=True, slots=True)
class _Unpacked:
    """Raw bytes of a volume, from `begin` on; they start at a page of memory as of the volume."""

    begin: int
    data: memoryview

    @property
    def end(self) -> int:
        return self.begin + len(self.data)


def _unpack(parts: Parts, group: list[FrameStart]) -> list[_Unpacked]:
    """Fetch and unpack neighbors, and more of those of which that was not enough."""
    first, last = group[0], group[-1]
    packed = memoryview(parts.read(first.begin, last.begin + last.guess))
    return [
        _unpack_one(parts, start, packed[start.begin - first.begin :][: start.stored])
        for start in group
    ]


def _unpack_one(parts: Parts, start: FrameStart, packed: memoryview) -> _Unpacked:
    skip = start.raw_begin % _PAGE
    # Not dense: many frames of which little is wanted may be here at once.
    buffer = buffers.sparse(skip + start.wanted)[skip:]
    unpacker = zstandard.ZstdDecompressor()
    while (unpacked := unpack_into(packed, buffer, unpacker)) < start.wanted:
        have = len(packed)
        end = start.more(have, unpacked, cut_block(packed))
        if end == have:
            raise VolumeError("a frame unpacks to fewer bytes than it should")
        packed = memoryview(bytes(packed) + parts.read(start.begin + have, start.begin + end))
    return _Unpacked(start.raw_begin, buffer)


class _Pieces:
    """The pieces of one volume, as they can be had from raw bytes that come in order."""

    def __init__(self, work: Plan, index: int) -> None:
        self._held: deque[_Unpacked] = deque()
        self._rows = enumerate(work.pieces(index), work.rows(index).start)
        self._next = next(self._rows, None)

    def of(self, unpacked: list[_Unpacked]) -> Iterator[tuple[int, int, int, memoryview]]:
        """Yield row, stream, offset and bytes of the pieces that are there with these."""
        for each in unpacked:
            self._held.append(each)
            while self._next is not None and self._next[1].end <= each.end:
                row, piece = self._next
                while self._held[0].end <= piece.lowest:
                    self._held.popleft()
                yield row, piece.stream, piece.offset, self._bytes(piece.begin, piece.end)
                self._next = next(self._rows, None)

    def _bytes(self, begin: int, end: int) -> memoryview:
        views = [
            each.data[max(0, begin - each.begin) : end - each.begin]
            for each in self._held
            if each.begin < end and begin < each.end
        ]
        if len(views) == 1:
            return views[0]
        skip = begin % _PAGE
        joined = buffers.sparse(skip + end - begin)[skip:]
        at = 0
        for view in views:
            joined[at : at + len(view)] = view
            at += len(view)
        return joined


def _only(work: Plan, rows: NDArray[np.bool_]) -> Plan:
    """Return a plan of some rows of a plan."""
    turn = np.repeat(np.arange(len(work.volumes)), np.diff(work.bounds))[rows]
    used = np.unique(turn)
    return Plan(
        volumes=tuple(work.volumes[index] for index in used.tolist()),
        bounds=np.append(np.searchsorted(turn, used), len(turn)),
        raw=work.raw[rows],
        length=work.length[rows],
        stream=work.stream[rows],
        offset=work.offset[rows],
    )
