# SPDX-License-Identifier: Apache-2.0
"""Raw bytes of volumes at random: fetched where somebody asks, kept in files of bounded size.

Where a volume can be opened in parts, only those of its frames are fetched that are asked for,
and more ahead the longer reads go on in order. Any other volume is one encrypted message, whose
first byte comes first: it is fetched whole, and whoever waits goes on as soon as their bytes came
by. The files have no names: what is in them is gone with the process.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from threading import Condition, Thread, current_thread
from typing import Final

from snapvault import clock
from snapvault.engine import fetch
from snapvault.engine.excerpts import SMALLEST
from snapvault.engine.volume_files import VolumeFile
from snapvault.engine.volume_frames import open_frames, stream_volume
from snapvault.engine.volume_room import Held, Job, Need, Room
from snapvault.errors import (
    IntegrityError,
    ObjectMissingError,
    RestoreError,
    SealError,
    SignatureError,
    SnapVaultError,
    StoreError,
)
from snapvault.formats.volume import FRAME_SIZE
from snapvault.ports.events import Events
from snapvault.ports.sealer import Sealer
from snapvault.ports.store import StoreReader
from snapvault.ports.throttle import GivenUp
from snapvault.units import format_size

JOBS: Final = 6
"""Fetches at once, at the most."""

TRUST_AGAIN: Final = 60.0
"""Seconds until a volume that was found damaged is fetched again."""

_AHEAD: Final = 2  # frames in a row that are here, for each that is fetched ahead
_CLOSING: Final = 2.0  # seconds to wait for threads at the end


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
        self._held = {
            volume: Held(need, VolumeFile(folder, need.end)) for volume, need in needs.items()
        }
        self._changed = Condition()
        self._room = Room(
            self._held.values(), limit, folder=folder, on_drop=self._changed.notify_all
        )
        self._turns = count(1)
        self._waiting: dict[int, Held] = {}  # by turn, the first first
        self._jobs = 0
        self._in_parts = True
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
        """Of how many of them anything was asked of the store so far."""
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
            return self._room.taken

    def read_into(self, volume: str, offset: int, view: memoryview) -> None:
        """Fill the view with raw bytes of a volume, which are not proven yet; may wait for them.

        Raises:
            IntegrityError: the volume is missing or damaged where they are.
            StoreError: the store fails.
            KeyMissingError, SealError: no key here opens it.
            RestoreError: there is no room for it, or the cache is closed.
        """
        held = self._held[volume]
        with self._changed:
            self._wait_for(held, offset, offset + len(view))
            held.reading += 1
        try:
            held.file.fill(offset, view)
        finally:
            with self._changed:
                held.reading -= 1
                self._let_go(held)

    def forget(self, volume: str) -> bool:
        """Drop what is here of a volume, since it is not what it should be; it is fetched whole.

        Returns False, and keeps it, when it was dropped not long ago: fetching does not help.
        """
        held = self._held[volume]
        with self._changed:
            if clock.monotonic() - held.distrusted < TRUST_AGAIN:
                return False
            held.distrusted = clock.monotonic()
            while not held.is_still and not self._closed:
                for job in held.jobs:
                    job.is_stopped = True
                self._changed.wait()
            if held.is_still:
                self._room.drop(held)
                held.is_whole = True
            return True

    def close(self) -> None:
        """Stop fetching, let those who wait fail, and give the room back; safe to repeat."""
        with self._changed:
            self._closed = True
            for held in self._held.values():
                self._let_go(held)
            threads = list(self._threads)
        deadline = clock.monotonic() + _CLOSING
        for thread in threads:
            thread.join(max(0.0, deadline - clock.monotonic()))

    # --- with the lock held ----------------------------------------------------------------

    def _wait_for(self, held: Held, begin: int, end: int) -> None:
        if end > held.need.end:
            raise ValueError(f"asked for {end} of {held.need.end} bytes")
        numbers = range(begin // FRAME_SIZE, -(-end // FRAME_SIZE))
        turn = held.used = next(self._turns)
        held.waiting += 1
        self._waiting[turn] = held
        job: Job | None = None
        try:
            while True:
                if self._closed:
                    raise RestoreError("the restore point is not served any more")
                missing = [number for number in numbers if not held.file.has(number)]
                if not missing:
                    return
                if job is not None and job.error is not None:
                    raise _again(job.error)
                job = held.job_for(missing[0]) or held.leader
                if job is None:
                    job = self._start(held, missing, is_first=turn == next(iter(self._waiting)))
                self._wait(job)
        finally:
            del self._waiting[turn]
            held.waiting -= 1
            self._changed.notify_all()

    def _wait(self, job: Job | None) -> None:
        """Wait until something changes; a job that is waited for is not stopped meanwhile."""
        if job is not None:
            job.waiting += 1
        try:
            self._changed.wait()
        finally:
            if job is not None:
                job.waiting -= 1

    def _start(self, held: Held, missing: Sequence[int], *, is_first: bool) -> Job | None:
        """Start to fetch frames; None if there is no place for them yet: something changes then."""
        if self._jobs >= JOBS:
            self._stop_one()
            return None
        in_parts = self._in_parts and held.need.record.size >= SMALLEST
        is_whole = held.is_whole or not in_parts
        if is_whole:
            self._refuse(held)
            numbers: Sequence[int] = [
                number for number in range(held.file.frames) if held.job_for(number) is None
            ]
            if not self._room.make(held, numbers, is_first=is_first):
                return None
        else:
            asked = _in_a_row(missing)
            numbers = self._window(held, asked)
            if not self._room.make(held, numbers, is_first=is_first):
                numbers = asked
                if not self._room.make(held, numbers, is_first=is_first):
                    return None
        job = Job(is_whole, numbers)
        held.jobs.append(job)
        if is_whole or held.frames is None:
            held.leader = job
        self._jobs += 1
        thread = Thread(target=self._run, args=(held, job), name="volume", daemon=True)
        self._threads.add(thread)
        thread.start()
        return job

    def _window(self, held: Held, asked: range) -> range:
        """Return what is asked for, and more ahead the longer the row is that goes before it."""
        row = 0
        while row < asked.start and self._is_coming(held, asked.start - row - 1):
            row += 1
        most = min(held.file.frames, asked.stop + row // _AHEAD)
        end = asked.stop
        while end < most and not self._is_coming(held, end):
            end += 1
        return range(asked.start, end)

    def _is_coming(self, held: Held, number: int) -> bool:
        return held.file.has(number) or held.job_for(number) is not None

    def _refuse(self, held: Held) -> None:
        """Raise what is known to be wrong with a volume, for a while."""
        if held.refusal is None:
            return
        if clock.monotonic() - held.distrusted < TRUST_AGAIN:
            raise _again(held.refusal)
        held.refusal = None

    def _stop_one(self) -> None:
        """Ask that fetching to stop which nobody waits for, and nobody did for longest."""
        running = [
            (held.used, job) for held in self._held.values() for job in held.jobs if not job.waiting
        ]
        if running and not any(job.is_stopped for _, job in running):
            min(running, key=lambda each: each[0])[1].is_stopped = True

    def _let_go(self, held: Held) -> None:
        """Hear that something has ended, or is to."""
        if self._closed:
            for job in held.jobs:
                job.is_stopped = True
            if held.is_still:
                self._room.drop(held)
        self._changed.notify_all()

    # --- one fetching, on a thread of its own ------------------------------------------------

    def _run(self, held: Held, job: Job) -> None:
        error: SnapVaultError | None = None
        record = held.need.record
        with self._changed:
            self._fetched.add(record.volume)
        try:
            if job.is_whole:
                self._fetch_whole(held, job)
            else:
                self._fetch_parts(held, job)
        except (_Stopped, GivenUp):
            pass
        except SnapVaultError as failure:
            error = failure
        except BaseException as failure:  # noqa: BLE001 - whoever waits for the bytes is told
            error = RestoreError(f'could not fetch volume "{record.volume}": {failure!r}')
        with self._changed:
            is_news = self._end(held, job, error)
            is_all_here = error is None and held.file.is_complete
        if is_news:
            self._events.warn("volume.failed", str(error), volume=record.volume)
        elif is_all_here:
            self._events.emit("volume.fetched", volume=record.volume, size_bytes=record.size)
        with self._changed:
            self._threads.discard(current_thread())

    def _end(self, held: Held, job: Job, error: SnapVaultError | None) -> bool:
        """Note how a job ended, with the lock held; return whether that is news."""
        self._jobs -= 1
        held.jobs.remove(job)
        if held.leader is job:
            held.leader = None
        job.error = error
        is_news = error is not None and str(error) != held.told and not self._closed
        if error is not None:
            held.told = str(error)
        # Asking again for what is missing costs little, and a store may come back.
        if isinstance(error, IntegrityError) and not _is_missing(error):
            held.refusal = error
            held.distrusted = clock.monotonic()
            # Frames that are good may still be had one by one.
            held.is_whole = held.is_whole and held.frames is None
        self._let_go(held)
        return is_news

    def _fetch_parts(self, held: Held, job: Job) -> None:
        """Fetch some frames; whatever is wrong with them, the whole volume says what it is."""
        record = held.need.record
        try:
            look = fetch.part_reader(self._store, record, self._count)
            frames = held.frames or open_frames(self._sealer, record, look, held.need.end)
            with self._changed:
                held.frames = frames
                held.is_whole = frames is None
                held.leader = None if held.leader is job else held.leader
                self._changed.notify_all()
            if frames is not None:
                for number, raw in frames.read(job.numbers[0], job.numbers[-1] + 1):
                    self._keep(held, job, number * FRAME_SIZE, raw)
        except (IntegrityError, ObjectMissingError, SealError):
            held.is_whole = True
        except StoreError as error:
            if error.retryable:
                raise
            self._in_parts = False

    def _fetch_whole(self, held: Held, job: Job) -> None:
        at = 0

        def take(raw: memoryview) -> None:
            nonlocal at
            self._keep(held, job, at, raw)
            at += len(raw)

        stream_volume(self._store, self._sealer, held.need.record, take, self._count)
        if at < held.need.end:
            raise SignatureError(
                f'map refers to bytes beyond the end of volume "{held.need.record.volume}"'
                f" ({at} bytes)"
            )
        held.told = ""

    def _keep(self, held: Held, job: Job, at: int, raw: memoryview) -> None:
        """Write raw bytes that come in order where they belong, but not over what is here."""
        end = min(at + len(raw), held.need.end)
        for number in range(at // FRAME_SIZE, -(-end // FRAME_SIZE)):
            with self._changed:
                if job.is_stopped:
                    raise _Stopped
                is_here = held.file.has(number)
            begin = number * FRAME_SIZE
            stop = begin + held.file.size_of(number)
            if not is_here:
                start = max(at, begin)
                held.file.write(start, raw[start - at : min(end, stop) - at])
            if stop <= end:
                with self._changed:
                    held.file.mark(number)
                    self._changed.notify_all()

    def _count(self, size: int) -> None:
        with self._changed:
            self._fetched_bytes += size


def _in_a_row(numbers: Sequence[int]) -> range:
    """Return the numbers at the start that have no gap between them."""
    end = numbers[0]
    while end - numbers[0] < len(numbers) and numbers[end - numbers[0]] == end:
        end += 1
    return range(numbers[0], end)


def _is_missing(error: IntegrityError) -> bool:
    return isinstance(error.__cause__, ObjectMissingError)


def _again(error: SnapVaultError) -> SnapVaultError:
    """Return an error of its own for each thread that is told the same."""
    return type(error)(str(error), hint=error.hint)
