# SPDX-License-Identifier: Apache-2.0
"""What lies on disks: partitions, logical volumes, and the file systems in them."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import pytsk3
import pyvslvm

from snapvault.adapters.filesystems import tsk, xfs
from snapvault.adapters.filesystems.pages import LIBRARY_ERRORS, Pages, PagesFile, Part
from snapvault.errors import RestoreError
from snapvault.ports.browsing import FileSystem, Readable, Volume

_SECTOR: Final = 512
_HEAD: Final = 72 << 10  # bytes; all that tells kinds apart lies before
_LVM: Final = "lvm"
# (where, what stands there, kind). SOURCE: libblkid's superblock probes.
_SIGNS: Final = (
    (0, xfs.MAGIC, "xfs"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (0, b"LUKS\xba\xbe", "luks"),
    (4086, b"SWAPSPACE2", "swap"),
    *((sector * _SECTOR, b"LABELONE", _LVM) for sector in range(4)),
)
_DOS: Final = {int(pytsk3.TSK_VS_TYPE_DOS)}
_ALLOCATED: Final = int(pytsk3.TSK_VS_PART_FLAG_ALLOC)
# LVM allows no other characters; a guest may write any, and names become those of files here.
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9+_.-]")
_LOGICAL: Final = 5  # the number that Linux gives the first partition of an extended one


def find_volumes(
    disks: Mapping[str, Readable], *, unreadable: Callable[[RestoreError], None]
) -> list[Volume]:
    """Return what lies on the disks of one machine, by their streams' names, in order.

    A volume group may lie on several of them. `unreadable` is told of file systems that look like
    one but cannot be read.

    Raises:
        SnapVaultError: what has to be read for it cannot be had.
    """
    found: list[Volume] = []
    physical: list[Pages] = []
    for stream, disk in disks.items():
        for name, data in _parts(stream, disk):
            pages = Pages(data)
            kind = _kind(pages)
            if kind == _LVM:
                physical.append(pages)
                found.append(Volume(name, kind, data, None))
            else:
                found.append(_volume(name, kind, data, pages, unreadable))
    for name, data in _logical_volumes(physical):
        pages = Pages(data)
        found.append(_volume(name, _kind(pages), data, pages, unreadable))
    return found


def _volume(
    name: str,
    kind: str | None,
    data: Readable,
    pages: Pages,
    unreadable: Callable[[RestoreError], None],
) -> Volume:
    files: FileSystem | None = None
    try:
        if kind == "xfs":
            files = xfs.open_xfs(pages, name)
        elif kind is None:
            files = tsk.open_tsk(pages, name)
    except RestoreError as error:
        unreadable(error)
    return Volume(name, files.kind if files else kind, data, files)


def _kind(pages: Pages) -> str | None:
    head = _checked(pages, 0, min(_HEAD, pages.size))
    for at, sign, kind in _SIGNS:
        if head[at : at + len(sign)] == sign:
            return kind
    return None


def _checked(pages: Pages, offset: int, length: int) -> bytes:
    try:
        return pages.read(offset, length)
    except LIBRARY_ERRORS:
        pages.raise_failure()
        raise


def _parts(stream: str, disk: Readable) -> Iterator[tuple[str, Readable]]:
    """Return the partitions of a disk, or itself if it has none."""
    pages = Pages(disk)
    try:
        table = pytsk3.Volume_Info(tsk.Image(pages))
    except LIBRARY_ERRORS:
        table = None
    pages.raise_failure()
    parts = _entries(table, disk.size) if table is not None else []
    if not parts:
        yield stream, disk
    for number, offset, size in parts:
        yield f"{stream}:{number}", Part(disk, offset, size)


def _entries(table: Any, limit: int) -> list[tuple[int, int, int]]:
    """Return (number, first byte, bytes) of the partitions that lie on the disk, by number."""
    sector = int(table.info.block_size)
    is_dos = int(table.info.vstype) in _DOS
    logical = _LOGICAL
    found = []
    for each in table:
        if not int(each.flags) & _ALLOCATED:
            continue
        number = int(each.slot_num) + 1
        if is_dos and int(each.table_num) > 0:
            number, logical = logical, logical + 1
        offset, size = int(each.start) * sector, int(each.len) * sector
        if 0 < offset < limit and size > 0:
            found.append((number, offset, min(size, limit - offset)))
    return sorted(found)


def _logical_volumes(physical: Sequence[Pages]) -> Iterator[tuple[str, Readable]]:
    """Return the logical volumes whose physical ones are all there; what is damaged is left out."""
    # The library takes the disks of one group at a time, and does not say whose one is missing:
    # so those of a machine, which most often has one group, are given together, then one by one.
    groups = [list(physical)] if len(physical) > 1 else []
    seen: set[str] = set()
    for disks in [*groups, *([each] for each in physical)]:
        handle = pyvslvm.handle()
        files = [PagesFile(pages) for pages in disks]
        try:
            handle.open_file_object(files[0])
            handle.open_physical_volume_files_as_file_objects(files)
            volumes = list(_of_group(handle))
        except LIBRARY_ERRORS:
            for pages in disks:
                pages.raise_failure()
            continue
        for volume in volumes:
            if volume.name not in seen:
                seen.add(volume.name)
                yield volume.name, volume


def _of_group(handle: Any) -> "Iterator[LogicalVolume]":
    group = handle.get_volume_group()
    for index in range(group.get_number_of_logical_volumes()):
        volume = group.get_logical_volume(index)
        name = _NO_NAME.sub("_", f"{group.get_name()}-{volume.get_name()}")
        yield LogicalVolume(f"lvm:{name}", volume, handle)


class LogicalVolume:
    """A linear logical volume, put together from its extents."""

    def __init__(self, name: str, library: Any, handle: Any) -> None:
        self.name = name
        self.size = int(library.get_size())
        self._volume = library
        self._handle = handle  # goes with it

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes of a range.

        Raises:
            RestoreError: it is no linear volume, or a disk of its group is missing.
        """
        try:
            return bytes(self._volume.read_buffer_at_offset(length, offset))
        except LIBRARY_ERRORS as error:
            raise RestoreError(
                f'logical volume "{self.name}" cannot be read: {error}',
                hint="Only linear volumes can be looked into; restore the disks for the others.",
            ) from error
