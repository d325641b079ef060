# SPDX-License-Identifier: Apache-2.0
"""A finer grain for disks: hashes of 512 bytes of blocks that changed, kept on the host alone.

Where a block changes again, they tell which of its bytes did. They are a cache: without them a
night stores whole blocks. Each row has the keyed hash of its whole block too, so that it counts
for that very content and for no other.

A hash is two sums modulo a prime with random weights that only this host knows: two different
grains have the same two sums with a chance of 2^-62, whatever they hold (Carter and Wegman's
universal hashing). The sums are of 16-bit words, 64 at a time, and stay below 2^53, so that doubles
hold them exactly and the linear algebra library does the work.
"""

import hashlib
import secrets
import struct
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from snapvault.engine.spare_file import Sink
from snapvault.formats.signatures import REGION_BLOCKS, Hashes, differ, no_hashes
from snapvault.model.extents import U64

GRAIN: Final = 512
"""Bytes of a hash."""

_MAGIC: Final = b"SVGRAIN1"
_SEED: Final = 16
_HEADER: Final = struct.Struct(f"<8sIIQ{_SEED}s")  # magic | grain | block size | night | seed
_PART: Final = 64  # words whose sum a double holds
_PARTS: Final = GRAIN // 2 // _PART
_PRIME: Final = 2**31 - 1
_ROWS: Final = 4096  # read or written at once
_CHUNK: Final = 256  # grains hashed at once: half a megabyte of doubles stays in the cache
_FULL: Final = 7 / 8  # of the room, from which on the oldest rows go
_KEPT: Final = 3 / 4

Sums = NDArray[np.uint32]
"""For each block and each grain of it, two sums."""

Rows = np.ndarray[tuple[int], np.dtype[np.void]]
"""Blocks with their numbers, the night they last changed in, their hashes, and their sums."""


def grains_of(block_size: int) -> int:
    """Return how many grains a block has; 0 if it is too small for any."""
    return block_size // GRAIN if block_size >= 4 * GRAIN else 0


def _row_type(block_size: int) -> np.dtype[np.void]:
    sums = ("sums", "<u4", (grains_of(block_size), 2))
    return np.dtype([("block", "<u8"), ("night", "<u4"), ("hash", no_hashes(0).dtype), sums])


class _Weights:
    """Hashes grains with the weights that a seed gives."""

    def __init__(self, seed: bytes) -> None:
        raw = np.frombuffer(hashlib.shake_256(seed).digest(8 * GRAIN), dtype="<u8")
        weights = (raw % np.uint64(_PRIME)).astype(np.float64)
        self._weights = weights.reshape(_PARTS, _PART, 2)
        # Fresh memory for each would cost page faults, which is most of the time.
        self._words = np.empty((_CHUNK, _PARTS, _PART))

    def of(self, blocks: NDArray[np.uint8]) -> Sums:
        """Hash blocks, one a row."""
        grains = blocks.reshape(-1, GRAIN)
        sums = np.empty((len(grains), 2), dtype=np.uint32)
        for begin in range(0, len(grains), _CHUNK):
            some = grains[begin : begin + _CHUNK].view("<u2")
            words = self._words[: len(some)]
            words[:] = some.reshape(words.shape)
            parts = words.transpose(1, 0, 2) @ self._weights
            rest = (parts.astype(np.uint64) % np.uint64(_PRIME)).sum(axis=0)
            sums[begin : begin + _CHUNK] = rest % np.uint64(_PRIME)
        return sums.reshape(len(blocks), -1, 2)


