# SPDX-License-Identifier: Apache-2.0
"""Files of a file system as a tar archive."""

import io
import tarfile
from collections.abc import Callable
from typing import Final

from snapvault.errors import RestoreError
from snapvault.ports.browsing import Entry, EntryKind, FileSystem

_STEP: Final = 1 << 20  # bytes
# Folders in each other: a damaged file system may hold itself. LIMIT: Python calls functions a
# thousand deep, and each folder takes one.
_DEEPEST: Final = 500


class Archive:
    """Writes files and folders of one file system as a tar archive (pax).

    Files with several names become links, as far as the names are in the archive. Devices, sockets
    and pipes are left out, and told.
    """

    def __init__(
        self,
        files: FileSystem,
        write: Callable[[memoryview], object],
        *,
        left_out: Callable[[str], None],
    ) -> None:
        self._files = files
        self._left_out = left_out
        self._names: dict[int, str] = {}
        self._tar = tarfile.open(  # noqa: SIM115 - closed by `finish`
            fileobj=_Writer(write),
            mode="w|",
            format=tarfile.PAX_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
        )
        self.written = 0
        """Files and links that are in the archive."""
        self.bytes = 0
        """Bytes of those files."""

    def add(self, path: str, entry: Entry, name: str) -> None:
        """Add what lies at a path of the file system, and all below it, under another name.

        Raises:
            SnapVaultError: something cannot be read.
        """
        if path.count("/") > _DEEPEST:
            raise RestoreError(
                f'folders lie in each other without end below "{path[:200]}"',
                hint="The file system is damaged: check it with its own tool.",
            )
        if entry.kind is EntryKind.OTHER:
            self._left_out(path)
            return
        self._add(entry, name)
        if entry.kind is EntryKind.FOLDER:
            for child in self._files.list(path):
                self.add(f"{path}/{child.name}" if path else child.name, child, _below(name, child))

    def finish(self) -> None:
        """Write the end of the archive."""
        self._tar.close()

    def _add(self, entry: Entry, name: str) -> None:
        info = tarfile.TarInfo(name)
        info.mode, info.uid, info.gid = entry.mode, entry.owner, entry.group
        info.mtime = entry.modified
        if entry.kind is EntryKind.FOLDER:
            info.type = tarfile.DIRTYPE
            self._tar.addfile(info)
            return
        self.written += 1
        if entry.kind is EntryKind.LINK:
            info.type, info.linkname = tarfile.SYMTYPE, entry.target
            self._tar.addfile(info)
            return
        first = self._names.setdefault(entry.number, name)
        if entry.links > 1 and first != name:
            info.type, info.linkname = tarfile.LNKTYPE, first
            self._tar.addfile(info)
            return
        info.size = entry.size
        self.bytes += entry.size
        self._tar.addfile(info, io.BufferedReader(_File(self._files, entry), _STEP))


def _below(name: str, child: Entry) -> str:
    return child.name if name in {"", "."} else f"{name}/{child.name}"


class _Writer(io.RawIOBase):
    """What the archive is written to, as the library wants it."""

    def __init__(self, write: Callable[[memoryview], object]) -> None:
        super().__init__()
        self._write = write

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override] # what it is called with
        self._write(memoryview(data))
        return len(data)


class _File(io.RawIOBase):
    """A file of a file system."""

    def __init__(self, files: FileSystem, entry: Entry) -> None:
        super().__init__()
        self._files = files
        self._entry = entry
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # what it is called with
        view = memoryview(buffer).cast("B")
        data = self._files.read(self._entry, self._at, len(view))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
