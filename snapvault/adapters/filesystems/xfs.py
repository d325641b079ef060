# SPDX-License-Identifier: Apache-2.0
"""XFS, as libfsxfs reads it. Its journal is not played back, as with the others."""

import os
import stat
from collections.abc import Iterable
from typing import Any, Final

import pyfsxfs

from snapvault.adapters.filesystems.pages import LIBRARY_ERRORS, Pages, PagesFile
from snapvault.adapters.filesystems.tree import Tree
from snapvault.errors import RestoreError
from snapvault.ports.browsing import Entry, EntryKind, FileSystem

MAGIC: Final = b"XFSB"


def open_xfs(pages: Pages, name: str) -> FileSystem:
    """Open a file system that begins as one of XFS does.

    Raises:
        RestoreError: it is none, or damaged.
        SnapVaultError: its beginning cannot be had.
    """
    volume = pyfsxfs.volume()
    try:
        volume.open_file_object(PagesFile(pages))
    except LIBRARY_ERRORS as error:
        pages.raise_failure()
        raise RestoreError(f'the xfs file system of "{name}" cannot be read') from error
    return XfsTree(volume, pages, "xfs", name)


class XfsTree(Tree):
    """One file system of XFS."""

    def __init__(self, library: Any, pages: Pages, kind: str, name: str) -> None:
        super().__init__(pages, kind, name)
        self._volume = library

    def _root(self) -> Entry:
        return _entry("", self._volume.get_root_directory())

    def _entries(self, number: int) -> Iterable[Entry]:
        folder = self._volume.get_file_entry_by_inode(number)
        for index in range(folder.get_number_of_sub_file_entries()):
            each = folder.get_sub_file_entry(index)
            yield _entry(each.get_name(), each)

    def _read(self, number: int, offset: int, length: int) -> bytes:
        file = self._volume.get_file_entry_by_inode(number)
        return bytes(file.read_buffer_at_offset(length, offset))


def _entry(name: str, each: Any) -> Entry:
    mode = each.get_file_mode()
    kind = EntryKind.OTHER
    if stat.S_ISREG(mode):
        kind = EntryKind.FILE
    elif stat.S_ISDIR(mode):
        kind = EntryKind.FOLDER
    elif stat.S_ISLNK(mode):
        kind = EntryKind.LINK
    target = each.get_symbolic_link_target() if kind is EntryKind.LINK else ""
    return Entry(
        name=os.fsdecode(os.fsencode(name)),
        kind=kind,
        number=each.get_inode_number(),
        size=each.get_size() or 0,
        mode=stat.S_IMODE(mode),
        owner=each.get_owner_identifier(),
        group=each.get_group_identifier(),
        modified=each.get_modification_time_as_integer() / 1e9,
        links=each.get_number_of_links(),
        target=target or "",
    )
