# SPDX-License-Identifier: Apache-2.0
"""Raw bytes of volumes at random: fetched as far as somebody asks, kept in files of bounded size.

A volume is one encrypted message, so its first byte comes first. Whoever waits for bytes of it
goes on as soon as they came by; then the rest is fetched too, as long as nobody waits for
another volume. The files have no names: what is in them is gone with the process.
"""

import errno
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Condition, Thread, current_thread
from typing import BinaryIO, Final

import zstandard

from snapvault import clock
from snapvault.engine import fetch
from snapvault.engine.pipeline import Broken, Crew, Handoff
from snapvault.errors import (
    IntegrityError,
    ObjectMissingError,
    RestoreError,
    SignatureError,
    SnapVaultError,
)
from snapvault.formats.volume_list import VolumeRecord
from snapvault.ports.events import Events
from snapvault.ports.sealer import Sealer
from snapvault.ports.store import StoreReader
from snapvault.ports.throttle import GivenUp
from snapvault.units import format_size

STREAMS: Final = 4
"""Volumes that are fetched at once, at the most."""

TRUST_AGAIN: Final = 60.0
"""Seconds until a volume that was found damaged is fetched again."""

_STEP: Final = 1 << 20  # bytes unpacked at once
_PACKED_WAITING: Final = 2  # chunks, decrypted
_CLOSING: Final = 5.0  # seconds to wait for threads at the end
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Need:
    """A volume, and how many raw bytes from its start on may be asked for."""

    record: VolumeRecord
    end: int


@dataclass(slots=True, eq=False)
class _Stream:
    """One fetching of a volume. `error` is how it ended."""

    packed: Handoff[bytes]
    is_stopped: bool = False
    error: SnapVaultError | None = None

    def stop(self) -> None:
        """Ask it to end, wherever it waits."""
        self.is_stopped = True
        self.packed.give_up()


@dataclass(slots=True, eq=False)
class _Held:
    """A volume as far as it is here: raw bytes from 0 to `have`, in `file`."""

    need: Need
    file: BinaryIO | None = None
    have: int = 0
    waiting: int = 0  # threads that wait for bytes of it
    reading: int = 0  # threads that read from the file
    used: int = 0  # when it was last asked for, as a turn
    stream: _Stream | None = None
    refusal: IntegrityError | None = None
    told: str = ""  # the last failure that was told
    distrusted: float = field(default=-TRUST_AGAIN)  # when it was found damaged

    @property
    def is_idle(self) -> bool:
        """Whether nobody needs it right now."""
        return not self.waiting and not self.reading


class _Stopped(Exception):  # noqa: N818 - a signal between threads
    """A fetching is not wanted any more."""


