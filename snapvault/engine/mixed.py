# SPDX-License-Identifier: Apache-2.0
"""Blocks whose bytes lie in several places, and so come back in pieces.

A block is proven as a whole. What brings one back in pieces is put together here, in memory or in
a nameless file; where the pieces were written to a target that can be read, that is not needed.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Final, Self

import numpy as np

from snapvault.engine import buffers
from snapvault.engine.extract import PIECE, Plan
from snapvault.errors import RestoreError
from snapvault.model.point import StreamRecord
from snapvault.units import format_size

IN_MEMORY: Final = 16 << 20
"""Bytes of blocks in the making that memory holds; more of them lie in a file."""

Whole = tuple[int, memoryview]
"""Blocks that are whole now: the offset of the first, and their bytes."""


def is_part(stream: StreamRecord, offset: int, length: int) -> bool:
    """Tell whether a piece is less than whole blocks; the stream's last block may be short."""
    size = stream.block_size
    end = offset + length
    return offset % size != 0 or (end % size != 0 and end != stream.size)


def block_of(stream: StreamRecord, offset: int) -> tuple[int, int]:
    """Return where the block begins, and how long it is, that a byte lies in."""
    begin = offset - offset % stream.block_size
    return begin, min(stream.block_size, stream.size - begin)


class Assembly:
    """Puts blocks of one stream of a plan together, each once. Safe from several threads.

    A piece must lie within a block. Close it when no block is looked at any more.
    """

    def __init__(self, work: Plan, number: int, stream: StreamRecord, folder: Path) -> None:
        """Take room for all of these blocks.

        Raises:
            RestoreError: there is none.
        """
        self._stream = stream
        size = np.uint64(stream.block_size)
        of_it = work.stream == number
        offset, length = work.offset[of_it], work.length[of_it]
        end = offset + length
        cut = (offset % size != 0) | ((end % size != 0) & (end != np.uint64(stream.size)))
        self._blocks, which = np.unique(offset[cut] // size, return_inverse=True)
        self._left = np.bincount(which, weights=length[cut]).astype(np.int64)
        self._lock = Lock()
        self._map: mmap.mmap | None = None
        room = len(self._blocks) * stream.block_size
        if room <= IN_MEMORY:
            self._room = buffers.sparse(room)
            return
        self._map = _file_of(room, folder)
        self._room = memoryview(self._map)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._room.release()
        # What failed may look at a block still; the memory goes with its last user.
        with suppress(BufferError):
            if self._map is not None:
                self._map.close()

    def take(self, offset: int, piece: memoryview) -> Whole | None:
        """Take a piece of a block, and return the block if that was the last one."""
        begin, length = block_of(self._stream, offset)
        row = self._row(begin)
        at = row * self._stream.block_size
        with self._lock:
            self._room[at + offset - begin : at + offset - begin + len(piece)] = piece
            self._left[row] -= len(piece)
            is_whole = self._left[row] == 0
        return (begin, self._room[at : at + length]) if is_whole else None

    def _row(self, begin: int) -> int:
        # QUIRK: looking for any other type, numpy first copies the whole column to one of both.
        return int(np.searchsorted(self._blocks, np.uint64(begin // self._stream.block_size)))


def _file_of(size: int, folder: Path) -> mmap.mmap:
    """Return the memory of a file without a name, whose room is taken."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            # SAFETY: a write to memory for which the file system has no room kills the process.
            os.posix_fallocate(file.fileno(), 0, size)
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise RestoreError(
            f'could not take {format_size(size)} in folder "{folder}", to put blocks together that'
            f" lie in several volumes: {error.strerror}",
            hint="Make room there, or move state_dir.",
        ) from error


class Noted:
    """Notes which blocks of a stream came in pieces. Safe from several threads."""

    def __init__(self, stream: StreamRecord) -> None:
        self._stream = stream
        self._begins: set[int] = set()

    def take(self, offset: int, piece: memoryview) -> None:
        """Note a piece."""
        del piece
        self._begins.add(block_of(self._stream, offset)[0])

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield offset and length of runs of these blocks, in order, of a mebibyte at the most."""
        most = max(PIECE, self._stream.block_size)
        begin = end = 0
        for block in sorted(self._begins):
            length = block_of(self._stream, block)[1]
            if block == end and block + length - begin <= most:
                end += length
                continue
            if end > begin:
                yield begin, end - begin
            begin, end = block, block + length
        if end > begin:
            yield begin, end - begin


class InOrder:
    """Puts blocks together from pieces in the stream's order; what is missing of one is zeros."""

    def __init__(self, stream: StreamRecord) -> None:
        self._stream = stream
        self._begin = -1
        self._block = memoryview(bytearray(stream.block_size))

    def take(self, offset: int, piece: memoryview) -> Whole | None:
        """Take the next piece; return the block before if this one belongs to another."""
        begin, _ = block_of(self._stream, offset)
        whole = None
        if begin != self._begin:
            whole = self.finish()
            self._begin = begin
            self._block = memoryview(bytearray(self._stream.block_size))
        self._block[offset - begin : offset - begin + len(piece)] = piece
        return whole

    def finish(self) -> Whole | None:
        """Return the last block, if there was any."""
        if self._begin < 0:
            return None
        begin, length = block_of(self._stream, self._begin)
        return begin, self._block[:length]
