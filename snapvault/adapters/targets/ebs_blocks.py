# SPDX-License-Identifier: Apache-2.0
"""Whole blocks of a disk, out of pieces that come in any order.

What a restore brings back comes volume by volume, and a block of 512 KiB may have pieces in
many volumes, first and last ones hours apart. So incomplete blocks wait: in memory, up to a limit,
and beyond it in a spool, a sparse file in which they lie at their places. A block that leaves the
spool leaves a hole, so that it never takes more room than the data that wait.
"""

import ctypes
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np

from snapvault.adapters.targets.problems import could_not

DEFAULT_MEMORY = 128 << 20  # bytes of incomplete blocks that wait in memory

_PUNCH_HOLE = 1 | 2  # FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE, linux/falloc.h

_libc = ctypes.CDLL(None, use_errno=True)

Deliver = Callable[[int, bytes], None]
"""Takes a block's number and all its bytes; called from the threads that write."""


@dataclass(slots=True)
class _Partial:
    """A block in the making. It stays in memory while `writers` are at work on it."""

    content: bytearray
    writers: int = 0
    filled: list[tuple[int, int]] = field(default_factory=list)


class Blocks:
    """Collects the pieces of a disk of `size` bytes and hands on each block once it is whole.

    Blocks of which every byte was zeroed are not handed on. The last one is filled up with zeros.
    Takes 5 bytes of memory a block, besides `memory`. Safe from several threads.

    LIMIT: the spool is as long as the disk, though mostly holes: ext4 allows 16 TiB.
    """

    def __init__(
        self, size: int, block: int, deliver: Deliver, *, folder: Path, memory: int = DEFAULT_MEMORY
    ) -> None:
        self.count = -(-size // block)
        self._size = size
        self._block = block
        self._deliver = deliver
        self._in_memory = max(1, memory // block)
        self._lock = Lock()
        self._filled = np.zeros(self.count, np.uint32)  # bytes of each block written or zeroed
        self._spooled = np.zeros(self.count, np.bool_)
        self._partial: OrderedDict[int, _Partial] = OrderedDict()
        self._spool = _Spool(folder)

    @property
    def spooled_bytes(self) -> int:
        """How many bytes went through the spool so far."""
        return self._spool.written

    def write(self, offset: int, data: memoryview) -> None:
        """Take a piece.

        Raises:
            RestoreError: the spool failed.
            ValueError: it does not lie in the disk, or was written before.
        """
        self._require_inside(offset, data.nbytes)
        at = 0
        for index, start, stop in self._spans(offset, data.nbytes):
            piece = data[at : at + stop - start]
            at += stop - start
            if stop - start == self._length(index):
                with self._lock:
                    self._fill(index, start, stop)
                self._deliver(index, bytes(piece).ljust(self._block, b"\0"))
            else:
                self._write_part(index, start, piece)

    def zero(self, offset: int, length: int) -> None:
        """Take zeros, of which whole blocks cost nothing.

        Raises:
            RestoreError: the spool failed.
            ValueError: the range does not lie in the disk, or was written before.
        """
        self._require_inside(offset, length)
        first, last = -(-offset // self._block), (offset + length) // self._block
        if first < last:
            with self._lock:
                if self._filled[first:last].any():
                    raise ValueError(f"{length} bytes at {offset} were written before")
                self._filled[first:last] = self._block
            self._zero_parts(offset, first * self._block - offset)
            self._zero_parts(last * self._block, offset + length - last * self._block)
        else:
            self._zero_parts(offset, length)

    def require_whole(self) -> None:
        """Make sure that every byte of the disk was written or zeroed.

        Raises:
            ValueError: one was not.
        """
        whole = self._size // self._block
        if (self._filled[:whole] != self._block).any() or (
            whole < self.count and int(self._filled[whole]) != self._length(whole)
        ):
            raise ValueError("some of the disk was neither written nor zeroed")

    def close(self) -> None:
        """Let go of what waits; safe to repeat."""
        self._partial.clear()
        self._spool.close()

    def _write_part(self, index: int, start: int, piece: memoryview) -> None:
        stop = start + piece.nbytes
        with self._lock:
            partial = self._enter(index)
        if partial is None:
            self._spool.write(index * self._block + start, piece)
        else:
            partial.content[start:stop] = piece
        with self._lock:
            if partial is not None:
                partial.writers -= 1
                partial.filled.append((start, stop))
            whole = self._fill(index, start, stop)
            self._make_room()
        if whole:
            self._hand_on(index)

    def _zero_parts(self, offset: int, length: int) -> None:
        for index, start, stop in self._spans(offset, length):
            with self._lock:
                whole = self._fill(index, start, stop)
            if whole:
                self._hand_on(index)

    def _enter(self, index: int) -> _Partial | None:
        """Return where to put a piece of a block: None is the spool."""
        if self._spooled[index]:
            return None
        partial = self._partial.get(index)
        if partial is None:
            partial = self._partial[index] = _Partial(bytearray(self._block))
        partial.writers += 1
        return partial

    def _make_room(self) -> None:
        """Move the blocks that have waited longest into the spool."""
        if len(self._partial) <= self._in_memory:
            return
        idle = (index for index, each in self._partial.items() if each.writers == 0)
        index = next(idle, None)
        if index is None:
            return
        partial = self._partial.pop(index)
        content = memoryview(partial.content)
        for start, stop in partial.filled:
            self._spool.write(index * self._block + start, content[start:stop])
        self._spooled[index] = True

    def _fill(self, index: int, start: int, stop: int) -> bool:
        """Count bytes of a block; return whether it is whole now."""
        length = self._length(index)
        filled = int(self._filled[index]) + stop - start
        if filled > length:
            raise ValueError(f"a part of block {index} was written before")
        self._filled[index] = filled
        return filled == length

    def _hand_on(self, index: int) -> None:
        """Hand on a block that has become whole, unless all of it was zeroed."""
        with self._lock:
            partial = self._partial.pop(index, None)
        if partial is not None:
            self._deliver(index, bytes(partial.content))
        elif self._spooled[index]:
            self._deliver(index, self._spool.take(index * self._block, self._block))

    def _length(self, index: int) -> int:
        return min(self._block, self._size - index * self._block)

    def _spans(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield the blocks of a range: number, start and stop inside of it."""
        end = offset + length
        while offset < end:
            index, start = divmod(offset, self._block)
            stop = min(self._block, start + end - offset)
            yield index, start, stop
            offset += stop - start

    def _require_inside(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise ValueError(f"{length} bytes at offset {offset} are not within {self._size} bytes")


class _Spool:
    """A sparse file without a name, made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor = -1
        self._lock = Lock()
        self.written = 0

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data`.

        Raises:
            RestoreError: there is no room, or the disk failed.
        """
        try:
            descriptor = self._open()
            done = 0
            while done < data.nbytes:
                done += os.pwrite(descriptor, data[done:], offset + done)
        except OSError as error:
            raise self._failed("write", error) from error
        with self._lock:
            self.written += done

    def take(self, offset: int, length: int) -> bytes:
        """Return what lies in a range, zeros where nothing was written, and free its room.

        Raises:
            RestoreError: the disk failed.
        """
        content = bytearray(length)
        view = memoryview(content)
        done = 0
        try:
            while done < length:
                read = os.preadv(self._descriptor, [view[done:]], offset + done)
                if read == 0:  # past what was ever written
                    break
                done += read
        except OSError as error:
            raise self._failed("read", error) from error
        # Where the file system cannot do this, the room is free only in the end.
        punch = getattr(_libc, "fallocate", None)
        if punch is not None:
            punch(self._descriptor, _PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(length))
        return bytes(content)

    def close(self) -> None:
        """Give all room back."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _open(self) -> int:
        with self._lock:
            if self._descriptor < 0:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self._folder) as file:
                    self._descriptor = os.dup(file.fileno())
            return self._descriptor

    def _failed(self, verb: str, error: OSError) -> Exception:
        return could_not(
            f'{verb} the spool of incomplete blocks in "{self._folder}"', self._folder, error
        )
