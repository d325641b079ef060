# SPDX-License-Identifier: Apache-2.0
"""Volumes as far as they are here, in bounded room; and which of them go when it is full."""

import errno
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from snapvault.engine.volume_files import VolumeFile
from snapvault.engine.volume_frames import VolumeFrames
from snapvault.errors import IntegrityError, RestoreError, SnapVaultError
from snapvault.formats.volume_list import VolumeRecord
from snapvault.units import format_size

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Need:
    """A volume, and how many raw bytes from its start on may be asked for."""

    record: VolumeRecord
    end: int


@dataclass(slots=True, eq=False)
class Job:
    """One fetching of some frames. `error` is how it ended."""

    is_whole: bool
    numbers: Sequence[int] = ()
    waiting: int = 0  # threads
    is_stopped: bool = False
    error: SnapVaultError | None = None


@dataclass(slots=True, eq=False)
class Held:
    """A volume as far as it is here. Its file ends where nothing more may be asked for."""

    need: Need
    file: VolumeFile
    frames: VolumeFrames | None = field(default=None, repr=False)
    is_whole: bool = False  # parts of it do not do
    jobs: list[Job] = field(default_factory=list)
    leader: Job | None = None  # opens it, or fetches all of it: nothing else starts meanwhile
    waiting: int = 0  # threads that wait for bytes of it
    reading: int = 0  # threads that read from the file
    used: int = 0  # when it was last asked for, as a turn
    refusal: IntegrityError | None = None
    told: str = ""  # the last failure that was told
    distrusted: float = -math.inf  # when it was found damaged

    @property
    def is_still(self) -> bool:
        """Whether nothing happens to its file."""
        return not self.jobs and not self.reading

    def job_for(self, number: int) -> Job | None:
        """Return what fetches a frame, if anything does."""
        return next((job for job in self.jobs if number in job.numbers), None)


class Room:
    """The room of some volumes' files, at most `limit` bytes. For all of it its owner has a lock.

    `on_drop` is called when a volume has gone.
    """

    def __init__(
        self, held: Collection[Held], limit: int, *, folder: Path, on_drop: Callable[[], None]
    ) -> None:
        self._held = held
        self._limit = limit
        self._folder = folder
        self._on_drop = on_drop
        self.taken = 0
        """Bytes of all files."""

    def make(self, held: Held, numbers: Sequence[int], *, is_first: bool) -> bool:
        """Take the room of some frames; False while others have it."""
        while self.taken + held.file.room_for(numbers) > self._limit:
            if not self._drop_one(held, is_first=is_first):
                return False
        while True:
            before = held.file.taken
            try:
                held.file.take_room(numbers)
            except OSError as error:
                if error.errno not in _FULL or not self.taken:
                    size = format_size(held.file.room_for(numbers))
                    raise RestoreError(
                        f'could not keep {size} of a volume in folder "{self._folder}": '
                        f"{(error.strerror or str(error)).lower()}",
                        hint="Free room there, or move state_dir.",
                    ) from error
            else:
                return True
            finally:
                self.taken += held.file.taken - before
            if not self._drop_one(held, is_first=is_first):
                return False

    def _drop_one(self, wanting: Held, *, is_first: bool) -> bool:
        """Drop the volume that was not asked for longest; False if that takes a while.

        Whoever waits longest of all may take the room of others who wait, too, and so no two of
        them wait for each other.
        """
        others = [each for each in self._held if each.file.is_open and each is not wanting]
        idle = [each for each in others if not each.waiting and not each.reading]
        if idle:
            oldest = min(idle, key=lambda each: each.used)
            for job in oldest.jobs:
                job.is_stopped = True
            if oldest.jobs:
                return False
        else:
            still = [each for each in others if each.is_still]
            if not others and wanting.is_still:
                still = [wanting]
            if not is_first or not still:
                return False
            oldest = min(still, key=lambda each: each.used)
        self.drop(oldest)
        return True

    def drop(self, held: Held) -> None:
        """Let a volume go, to whose file nothing happens."""
        self.taken -= held.file.taken
        held.file.drop()
        held.frames = None
        held.is_whole = False
        self._on_drop()
