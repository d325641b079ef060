# SPDX-License-Identifier: Apache-2.0
"""Files that hold frames of volumes, in clear and without names: they are gone with the process."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from snapvault.errors import RestoreError
from snapvault.formats.volume import FRAME_SIZE

_ABSENT, _ROOM, _HERE = range(3)  # states of a frame


class VolumeFile:
    """Frames of one volume, where they belong; the last one ends at `end`.

    Writing and reading are safe from several threads; for all else their owner has a lock.
    """

    def __init__(self, folder: Path, end: int) -> None:
        self._folder = folder
        self._end = end
        self._file: BinaryIO | None = None
        self._states = bytearray(-(-end // FRAME_SIZE))
        self.taken = 0
        """Bytes that have room."""

    @property
    def is_open(self) -> bool:
        """Whether there is a file at all."""
        return self._file is not None

    @property
    def frames(self) -> int:
        """How many frames there can be."""
        return len(self._states)

    @property
    def is_complete(self) -> bool:
        """Whether all of them are here."""
        return self._states.count(_HERE) == len(self._states)

    def has(self, number: int) -> bool:
        """Tell whether a frame is here."""
        return self._states[number] == _HERE

    def size_of(self, number: int) -> int:
        """Return the bytes of a frame, up to the end."""
        return min(FRAME_SIZE, self._end - number * FRAME_SIZE)

    def room_for(self, numbers: Sequence[int]) -> int:
        """Return how many bytes more some frames take."""
        return sum(self.size_of(each) for each in numbers if self._states[each] == _ABSENT)

    def take_room(self, numbers: Sequence[int]) -> None:
        """Take the room of some frames, as far as there is any.

        Raises:
            OSError: there is none.
        """
        if self._file is None:
            # Nameless: the data of a backup in clear must not outlive the process.
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
        for number in numbers:
            if self._states[number] == _ABSENT:
                size = self.size_of(number)
                os.posix_fallocate(self._file.fileno(), number * FRAME_SIZE, size)
                self._states[number] = _ROOM
                self.taken += size

    def mark(self, number: int) -> None:
        """Note that a frame is here."""
        self._states[number] = _HERE

    def drop(self) -> None:
        """Give the room back; nothing is here any more."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._states = bytearray(len(self._states))
        self.taken = 0

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes that have room.

        Raises:
            RestoreError: the file system fails.
        """
        try:
            while data:
                size = os.pwrite(self._descriptor(), data, offset)
                offset, data = offset + size, data[size:]
        except OSError as error:
            raise _disk_failed(error) from error

    def fill(self, offset: int, view: memoryview) -> None:
        """Fill the view with bytes that are here.

        Raises:
            RestoreError: the file system fails.
        """
        try:
            while view:
                size = os.preadv(self._descriptor(), [view], offset)
                if not size:
                    raise RestoreError("the cache of volumes was cut short")
                offset, view = offset + size, view[size:]
        except OSError as error:
            raise _disk_failed(error) from error

    def _descriptor(self) -> int:
        if self._file is None:
            raise RestoreError("the cache of volumes was cut short")
        return self._file.fileno()


def _disk_failed(error: OSError) -> RestoreError:
    return RestoreError(
        f"could not use the cache of volumes: {(error.strerror or str(error)).lower()}"
    )
