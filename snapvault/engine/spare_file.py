# SPDX-License-Identifier: Apache-2.0
"""A file that only saves work, and gives way where there is no room for it."""

import os
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self


class Sink(Protocol):
    """Takes bytes, in order."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take the next bytes."""


class SpareFile:
    """Takes bytes as long as there is room; when there is none it is empty from then on.

    What it holds must be something that a reader can do without, and an empty file nothing to it.
    This user alone can read it, whatever folder it is in.
    """

    def __init__(self, path: Path) -> None:
        """Make the file, or have none where that cannot be."""
        self._file = None
        with suppress(OSError):
            # Without a buffer, which would fail once more when it is closed.
            # SAFETY: whoever reads keys of sums could make other bytes that have the same ones.
            self._file = FileIO(path, "wb", opener=_private)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, data: bytes | memoryview, /) -> None:
        """Take the next bytes, all of them or none of the file's."""
        if self._file is None:
            return
        with suppress(OSError):
            if self._file.write(data) == memoryview(data).nbytes:
                return
        with suppress(OSError):
            self._file.truncate(0)
        self._file.close()
        self._file = None


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, mode=0o600)
