# SPDX-License-Identifier: Apache-2.0
"""Files and block devices that are overwritten where they lie, marked until they are whole."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from snapvault.adapters.half_restored import Mark, mark_of
from snapvault.adapters.targets.device import DeviceTarget
from snapvault.adapters.targets.existing import ExistingFile
from snapvault.adapters.targets.opening import TargetKind, kind_of, require_room
from snapvault.errors import RestoreError
from snapvault.model.ranges import Range
from snapvault.ports.target import Target


class _Disk(Target, Protocol):
    """A disk that can be changed where it lies."""

    @property
    def present_bytes(self) -> int: ...
    @property
    def bytes_beyond(self) -> int: ...
    def data_ranges(self) -> Iterator[Range]: ...
    def resize(self) -> None: ...


class InPlaceTarget:
    """A disk with its mark. Nothing of it is changed before `begin`; `abort` leaves it marked.

    It may be read before and after. `room` is the folder whose file system holds it, if it grows.
    """

    def __init__(
        self, disk: _Disk, mark: Mark, words: Mapping[str, str], *, room: Path | None
    ) -> None:
        self._disk = disk
        self._mark = mark
        self._words = dict(words)
        self._room = room
        self._begun = False
        self.found_mark = mark.read()

    @property
    def present_bytes(self) -> int:
        """How many bytes it has; of a device, as many as the stream."""
        return self._disk.present_bytes

    @property
    def bytes_beyond(self) -> int:
        """How many bytes of a device lie beyond the stream, and stay as they are."""
        return self._disk.bytes_beyond

    def data_ranges(self) -> Iterator[Range]:
        """Yield the ranges that may be other than zeros, sorted and disjoint."""
        return self._disk.data_ranges()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Read to fill the whole buffer; zeros beyond the end."""
        self._disk.read_into(offset, buffer)

    def begin(self, growth: int) -> None:
        """Mark it, and give it the stream's size; it will take at most `growth` more bytes of room.

        Raises:
            RestoreError: there is no room, or no mark can be made; the disk is as it was then.
        """
        if self._room is not None:
            require_room(self._room, growth, what=f'what differs in "{self._words["target"]}"')
        # ORDER: the mark is durable before the first write, so that a disk without one is whole.
        self._mark.set(self._words)
        self._begun = True
        self._disk.resize()

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data`."""
        self._require_begun()
        self._disk.write(offset, data)

    def reserve(self, offset: int, length: int) -> None:
        """Take room for a range."""
        self._require_begun()
        self._disk.reserve(offset, length)

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros."""
        self._require_begun()
        self._disk.zero(offset, length)

    def commit(self) -> None:
        """Make it durable, and take the mark away, also one that an earlier run left."""
        # ORDER: bytes are durable before the mark goes.
        self._disk.commit()
        self._mark.clear()

    def abort(self) -> None:
        """Let go of it; it stays marked if anything may have been changed."""
        self._disk.abort()

    def _require_begun(self) -> None:
        if not self._begun:
            raise ValueError("a disk is changed in place that is not marked")


def open_in_place(
    path: Path, size: int, words: Mapping[str, str], *, devices: Path, force: bool
) -> InPlaceTarget:
    """Open a file or block device that is there, for a stream of `size` bytes; changes nothing.

    `words` are what its mark will say, `target` among them. `devices` is the folder for marks of
    block devices. `force` as in `ExistingFile.open`.

    Raises:
        RestoreError: it is not there, is in use, too small, or cannot be written in place.
    """
    kind = kind_of(path)
    mark = mark_of(path, devices)
    if kind is TargetKind.DEVICE:
        # Saying "in place" says that it may be overwritten.
        device = DeviceTarget.open(path, size, force=True)
        return InPlaceTarget(device, mark, words, room=None)
    if kind is TargetKind.FILE:
        file = ExistingFile.open(path, size, force=force)
        return InPlaceTarget(file, mark, words, room=path.resolve().parent)
    if kind is TargetKind.MISSING:
        raise RestoreError(
            f'cannot restore to "{path}" in place: it does not exist',
            hint="Correct the name, or leave out --in-place to make it.",
        )
    raise RestoreError(f'cannot restore to "{path}" in place: it is neither file nor block device')
