# SPDX-License-Identifier: Apache-2.0
"""A finer grain for streams of bytes: hashes of every 128 bytes, kept on the host alone.

Where librsync finds that some blocks of the old stream were replaced by other bytes, these hashes
find which of those bytes are old ones. They are a cache: without them a night costs more bytes.
Nobody else sees them, and each file has a key of its own, so nobody can prepare collisions.
"""

import mmap
import secrets
import struct
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from snapvault.engine.fine_sums import GRAIN, I64, WORDS, Hashes, Sums, windows
from snapvault.engine.spare_file import Sink

HASH_BYTES: Final = 12
"""What a grain takes in the file."""

_MAGIC: Final = b"SVFINE2\n"
_SEED: Final = 16
_HEADER: Final = struct.Struct(f"<8sI4x{_SEED}s")
_STROKE: Final = 1 << 13  # grains: a mebibyte, in which blocks of any length fit


class FineWriter:
    """Writes the hashes of a stream that comes piece by piece.

    What would make the file longer than `most` bytes goes without.
    """

    def __init__(self, file: Sink, most: int) -> None:
        seed = secrets.token_bytes(_SEED)
        self._sums = Sums(seed)
        self._file = file
        left = max(0, most - _HEADER.size) // HASH_BYTES
        # What follows is found by blocks: they should begin where these end.
        self._left = left - left % _STROKE if left > _STROKE else left
        self._rest = b""
        file.write(_HEADER.pack(_MAGIC, GRAIN, seed))

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if not self._left:
            return
        if self._rest:
            data = self._rest + data
        whole = min(len(data) // GRAIN, self._left) * GRAIN
        self._left -= whole // GRAIN
        self._rest = data[whole:]
        if whole:
            words = np.frombuffer(data, dtype="<u2", count=whole // 2).reshape(-1, WORDS)
            self._file.write(self._sums.of(words).tobytes())

    def finish(self) -> None:
        """Take the end of the stream: what is left, filled with zeros, has the last hash."""
        if self._rest and self._left:
            words = np.frombuffer(self._rest.ljust(GRAIN, b"\0"), dtype="<u2").reshape(1, WORDS)
            self._file.write(self._sums.of(words).tobytes())


def is_complete(path: Path, old_size: int) -> bool:
    """Tell whether a file has the hashes of all of a stream of so many bytes."""
    try:
        return path.stat().st_size == _HEADER.size + -(-old_size // GRAIN) * HASH_BYTES
    except OSError:
        return False


class FineHashes:
    """The hashes of an old stream, in a file as `FineWriter` writes it."""

    def __init__(self, path: Path, old_size: int) -> None:
        """Open the file; it is mapped, not read. The old stream has `old_size` bytes.

        Raises:
            ValueError: it is not such a file.
            OSError: it could not be read.
        """
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
            if len(header) != _HEADER.size:
                raise ValueError("too short for fine hashes")
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        magic, grain, seed = _HEADER.unpack(header)
        size = len(mapped) - _HEADER.size
        if magic != _MAGIC or grain != GRAIN or size % HASH_BYTES:
            raise ValueError("not a file of fine hashes")
        self.sums = Sums(seed)
        self._mapped = mapped
        self.table: Hashes = np.zeros((0, 3), dtype=np.uint32)
        if size:
            count = size // HASH_BYTES * 3
            self.table = np.frombuffer(mapped, "<u4", count, _HEADER.size).reshape(-1, 3)
        grains, self._last_size = divmod(old_size, GRAIN)
        if len(self.table) > -(-old_size // GRAIN):
            raise ValueError("fine hashes of a longer stream")
        self.is_complete = len(self.table) == -(-old_size // GRAIN)
        # The hash of what is no whole grain at the end, if there is such and it has a hash.
        self._last = self.table[grains:]
        self.table = self.table[:grains]

    @property
    def grains(self) -> int:
        """The number of grains of the old stream that have hashes, from its start."""
        return len(self.table)

    def let_go(self) -> None:
        """Give back the memory of what was looked at; it stays in the system's file cache."""
        self._mapped.madvise(mmap.MADV_DONTNEED)

    def ends_with(self, data: memoryview) -> bool:
        """Tell whether `data` is what the old stream has after its last whole grain."""
        if len(data) != self._last_size or not len(self._last):
            return False
        words = np.frombuffer(bytes(data).ljust(GRAIN, b"\0"), dtype="<u2").reshape(1, WORDS)
        return bool((self.sums.of(words) == self._last).all())

    def are_old(self, data: bytes, position: I64, grain: I64) -> NDArray[np.bool_]:
        """Tell which grains' worths of `data`, from some positions on, are those old grains."""
        if not len(position):
            return np.zeros(0, dtype=bool)
        equal: NDArray[np.bool_] = np.ones(len(position), dtype=bool)
        strong = self.sums.strong_of(windows(data, position))
        old = self.table[grain]
        for column in (0, 1):
            equal &= strong[:, column] == old[:, column + 1]
        return equal
