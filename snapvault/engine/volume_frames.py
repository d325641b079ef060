# SPDX-License-Identifier: Apache-2.0
"""Raw bytes of one volume: of some of its frames, or of all of it as it streams by.

Nothing here proves them: whoever takes them knows what they have to be.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Final

import zstandard

from snapvault.engine import fetch
from snapvault.engine.frames import read_seek_table
from snapvault.errors import IntegrityError, VolumeError
from snapvault.formats.volume import FRAME_SIZE, Frame
from snapvault.formats.volume_list import VolumeRecord
from snapvault.formats.zstd_frame import Frames, unpack_into
from snapvault.ports.sealer import Parts, Sealer
from snapvault.ports.store import StoreReader

REQUEST: Final = 4 << 20
"""Bytes of a volume that are fetched at once, at most: they are in memory some times over."""


class VolumeFrames:
    """The frames of a volume that can be opened in parts. Safe from several threads.

    All frames but the last have `FRAME_SIZE` raw bytes, so a frame's number says where it lies.
    """

    def __init__(self, parts: Parts, frames: Sequence[Frame]) -> None:
        self._parts = parts
        self._frames = frames
        self._begins = [0, *accumulate(frame.stored for frame in frames)]

    def read(self, first: int, end: int) -> Iterator[tuple[int, memoryview]]:
        """Yield number and raw bytes of some frames, in order; the first one comes by itself.

        Raises:
            VolumeError: one cannot be unpacked.
        """
        stop = first + 1
        while first < end:
            yield from self._read_together(first, stop)
            first, stop = stop, stop + 1
            while stop < end and self._begins[stop + 1] - self._begins[first] <= REQUEST:
                stop += 1

    def _read_together(self, first: int, end: int) -> Iterator[tuple[int, memoryview]]:
        begin = self._begins[first]
        packed = memoryview(self._parts.read(begin, self._begins[end]))
        for number in range(first, end):
            at = self._begins[number] - begin
            raw = _unpack(packed[at : at + self._frames[number].stored])
            if len(raw) != self._frames[number].raw:
                raise VolumeError("a frame unpacks to other bytes than its volume says")
            yield number, raw


def open_frames(
    sealer: Sealer, record: VolumeRecord, look: Callable[[int, int], bytes], raw_size: int
) -> VolumeFrames | None:
    """Open a volume in parts, of which so many raw bytes are in use; None where that cannot be.

    Raises:
        VolumeError: it has no seek table.
        What `look` raises, and `Sealer.open_parts`.
    """
    parts = sealer.open_parts(record.size, look)
    if parts is None:
        return None
    frames = read_seek_table(parts)
    is_even = all(frame.raw == FRAME_SIZE for frame in frames[:-1])
    has_all = sum(frame.raw for frame in frames) >= raw_size
    return VolumeFrames(parts, frames) if is_even and has_all else None


def stream_volume(
    store: StoreReader,
    sealer: Sealer,
    record: VolumeRecord,
    sink: Callable[[memoryview], None],
    on_read: Callable[[int], None],
) -> None:
    """Fetch a whole volume, and give out its raw bytes in order until one cannot be unpacked.

    What `sink` raises ends it. `on_read` hears how many bytes came.

    Raises:
        IntegrityError: it is missing, damaged, or cannot be unpacked.
        StoreError, KeyMissingError, SealError: as `fetch.open_sealed`.
    """
    cutter = Frames()
    failure: VolumeError | None = None

    def take(packed: bytes) -> None:
        nonlocal failure
        on_read(len(packed))
        # The volume's digest, which is known only at its end, says better what is wrong.
        if failure is not None:
            return
        frames = cutter.take(packed)
        while True:
            try:
                frame = next(frames, None)
                raw = None if frame is None else _unpack(frame)
            except VolumeError as error:
                failure = error
                return
            if raw is None:
                return
            sink(raw)

    fetch.open_sealed(store, sealer, fetch.object_of(record), take)
    if failure is not None:
        raise IntegrityError(f'volume "{record.volume}" cannot be unpacked: {failure}')


def _unpack(frame: memoryview) -> memoryview:
    """Unpack a frame, to no more than a frame may have, whatever it says of itself."""
    buffer = memoryview(bytearray(FRAME_SIZE))
    try:
        return buffer[: unpack_into(frame, buffer, zstandard.ZstdDecompressor())]
    except zstandard.ZstdError as error:
        raise VolumeError(f"a frame cannot be unpacked: {error}") from error
