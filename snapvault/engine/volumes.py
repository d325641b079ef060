# SPDX-License-Identifier: Apache-2.0
"""Writing volumes: bytes are appended, compressed in frames, sealed, and stored.

Three volumes at the most are on their way at once; of each, a few frames are in memory
and the rest, already sealed, in a file of the run's folder until the store has it.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import zstandard

from snapvault.engine.pipeline import WORKERS, Broken, Crew, Handoff, threads
from snapvault.formats import names
from snapvault.formats.volume import FRAME_SIZE, Frame, seek_table
from snapvault.formats.volume_list import VolumeRecord
from snapvault.ports.events import Events
from snapvault.ports.sealer import Readers, Sealer
from snapvault.ports.store import StoreWriter

SEALED_SUFFIX = ".sealing"
_FRAMES_WAITING = 4
VOLUMES_AT_ONCE = 3


@dataclass(frozen=True, slots=True)
class Piece:
    """Where some appended bytes went: volume id, offset in its raw bytes, and length in bytes."""

    volume: str
    offset: int
    data: memoryview

    @property
    def length(self) -> int:
        """Bytes."""
        return len(self.data)


@dataclass(slots=True)
class _Open:
    """The volume being filled."""

    volume: str
    frames: Handoff[tuple[int, "Future[bytes]"]]
    raw: int = 0


class VolumeWriter:
    """Turns appended bytes into stored volumes. Used from one thread.

    `on_sealed` is called from another thread with a volume's record once its sealed
    bytes are final and before any of them is sent. `at_once` volumes are on their way at the most.
    """

    def __init__(  # noqa: PLR0913 - who writes, what, and how; all by name
        self,
        *,
        store: StoreWriter,
        sealer: Sealer,
        events: Events,
        folder: Path,
        volume_size: int,
        level: int,
        on_sealed: Callable[[VolumeRecord], None],
        at_once: int = VOLUMES_AT_ONCE,
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._events = events
        self._folder = folder
        self._volume_size = volume_size
        self._level = level
        self._on_sealed = on_sealed
        # Frames are filled over and over again: fresh memory for each would cost page faults.
        self._spare: SimpleQueue[bytearray] = SimpleQueue()
        self._frame = bytearray(FRAME_SIZE)
        self._filled = 0
        self._open: _Open | None = None
        self._is_over = False
        self._crew: Crew[VolumeRecord] = Crew(at_once, "volume")
        self._compressing = threads(WORKERS, "compress")
        self._local = threading.local()

    def append(self, data: memoryview, *, unit: int, on_piece: Callable[[Piece], None]) -> None:
        """Add bytes; they are copied before this returns.

        `on_piece` is told of each run of the data that went to one place, before the volume can
        be complete; a run is a multiple of `unit` bytes, except at the end of the data.
        """
        while data:
            current = self._open or self._begin()
            room = self._volume_size - current.raw
            take = min(len(data), max(unit, room - room % unit))
            on_piece(Piece(current.volume, current.raw, data[:take]))
            current.raw += take
            self._fill(current, data[:take])
            data = data[take:]
            if current.raw + unit > self._volume_size:
                self._complete()

    def align(self, size: int) -> None:
        """Fill up with zeros that no map uses, to a multiple of `size` raw bytes."""
        if self._open is not None and (pad := -self._open.raw % size):
            self._open.raw += pad
            self._fill(self._open, memoryview(bytes(pad)))

    def finish(self) -> list[VolumeRecord]:
        """Complete the last volume, wait until all are stored, and return them, oldest first.

        After a failure it is `abort` that ends the rest.
        """
        self._complete()
        records = self._crew.finish()
        self._compressing.shutdown(wait=True)
        return records

    def abort(self, patience: float | None = None) -> None:
        """End everything without completing the open volume; safe after any failure.

        Volumes that are complete are sent to their end; with `patience`, those that need more
        seconds than that are dropped.
        """
        if self._open is not None:
            self._open.frames.give_up()
            self._open = None
        self._crew.close(patience)
        self._is_over = True
        self._compressing.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> _Open:
        opened = _Open(names.new_volume_id(), Handoff(room=_FRAMES_WAITING))
        # ORDER: `abort` must find the volume before its thread waits for frames: a signal that
        # comes between the two would leave that thread waiting for ever.
        self._open = opened
        self._crew.start(lambda: self._deliver(opened))
        return opened

    def _fill(self, current: _Open, data: memoryview) -> None:
        while data:
            take = min(len(data), FRAME_SIZE - self._filled)
            self._frame[self._filled : self._filled + take] = data[:take]
            self._filled += take
            data = data[take:]
            if self._filled == FRAME_SIZE:
                self._flush(current)

    def _flush(self, current: _Open) -> None:
        frame, size = self._frame, self._filled
        try:
            self._frame = self._spare.get_nowait()
        except Empty:
            self._frame = bytearray(FRAME_SIZE)
        self._filled = 0
        try:
            current.frames.put((size, self._compressing.submit(self._compress, frame, size)))
        except Broken:
            self._crew.finish()  # raises what broke it
            raise

    def _complete(self) -> None:
        if self._open is not None:
            if self._filled:
                self._flush(self._open)
            self._open.frames.close()
            self._open = None

    def _compress(self, frame: bytearray, size: int) -> bytes:
        compressor = getattr(self._local, "compressor", None)
        if compressor is None:
            compressor = self._local.compressor = _compressor(self._level)
        packed: bytes = compressor.compress(memoryview(frame)[:size])
        self._spare.put(frame)
        return packed

    def _deliver(self, opened: _Open) -> VolumeRecord:
        path = self._folder / (opened.volume + SEALED_SUFFIX)
        try:
            self._sealer.seal_to_file(_frames(opened.frames), path, Readers.RECOVERY)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            record = VolumeRecord(opened.volume, path.stat().st_size, digest)
            # ORDER: the journal knows a volume before the store does, so that a run that
            # is killed right after the transfer finds the volume and does not send it twice.
            self._on_sealed(record)
            self._store.put_file(
                names.volume(record.volume), path, size=record.size, sha256=record.sha256
            )
        except BaseException:
            opened.frames.give_up()
            raise
        finally:
            path.unlink(missing_ok=True)
        if not self._is_over:
            self._events.emit("volume.stored", volume=record.volume, size_bytes=record.size)
        return record


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """Return zstd at a level; level 3, the default, with tables that fit in a core's own cache.

    Measured on frames of real files with a thread on each core: a tenth less CPU than zstd's
    own level 3, for 1.2 % more bytes. Level 2 takes a fifth less, for 3.9 %.
    """
    if level != 3:
        return zstandard.ZstdCompressor(level=level)
    return zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(
            strategy=zstandard.STRATEGY_DFAST,
            window_log=20,
            chain_log=14,
            hash_log=16,
            search_log=1,
            min_match=5,
        )
    )


def _frames(handoff: Handoff[tuple[int, "Future[bytes]"]]) -> Iterator[bytes]:
    frames = []
    for raw, packed in handoff:
        frame = packed.result()
        frames.append(Frame(len(frame), raw))
        yield frame
    yield seek_table(frames)