class OldGrains:
    """The hashes of a parent's blocks, in a file as `NewGrains` writes it.

    Memory holds twelve bytes for each row, and the rows of one region.
    """

    def __init__(self, path: Path, block_size: int) -> None:
        """Look through the file.

        Raises:
            ValueError: it is not such a file, or is of other blocks.
            OSError: it could not be read.
        """
        self._path = path
        self._type = _row_type(block_size)
        blocks, nights = [], []
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
            if len(header) != _HEADER.size:
                raise ValueError("too short for hashes of grains")
            magic, grain, size, self.night, self.seed = _HEADER.unpack(header)
            if (magic, grain, size) != (_MAGIC, GRAIN, block_size):
                raise ValueError("not a file of hashes of grains")
            while raw := file.read(_ROWS * self._type.itemsize):
                rows = np.frombuffer(raw, self._type)  # a ValueError if one is cut short
                blocks.append(rows["block"].astype(np.uint64))
                nights.append(rows["night"].astype(np.uint32))
        self._blocks = np.concatenate([np.zeros(0, np.uint64), *blocks])
        self.nights = np.concatenate([np.zeros(0, np.uint32), *nights])
        if (self._blocks[1:] <= self._blocks[:-1]).any():
            raise ValueError("hashes of grains are in disorder")
        self._first = -1
        self._region = self.none()

    def none(self) -> Rows:
        """Return no rows."""
        return np.zeros(0, dtype=self._type)

    def region(self, first: int) -> Rows:
        """Return the rows of the region that begins with a block, by block."""
        if first != self._first:
            self._first = first
            edges = np.array([first, first + REGION_BLOCKS], dtype=np.uint64)
            begin, end = np.searchsorted(self._blocks, edges).tolist()
            self._region = self._read(begin, end)
        return self._region

    def _read(self, begin: int, end: int) -> Rows:
        at = _HEADER.size + begin * self._type.itemsize
        try:
            rows = np.fromfile(self._path, self._type, end - begin, offset=at)
        except OSError:
            return self.none()
        is_as_before = np.array_equal(rows["block"], self._blocks[begin:end])
        return rows if is_as_before else self.none()


class NewGrains:
    """Takes the hashes of a disk's blocks, region by region, and writes those that are to be kept.

    The file takes `most` bytes. Once it is nearly full, blocks that changed longest ago go.
    """

    def __init__(self, file: Sink, block_size: int, most: int, old: OldGrains | None) -> None:
        self._file = file
        self._block_size = block_size
        self._type = _row_type(block_size)
        self._room = self._left = max(0, most - _HEADER.size) // self._type.itemsize
        self._night = old.night + 1 if old else 1
        seed = old.seed if old else secrets.token_bytes(_SEED)
        self._weights = _Weights(seed)
        self._old = old
        self._forgets_before = self._oldest_kept()
        self._new: list[Rows] = []
        file.write(_HEADER.pack(_MAGIC, GRAIN, block_size, self._night, seed))

    def _oldest_kept(self) -> int:
        """Return the night from which on old rows are kept."""
        if self._old is None or len(self._old.nights) <= _FULL * self._room:
            return 0
        kept = int(_KEPT * self._room)
        if not kept:
            return self._night
        nights = np.sort(self._old.nights)
        return int(nights[-kept]) + 1

    def take(self, block: U64, hashes: Hashes, data: NDArray[np.uint8]) -> Sums:
        """Take blocks that changed, one a row of `data`, and return the hashes of their grains."""
        rows: Rows = np.zeros(len(block), dtype=self._type)
        rows["block"], rows["night"], rows["hash"] = block, self._night, hashes
        rows["sums"] = sums = self._weights.of(data)
        self._new.append(rows)
        return sums

    def end_region(self, first: int, hashes: Hashes) -> None:
        """Write what is known of the blocks from `first` on, whose hashes now are these."""
        parts = self._new
        self._new = []
        if self._old is not None:
            old = self._old.region(first)
            old = old[: np.searchsorted(old["block"], np.uint64(first + len(hashes)))]
            now = hashes[(old["block"] - np.uint64(first)).astype(np.int64)]
            # SAFETY: a row is kept only with a block that still has the content it was made of.
            same = ~differ(now, old["hash"])
            parts = [old[same & (old["night"] >= self._forgets_before)], *parts]
        if not parts or not self._left:
            return
        rows = np.concatenate(parts)
        _, order = np.unique(rows["block"], return_index=True)
        order = order[: self._left]
        self._left -= len(order)
        for at in range(0, len(order), _ROWS):
            self._file.write(rows[order[at : at + _ROWS]].tobytes())