class VolumeCache:
    """The volumes of `needs`, by id. Safe from several threads; closed by its owner.

    `limit` bounds the bytes of all files; it is at least the largest `end`. When it, or the disk
    under `folder`, is full, the volumes that were not asked for longest go.
    """

    def __init__(
        self,
        store: StoreReader,
        sealer: Sealer,
        events: Events,
        needs: Mapping[str, Need],
        *,
        folder: Path,
        limit: int,
    ) -> None:
        largest = max((need.end for need in needs.values()), default=0)
        if limit < largest:
            raise RestoreError(
                f"a cache of {format_size(limit)} is too small: one volume takes"
                f" {format_size(largest)}",
                hint="Give it room for some volumes at least.",
            )
        self._store = store
        self._sealer = sealer
        self._events = events
        self._folder = folder
        self._limit = limit
        self._held = {volume: _Held(need) for volume, need in needs.items()}
        self._changed = Condition()
        self._turns = count(1)
        self._taken = 0  # bytes of all files
        self._streams = 0
        self._waiting = 0
        self._closed = False
        self._threads: set[Thread] = set()
        self._fetched: set[str] = set()
        self._fetched_bytes = 0

    @property
    def volumes(self) -> int:
        """How many volumes there are."""
        return len(self._held)

    @property
    def fetched(self) -> int:
        """How many of them were asked of the store so far."""
        with self._changed:
            return len(self._fetched)

    @property
    def fetched_bytes(self) -> int:
        """Bytes read from the store so far; more than once for what was fetched again."""
        with self._changed:
            return self._fetched_bytes

    @property
    def taken_bytes(self) -> int:
        """Bytes of all files."""
        with self._changed:
            return self._taken

    def read_into(self, volume: str, offset: int, view: memoryview) -> None:
        """Fill the view with raw bytes of a volume, which are not proven yet; may wait for them.

        Raises:
            IntegrityError: the volume is missing or damaged, and ends before them.
            StoreError: the store fails.
            KeyMissingError, SealError: no key here opens it.
            RestoreError: there is no room for it, or the cache is closed.
        """
        held = self._held[volume]
        with self._changed:
            self._wait_for(held, offset + len(view))
            file = held.file
            held.reading += 1
        try:
            if file is not None:
                _fill(file, offset, view)
        finally:
            with self._changed:
                held.reading -= 1
                self._changed.notify_all()

    def forget(self, volume: str) -> bool:
        """Drop what is here of a volume, since it is not what it should be; it is fetched again.

        Returns False, and keeps it, when it was dropped not long ago: fetching does not help.
        """
        held = self._held[volume]
        with self._changed:
            if clock.monotonic() - held.distrusted < TRUST_AGAIN:
                return False
            held.distrusted = clock.monotonic()
            while (held.stream is not None or held.reading) and not self._closed:
                if held.stream is not None:
                    held.stream.stop()
                    self._changed.notify_all()
                self._changed.wait()
            self._drop(held)
            return True

    def close(self) -> None:
        """Stop fetching, let those who wait fail, and give the room back; safe to repeat."""
        with self._changed:
            self._closed = True
            for held in self._held.values():
                if held.stream is not None:
                    held.stream.stop()
            self._changed.notify_all()
            threads = list(self._threads)
        deadline = clock.monotonic() + _CLOSING
        for thread in threads:
            thread.join(max(0.0, deadline - clock.monotonic()))
        with self._changed:
            for held in self._held.values():
                if held.stream is None and not held.reading:
                    self._drop(held)

    # --- with the lock held ----------------------------------------------------------------

    def _wait_for(self, held: _Held, end: int) -> None:
        if end > held.need.end:
            raise ValueError(f"asked for {end} of {held.need.end} bytes")
        held.used = next(self._turns)
        if held.have >= end and not self._closed:
            return
        held.waiting += 1
        self._waiting += 1
        watched: _Stream | None = None
        try:
            while True:
                if self._closed:
                    raise RestoreError("the restore point is not served any more")
                if held.have >= end:
                    return
                if watched is not None and watched.error is not None:
                    raise _again(watched.error)
                if held.stream is None:
                    self._refuse(held)
                    watched = self._start(held)
                else:
                    watched = held.stream
                self._changed.wait()
        finally:
            held.waiting -= 1
            self._waiting -= 1
            self._changed.notify_all()

    def _refuse(self, held: _Held) -> None:
        """Raise what is known to be wrong with a volume, for a while."""
        if held.refusal is None:
            return
        if clock.monotonic() - held.distrusted < TRUST_AGAIN:
            raise _again(held.refusal)
        held.refusal = None

    def _start(self, held: _Held) -> _Stream | None:
        """Start to fetch a volume; None if there is no place for it yet: something changes then."""
        if self._streams >= STREAMS:
            self._stop_one()
            return None
        if held.file is None and not self._make_room(held):
            return None
        stream = held.stream = _Stream(Handoff(room=_PACKED_WAITING))
        self._streams += 1
        thread = Thread(target=self._run, args=(held, stream), name="volume", daemon=True)
        self._threads.add(thread)
        thread.start()
        return stream

    def _make_room(self, held: _Held) -> bool:
        """Take a volume's room; False while others have it."""
        while self._taken + held.need.end > self._limit:
            if not self._drop_one():
                return False
        while True:
            file: BinaryIO | None = None
            try:
                # Nameless: the data of a backup in clear must not outlive the process.
                file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
                os.posix_fallocate(file.fileno(), 0, held.need.end)
            except OSError as error:
                if file is not None:
                    file.close()
                if error.errno not in _FULL or not self._taken:
                    raise RestoreError(
                        f'could not keep a volume of {format_size(held.need.end)} in folder "'
                        f'{self._folder}": {(error.strerror or str(error)).lower()}',
                        hint="Free room there, or move state_dir.",
                    ) from error
                if not self._drop_one():
                    return False
            else:
                held.file = file
                self._taken += held.need.end
                return True

    def _drop_one(self) -> bool:
        """Drop the volume that was not asked for longest; False if that takes a while."""
        idle = [each for each in self._held.values() if each.file is not None and each.is_idle]
        if not idle:
            return False
        oldest = min(idle, key=lambda each: each.used)
        if oldest.stream is not None:
            oldest.stream.stop()
            self._changed.notify_all()
            return False
        self._drop(oldest)
        return True

    def _stop_one(self) -> None:
        """Ask that fetching to stop which nobody waits for, and nobody did for longest."""
        running = [
            (each.used, each.stream)
            for each in self._held.values()
            if each.stream is not None and each.is_idle
        ]
        if running and not any(stream.is_stopped for _, stream in running):
            min(running, key=lambda each: each[0])[1].stop()
            self._changed.notify_all()

    def _drop(self, held: _Held) -> None:
        if held.file is not None:
            held.file.close()
            self._taken -= held.need.end
        held.file = None
        held.have = 0
        self._changed.notify_all()

    # --- one fetching, on a thread of its own ------------------------------------------------

    def _run(self, held: _Held, stream: _Stream) -> None:
        error: SnapVaultError | None = None
        try:
            self._fetch(held, stream)
        except (_Stopped, GivenUp):
            pass
        except SnapVaultError as failure:
            error = failure
        except BaseException as failure:  # noqa: BLE001 - whoever waits for the bytes is told
            name = held.need.record.volume
            error = RestoreError(f'could not fetch volume "{name}": {failure!r}')
        with self._changed:
            self._streams -= 1
            held.stream = None
            stream.error = error
            is_news = error is not None and str(error) != held.told and not self._closed
            if error is not None:
                held.told = str(error)
            # Asking again for what is missing costs little, and a store may come back.
            if isinstance(error, IntegrityError) and not _is_missing(error):
                held.refusal = error
                held.distrusted = clock.monotonic()
            if self._closed and not held.reading:
                self._drop(held)
            self._changed.notify_all()
        if is_news:
            self._events.warn("volume.failed", str(error), volume=held.need.record.volume)
        with self._changed:
            self._threads.discard(current_thread())

    def _fetch(self, held: _Held, stream: _Stream) -> None:
        record, packed = held.need.record, stream.packed
        opener: Crew[None] = Crew(1, "open")
        opener.start(lambda: self._open(record, packed))
        failure: IntegrityError | None = None
        try:
            failure = self._unpack(held, stream)
            # The digest is of the whole volume; it also says better what is wrong.
            for _ in packed:
                self._breathe(held, stream)
        except Broken:
            # Its opener may hang in a network for long, and ends once it comes back.
            raise _Stopped from None
        finally:
            packed.give_up()
        opener.finish()
        if failure is not None:
            raise failure
        held.told = ""
        self._events.emit("volume.fetched", volume=record.volume, size_bytes=record.size)

    def _open(self, record: VolumeRecord, packed: Handoff[bytes]) -> None:
        """Fetch and decrypt a volume into a hand-off; its consumer may give up."""
        with self._changed:
            self._fetched.add(record.volume)
        try:
            fetch.open_sealed(self._store, self._sealer, fetch.object_of(record), packed.put)
        except Broken:
            pass
        finally:
            # Also after a failure: what came before it may be whole, and proves itself.
            packed.close()

    def _unpack(self, held: _Held, stream: _Stream) -> IntegrityError | None:
        """Unpack what may be asked for into the file; return what is wrong with it."""
        volume, end, file = held.need.record.volume, held.need.end, held.file
        assert file is not None  # noqa: S101 - a volume that is fetched has its room
        unpacker = zstandard.ZstdDecompressor().stream_reader(
            _Chunks(stream.packed, self._count),  # type: ignore[arg-type]  # it has what is used of a file
            read_across_frames=True,
        )
        buffer = memoryview(bytearray(_STEP))
        at = 0
        while at < end:
            try:
                size = unpacker.readinto(buffer[: end - at])
            except zstandard.ZstdError as error:
                return IntegrityError(f'volume "{volume}" cannot be unpacked: {error}')
            if not size:
                return SignatureError(
                    f'map refers to bytes beyond the end of volume "{volume}" ({at} bytes)'
                )
            _write(file, at, buffer[:size])
            at += size
            with self._changed:
                held.have = max(held.have, at)
                self._changed.notify_all()
            self._breathe(held, stream)
        return None

    def _breathe(self, held: _Held, stream: _Stream) -> None:
        """Let others go first while nobody waits for this volume, and somebody for another."""
        with self._changed:
            while True:
                if stream.is_stopped or self._closed:
                    raise _Stopped
                if held.waiting or not self._waiting:
                    return
                self._changed.wait()

    def _count(self, size: int) -> None:
        with self._changed:
            self._fetched_bytes += size


