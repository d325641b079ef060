# SPDX-License-Identifier: Apache-2.0
"""Where a restore goes."""

from typing import Protocol


class Target(Protocol):
    """Room for one stream, in the making until it is committed.

    Every range is either written or zeroed: a new file reads as zeros elsewhere, a device as
    before. `write` may be called from several threads at once, for ranges that do not overlap.
    """

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data` at `offset` (bytes).

        Data that starts at a page of memory, at an offset and with a length that are
        multiples of 4096, may go past the operating system's cache.

        Raises:
            RestoreError: the target is full or failed.
        """
        ...

    def reserve(self, offset: int, length: int) -> None:
        """Take room for a range that is going to be written; may do nothing.

        Raises:
            RestoreError: there is no room.
        """
        ...

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros, whatever was there."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Read back what was written, to fill the whole buffer."""
        ...

    def commit(self) -> None:
        """Make it durable and show it under its final name.

        Raises:
            TargetNotEmptyError: the name was taken meanwhile.
        """
        ...

    def abort(self) -> None:
        """Give up: the final name never appears. Safe after `commit`, then without effect."""
        ...
