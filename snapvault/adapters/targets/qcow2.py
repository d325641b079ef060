# SPDX-License-Identifier: Apache-2.0
"""A disk as a qcow2 image: a file like any other, with tables that say where its clusters lie.

Nothing of QEMU is needed to write one. Every cluster of the disk has one place in the file that
is its own, in the disk's order and behind the tables; those that hold nothing are holes, and are
not in the tables. So bytes can come in any order, and each is written once.

Source: "Qcow2 image file format" in the manual of QEMU for interoperability, version 3.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from snapvault.adapters.targets.file import FileTarget
from snapvault.errors import RestoreError
from snapvault.units import format_size

CLUSTER: Final = 64 << 10  # bytes; what qemu-img takes unless it is told otherwise

_BITS: Final = 16
_ENTRIES: Final = CLUSTER // 8  # of one L2 table, and of a cluster of the L1 or refcount table
_COUNTS: Final = CLUSTER // 2  # counts of 16 bits in one refcount block
_COPIED: Final = np.uint64(1 << 63)  # set where the refcount is exactly one: here everywhere
_SECTOR: Final = 512  # LIMIT: QEMU sees whole sectors of a disk only, bytes
_MOST: Final = 1 << 60  # LIMIT: far below what 55 bits of an offset hold, bytes

# magic 4s | version u32 | backing file u64 u32 | cluster bits u32 | size u64 | encryption u32 |
# L1 entries u32, offset u64 | refcount table offset u64, clusters u32 | snapshots u32 u64 |
# features: incompatible, compatible, autoclear u64 | refcount order u32 | header length u32
_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQQQQII")


class Qcow2Target:
    """A qcow2 image in the making; under its name when it is whole, as any file."""

    def __init__(self, file: FileTarget, layout: "_Layout") -> None:
        self._file = file
        self._layout = layout
        # On a sparse disk most of this table is never written, and takes no memory.
        self._present: NDArray[np.bool_] = np.zeros(layout.clusters, np.bool_)
        self._touched = False

    @classmethod
    def create(cls, path: Path, size: int, *, force: bool, unnamed: bool = True) -> Self:
        """Begin an image of a disk of `size` bytes, all zeros; as `FileTarget.create`.

        The disk ends at a whole sector of 512 bytes, with zeros.

        Raises:
            TargetNotEmptyError: without `force`, the name is taken.
            RestoreError: its folder cannot take it, or it is too large.
        """
        if size > _MOST:
            raise RestoreError(
                f"cannot restore {format_size(size)} as qcow2: such a disk has at most"
                f" {format_size(_MOST)}"
            )
        layout = _Layout(size)
        return cls(FileTarget.create(path, layout.file_size, force=force, unnamed=unnamed), layout)

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data`."""
        self._require_inside(offset, data.nbytes)
        self._touched = True
        self._take(offset, data.nbytes)
        self._file.write(self._layout.data + offset, data)

    def reserve(self, offset: int, length: int) -> None:
        """Take room for a range."""
        self._require_inside(offset, length)
        self._file.reserve(self._layout.data + offset, length)

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros."""
        self._require_inside(offset, length)
        # What no table names reads as zeros.
        if self._touched:
            self._file.zero(self._layout.data + offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Read back what was written."""
        self._require_inside(offset, buffer.nbytes)
        self._file.read_into(self._layout.data + offset, buffer)

    def commit(self) -> None:
        """Write the tables, make all durable, and give it its name."""
        for offset, table in self._layout.tables(self._present):
            self._file.write(offset, memoryview(table))
        self._file.commit()

    def abort(self) -> None:
        """Give up and leave nothing."""
        self._file.abort()

    def _take(self, offset: int, length: int) -> None:
        # Several threads may mark the same cluster: all of them say the same.
        if length:
            self._present[offset >> _BITS : (offset + length - 1 >> _BITS) + 1] = True

    def _require_inside(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self._layout.size:
            raise ValueError(
                f"{length} bytes at offset {offset} are not within {self._layout.size} bytes"
            )


def room_for(size: int, data_bytes: int) -> int:
    """Return the most that an image of a disk takes of a file system, in bytes."""
    layout = _Layout(size)
    return data_bytes + layout.data if data_bytes else 4 * CLUSTER


class _Layout:
    """Where everything lies: header, L1, refcount table, refcount blocks, L2 tables, the disk.

    Tables have a fixed place whether they are needed or not; one without an entry is a hole.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.clusters = -(-size // CLUSTER)
        self.l2_tables = -(-self.clusters // _ENTRIES)
        l1_clusters = max(1, -(-self.l2_tables // _ENTRIES))
        # The blocks count themselves too, so that their number is found by trying.
        blocks = 1
        while True:
            table = -(-blocks // _ENTRIES)
            before = 1 + l1_clusters + table + blocks + self.l2_tables
            needed = -(-(before + self.clusters) // _COUNTS)
            if needed <= blocks:
                break
            blocks = needed
        self.blocks = blocks
        self.refcount_table_clusters = table
        self.l1 = CLUSTER
        self.refcount_table = self.l1 + l1_clusters * CLUSTER
        self.refcounts = self.refcount_table + table * CLUSTER
        self.l2 = self.refcounts + blocks * CLUSTER
        self.data = self.l2 + self.l2_tables * CLUSTER

    @property
    def file_size(self) -> int:
        """How long the file is, holes and all, in bytes."""
        return self.data + self.clusters * CLUSTER

    def tables(self, present: NDArray[np.bool_]) -> Iterator[tuple[int, bytes]]:
        """Yield where to write what, so that just the `present` clusters of the disk are there."""
        tables = np.zeros(self.l2_tables, np.bool_)
        for number in range(self.l2_tables):
            here = present[number * _ENTRIES : (number + 1) * _ENTRIES]
            if here.any():
                tables[number] = True
                yield (
                    self.l2 + number * CLUSTER,
                    _entries(here, self.data + number * _ENTRIES * CLUSTER),
                )
        yield self.l1, _entries(tables, self.l2)
        blocks = np.ones(self.blocks, np.bool_)
        yield self.refcount_table, _entries(blocks, self.refcounts, flag=np.uint64(0))
        # A block that counts nothing is a hole in the file, and reads as zeros.
        before = np.concatenate((np.ones(self.l2 >> _BITS, np.bool_), tables))
        for number in range(self.blocks):
            start, end = number * _COUNTS, (number + 1) * _COUNTS
            first = max(0, start - len(before))
            used = np.concatenate((before[start:end], present[first : max(0, end - len(before))]))
            if used.any():
                yield self.refcounts + number * CLUSTER, used.astype(">u2").tobytes()
        yield 0, self._header()

    def _header(self) -> bytes:
        fixed = _HEADER.pack(
            *(b"QFI\xfb", 3, 0, 0, _BITS, -(-self.size // _SECTOR) * _SECTOR, 0),
            *(max(1, self.l2_tables), self.l1, self.refcount_table, self.refcount_table_clusters),
            *(0, 0, 0, 0, 0, 4, _HEADER.size),
        )
        return fixed + bytes(8)  # the end of the header's extensions: there are none


def _entries(used: NDArray[np.bool_], start: int, *, flag: np.uint64 = _COPIED) -> bytes:
    """Return a table's entries: of each that is used its offset, one cluster after the other."""
    offsets = np.uint64(start) + np.arange(len(used), dtype=np.uint64) * np.uint64(CLUSTER)
    return np.where(used, offsets | flag, np.uint64(0)).astype(">u8").tobytes()
