# SPDX-License-Identifier: Apache-2.0
"""A timeline that the processes of a host share: one number in a small file, under a lock."""

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

from snapvault import clock
from snapvault.adapters.timeline import OwnTimeline, start_of
from snapvault.ports.events import Events

# boot id 36s | free from, in seconds of the clock since boot, f64, in the host's own order
_RECORD: Final = struct.Struct("=36sd")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_TRIES: Final = 1000
_PAUSE: Final = 0.001  # seconds; the lock is held for microseconds
_AT_ONCE: Final = (
    0.1  # seconds that are booked in the file; system calls for each piece would add up
)


class SharedTimeline:
    """The timeline in a file, which is made when it is missing and anew when it makes no sense.

    Where it cannot be kept (a full disk, somebody else's folder), this process goes by a timeline
    of its own from then on, and says so. For one thread at a time.
    """

    def __init__(self, path: Path, events: Events) -> None:
        self._path = path
        self._events = events
        self._boot = _boot_id()
        self._descriptor: int | None = None
        self._alone: OwnTimeline | None = None
        # What is booked and not given out, or given out and not booked yet, in seconds; and where.
        self._left = 0.0
        self._next = 0.0

    def book(self, seconds: float) -> float:
        """Book a stretch behind all that is booked; return when it begins."""
        if self._alone is None:
            try:
                if self._left <= 0:
                    wanted = max(_AT_ONCE, seconds) - self._left
                    self._next = max(self._next, self._book(wanted))
                    self._left += wanted
            except OSError as error:
                self._alone = OwnTimeline()
                reason = (error.strerror or str(error)).lower()
                self._events.warn(
                    "limits.unshared",
                    f'could not use "{self._path}": {reason}; this run keeps to the'
                    f' host\'s limit "{self._path.name}" by itself, whatever others take',
                )
            else:
                start = self._next
                self._next += seconds
                self._left -= seconds
                return start
        return self._alone.book(seconds)

    def _book(self, seconds: float) -> float:
        descriptor = self._locked()
        try:
            start = start_of(self._read(descriptor), clock.monotonic())
            os.pwrite(descriptor, _RECORD.pack(self._boot, start + seconds), 0)
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        return start

    def _locked(self) -> int:
        """Return the file, locked; it is the one that others find at its path."""
        if self._descriptor is not None and not os.fstat(self._descriptor).st_nlink:
            self.close()
        if self._descriptor is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self._path, flags, 0o600)
        for _ in range(_TRIES):
            with suppress(BlockingIOError):
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return self._descriptor
            clock.sleep(_PAUSE)
        raise TimeoutError("another process does not let go of it")

    def _read(self, descriptor: int) -> float:
        """Return from when on the timeline is free; what a former boot booked is over."""
        try:
            boot, free_from = _RECORD.unpack(os.pread(descriptor, _RECORD.size + 1, 0))
        except struct.error:
            os.ftruncate(descriptor, 0)
            return 0.0
        return float(free_from) if boot == self._boot else 0.0

    def close(self) -> None:
        """Let go of the file; safe to repeat."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _boot_id() -> bytes:
    """Return what tells this boot from all others: after the next one the clock starts again."""
    try:
        return _BOOT_ID.read_bytes().strip()[:36]
    except OSError:
        return b""
