# SPDX-License-Identifier: Apache-2.0
"""A source that refuses disks whose restore in place was not finished."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from snapvault.adapters.half_restored import mark_of
from snapvault.errors import SourceError
from snapvault.ports.source import NO_MARKS, Finding, Source, View


class WholeSource:
    """Passes everything on, once none of the files and block devices of its disks is marked.

    `devices` is the folder for marks of block devices.
    """

    def __init__(self, inner: Source, disks: Sequence[Path], *, devices: Path) -> None:
        self.inner = inner
        self._disks = tuple(disks)
        self._devices = devices

    @property
    def name(self) -> str:
        """The source's name, unique in its vault."""
        return self.inner.name

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> View:
        """Open the source.

        Raises:
            SourceError: a disk is half restored, which would be kept as if it were a state of it.
            and all that the source raises.
        """
        for error in self._half_restored():
            raise error
        return self.inner.open(marks)

    def check(self) -> Iterator[Finding]:
        """Say which disks are half restored, and look at the source."""
        for error in self._half_restored():
            yield Finding("restore", str(error), error)
        yield from self.inner.check()

    def _half_restored(self) -> Iterator[SourceError]:
        for disk in self._disks:
            mark = mark_of(disk, self._devices)
            words = mark.read()
            if words is None:
                continue
            source = words.get("source", "SOURCE")
            yield SourceError(
                f'cannot back up "{disk}": it is half restored, a restore of source "{source}" into'
                " it was not finished",
                hint=f'Finish it: snapvault restore {source} --to "{disk}" --in-place; or remove '
                f'"{mark.file}" if what is there is to be backed up as it is.',
            )
