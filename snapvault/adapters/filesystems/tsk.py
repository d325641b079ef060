# SPDX-License-Identifier: Apache-2.0
"""ext2 to ext4, NTFS, FAT and others, as The Sleuth Kit reads them (pytsk3).

Journals are not played back: what a machine had not yet written to its place when the snapshot was
taken is seen as it was before.
"""

import os
from collections.abc import Iterable
from typing import Any, Final

import pytsk3

from snapvault.adapters.filesystems.pages import LIBRARY_ERRORS, Pages
from snapvault.adapters.filesystems.tree import Tree
from snapvault.ports.browsing import Entry, EntryKind, FileSystem

_KINDS: Final = {
    int(pytsk3.TSK_FS_TYPE_EXT2): "ext2",
    int(pytsk3.TSK_FS_TYPE_EXT3): "ext3",
    int(pytsk3.TSK_FS_TYPE_EXT4): "ext4",
    int(pytsk3.TSK_FS_TYPE_NTFS): "ntfs",
    int(pytsk3.TSK_FS_TYPE_FAT12): "vfat",
    int(pytsk3.TSK_FS_TYPE_FAT16): "vfat",
    int(pytsk3.TSK_FS_TYPE_FAT32): "vfat",
    int(pytsk3.TSK_FS_TYPE_EXFAT): "exfat",
    int(pytsk3.TSK_FS_TYPE_HFS): "hfsplus",
    int(pytsk3.TSK_FS_TYPE_ISO9660): "iso9660",
    int(pytsk3.TSK_FS_TYPE_FFS1): "ufs",
    int(pytsk3.TSK_FS_TYPE_FFS2): "ufs",
}
_TYPES: Final = {
    int(pytsk3.TSK_FS_META_TYPE_REG): EntryKind.FILE,
    int(pytsk3.TSK_FS_META_TYPE_DIR): EntryKind.FOLDER,
    int(pytsk3.TSK_FS_META_TYPE_LNK): EntryKind.LINK,
}
# What the library shows though no folder holds it.
_VIRTUAL: Final = {int(pytsk3.TSK_FS_META_TYPE_VIRT), int(pytsk3.TSK_FS_META_TYPE_VIRT_DIR)}
_UNALLOCATED: Final = int(pytsk3.TSK_FS_NAME_FLAG_UNALLOC)
_NTFS_OWN: Final = 24  # LIMIT: the first file numbers are NTFS's own ($MFT and so on)
_NTFS_ROOT: Final = 5


class Image(pytsk3.Img_Info):  # type: ignore[misc] # the library has no types
    """What the library reads from."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        super().__init__("")

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes; called by the library."""
        return self._pages.read(offset, size)

    def get_size(self) -> int:
        """Return how many there are; called by the library."""
        return self._pages.size

    def close(self) -> None:
        """Do nothing; called by the library."""


def open_tsk(pages: Pages, name: str) -> FileSystem | None:
    """Open what the library knows; None if it knows nothing of it.

    Raises:
        SnapVaultError: its beginning cannot be had.
    """
    try:
        found = pytsk3.FS_Info(Image(pages))
    except LIBRARY_ERRORS:
        found = None
    pages.raise_failure()
    kind = _KINDS.get(int(found.info.ftype)) if found is not None else None
    return TskTree(found, pages, kind, name) if kind is not None else None


class TskTree(Tree):
    """One file system that the library knows."""

    def __init__(self, library: Any, pages: Pages, kind: str, name: str) -> None:
        super().__init__(pages, kind, name)
        self._library_view = library

    def _root(self) -> Entry:
        number = int(self._library_view.info.root_inum)
        return _entry("", self._library_view.open_meta(inode=number).info.meta)

    def _entries(self, number: int) -> Iterable[Entry]:
        for each in self._library_view.open_dir(inode=number):
            name, meta = each.info.name, each.info.meta
            if name is None or meta is None or int(name.flags) & _UNALLOCATED:
                continue
            if int(meta.type) in _VIRTUAL or self._is_own(int(meta.addr)):
                continue
            yield _entry(os.fsdecode(name.name), meta)

    def _read(self, number: int, offset: int, length: int) -> bytes:
        return bytes(self._library_view.open_meta(inode=number).read_random(offset, length))

    def _is_own(self, number: int) -> bool:
        return self.kind == "ntfs" and number < _NTFS_OWN and number != _NTFS_ROOT


def _entry(name: str, meta: Any) -> Entry:
    return Entry(
        name=name,
        kind=_TYPES.get(int(meta.type), EntryKind.OTHER),
        number=int(meta.addr),
        size=int(meta.size),
        mode=int(meta.mode) & 0o7777,
        owner=int(meta.uid),
        group=int(meta.gid),
        modified=int(meta.mtime) + int(meta.mtime_nano) / 1e9,
        links=max(1, int(meta.nlink)),
        target=os.fsdecode(meta.link) if meta.link else "",
    )