class _Chunks:
    """A hand-off of bytes as something to read from; `on_read` hears how many came."""

    def __init__(self, chunks: Handoff[bytes], on_read: Callable[[int], None]) -> None:
        self._chunks = iter(chunks)
        self._on_read = on_read

    def read(self, _size: int = -1, /) -> bytes:
        chunk = next(self._chunks, b"")
        self._on_read(len(chunk))
        return chunk


def _is_missing(error: IntegrityError) -> bool:
    return isinstance(error.__cause__, ObjectMissingError)


def _again(error: SnapVaultError) -> SnapVaultError:
    """Return an error of its own for each thread that is told the same."""
    return type(error)(str(error), hint=error.hint)


def _fill(file: BinaryIO, offset: int, view: memoryview) -> None:
    try:
        while view:
            size = os.preadv(file.fileno(), [view], offset)
            if not size:
                raise RestoreError("the cache of volumes was cut short")
            offset, view = offset + size, view[size:]
    except OSError as error:
        raise _disk_failed(error) from error


def _write(file: BinaryIO, offset: int, data: memoryview) -> None:
    try:
        while data:
            size = os.pwrite(file.fileno(), data, offset)
            offset, data = offset + size, data[size:]
    except OSError as error:
        raise _disk_failed(error) from error


def _disk_failed(error: OSError) -> RestoreError:
    return RestoreError(
        f"could not use the cache of volumes: {(error.strerror or str(error)).lower()}"
    )
