# SPDX-License-Identifier: Apache-2.0
"""The files that lie in the file systems of a disk, read-only."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Readable(Protocol):
    """Bytes that can be read at random. Safe from several threads."""

    @property
    def size(self) -> int:
        """How many bytes there are."""
        ...

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Return the bytes of a range that lies inside.

        Raises:
            SnapVaultError: they cannot be had.
        """
        ...


class EntryKind(StrEnum):
    """What a name in a folder stands for; `OTHER`: a device, a socket, a pipe."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder, as its file system has it.

    `name` never has a slash, nor is it `.` or `..`; what is not UTF-8 in it is escaped as the
    operating system's names are (`os.fsdecode`). `number` identifies the file in its file
    system, `mode` are the permission bits, `modified` is in seconds since 1970. `target` is
    what a link points to.
    """

    name: str
    kind: EntryKind
    number: int
    size: int
    mode: int
    owner: int
    group: int
    modified: float
    links: int = 1
    target: str = ""


class FileSystem(Protocol):
    """One file system. Safe from several threads.

    Paths are relative to its root, without `.` and `..`; the empty path is the root.
    """

    @property
    def kind(self) -> str:
        """What Linux calls it: `ext4`, `xfs`, `ntfs`."""
        ...

    def find(self, path: str) -> Entry | None:
        """Return what a path names; None if there is no such thing. Links are not followed.

        Raises:
            SnapVaultError: what has to be read for it cannot be had, or makes no sense.
        """
        ...

    def list(self, path: str) -> Sequence[Entry]:
        """Return what a folder holds, sorted by name.

        Raises:
            RestoreError: there is no such folder.
            SnapVaultError: as above.
        """
        ...

    def read(self, entry: Entry, offset: int, length: int) -> bytes:
        """Return bytes of a file, fewer only at its end.

        Raises:
            SnapVaultError: as above.
        """
        ...


@dataclass(frozen=True, slots=True)
class Volume:
    """A part of a disk, or a whole one, that may hold a file system.

    `name` is that of the disk's stream; of a partition `stream:number`, as Linux counts them; of a
    logical volume `lvm:group-volume`. `kind` is what it holds, None if nothing is known of it;
    `files` gives its files, None where this kind is not one that can be read.
    """

    name: str
    kind: str | None
    data: Readable
    files: FileSystem | None
