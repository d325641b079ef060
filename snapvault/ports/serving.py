# SPDX-License-Identifier: Apache-2.0
"""Disks that are shown to clients, read-only, while they still lie in a vault."""

from collections.abc import Sequence
from typing import Protocol


class ServedDisk(Protocol):
    """One disk of a restore point. Safe from several threads."""

    @property
    def name(self) -> str:
        """The stream's name."""
        ...

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        ...

    @property
    def block_size(self) -> int:
        """Bytes that reads should be multiples of, and begin at multiples of."""
        ...

    def read(self, offset: int, length: int) -> memoryview:
        """Return bytes of the disk, all of them proven to be what was backed up.

        Raises:
            SnapVaultError: they cannot be had, or cannot be proven. A later read may succeed.
        """
        ...

    def extents(self, offset: int, length: int, limit: int) -> Sequence[tuple[int, bool]]:
        """Return (length, whether it is zeros) of the runs from `offset` on, `limit` at most.

        They follow each other, are not empty, and end at `offset + length` at the latest.
        """
        ...
