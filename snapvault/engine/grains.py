# SPDX-License-Identifier: Apache-2.0
"""A finer grain for disks: hashes of 512 bytes of every block, kept on the host alone.

Where a block changes, they tell which of its bytes did. They are a cache: without them a night
stores whole blocks. Each row has the keyed hash of its whole block too, so that it counts for that
very content and for no other, and a sum of its own: so the file is changed in place, and whatever
interrupts that, or comes between, costs no more than some rows.

A hash is two sums modulo a prime with random weights that only this host knows: two different
grains have the same two sums with a chance of 2^-62, whatever they hold (Carter and Wegman's
universal hashing). The sums are of 16-bit words, 64 at a time, and stay below 2^53, so that doubles
hold them exactly and the linear algebra library does the work.
"""

import hashlib
import os
import secrets
import struct
from collections.abc import Container, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from snapvault.formats.signatures import Hashes, differ, is_nonzero, no_hashes
from snapvault.model.extents import U64

GRAIN: Final = 512
"""Bytes of a hash."""

_MAGIC: Final = b"SVGRAIN2"
_SEED: Final = 16
_HEADER: Final = struct.Struct(f"<8sII{_SEED}s")  # magic | grain | block size | seed
_ROWS_AT: Final = 4096  # bytes
_PART: Final = 64  # words whose sum a double holds
_PARTS: Final = GRAIN // 2 // _PART
_PRIME: Final = 2**31 - 1
_CHUNK: Final = 256  # grains hashed at once: half a megabyte of doubles stays in the cache

Sums = NDArray[np.uint32]
"""For each block and each grain of it, two sums."""

Mask = NDArray[np.bool_]

_Rows = np.ndarray[tuple[int], np.dtype[np.void]]
"""Blocks' hashes, their grains' sums, and what proves the row."""


def grains_of(block_size: int) -> int:
    """Return how many grains a block has; 0 if it is too small for any."""
    return block_size // GRAIN if block_size >= 4 * GRAIN else 0


def drop_others(folder: Path, streams: Container[str]) -> None:
    """Remove the files of streams that a source has no more; a folder that is missing has none."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in streams:
            path.unlink(missing_ok=True)


def _row_type(block_size: int) -> np.dtype[np.void]:
    sums = ("sums", "<u4", (grains_of(block_size), 2))
    return np.dtype([("hash", no_hashes(0).dtype), sums, ("check", "<u8")])


class _Weights:
    """Hashes grains, and rows, with the weights that a seed gives."""

    def __init__(self, seed: bytes, row: np.dtype[np.void]) -> None:
        checked = row.fields["check"][1] if row.fields else 0
        raw = np.frombuffer(hashlib.shake_256(seed).digest(8 * GRAIN + 2 * checked), dtype="<u8")
        weights = (raw[:GRAIN] % np.uint64(_PRIME)).astype(np.float64)
        self._weights = weights.reshape(_PARTS, _PART, 2)
        self._of_row = raw[GRAIN:]
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
            whole = parts.astype(np.uint64).sum(axis=0)
            sums[begin : begin + _CHUNK] = whole % np.uint64(_PRIME)
        return sums.reshape(len(blocks), -1, 2)

    def check(self, rows: _Rows) -> U64:
        """Return what proves rows: a sum modulo 2^64 of all that is before it."""
        content: NDArray[Any] = np.ascontiguousarray(rows).view(np.uint8)
        checked = content.reshape(len(rows), rows.itemsize)[:, : 4 * len(self._of_row)]
        found: U64 = checked.copy().view("<u4").astype(np.uint64) @ self._of_row
        return found


class Grains:
    """The hashes of a disk's grains, in a file that takes `most` bytes.

    It has a place for each block, as far as there is room; behind that, one for several blocks, of
    which the last one to be taken has it. Only what is known takes room on the disk. Close it
    after use.
    """

    def __init__(self, path: Path, block_size: int, most: int) -> None:
        """Open the file, or make a new one where there is none, or it is of other blocks.

        Raises:
            OSError: it cannot be opened.
            ValueError: there is no room in it for any block.
        """
        self._type = _row_type(block_size)
        self._room = (most - _ROWS_AT) // self._type.itemsize
        if self._room < 1:
            raise ValueError("no room for hashes of grains")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SAFETY: whoever reads keys of sums could make other bytes that have the same ones.
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            seed = self._seed(block_size)
            self.is_new = seed is None
            self._weights = _Weights(seed or self._begin(block_size), self._type)
            if os.fstat(self._file).st_size > most:
                os.truncate(self._file, most)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _seed(self, block_size: int) -> bytes | None:
        header = os.pread(self._opened(), _HEADER.size, 0)
        if len(header) == _HEADER.size:
            magic, grain, size, seed = _HEADER.unpack(header)
            if (magic, grain, size) == (_MAGIC, GRAIN, block_size):
                return bytes(seed)
        return None

    def _begin(self, block_size: int) -> bytes:
        os.truncate(self._opened(), 0)
        seed = secrets.token_bytes(_SEED)
        os.pwrite(self._opened(), _HEADER.pack(_MAGIC, GRAIN, block_size, seed), 0)
        return seed

    def take(
        self, block: U64, hashes: Hashes, data: NDArray[np.uint8], before: Hashes
    ) -> tuple[Sums, Sums, Mask]:
        """Take some blocks, in order, one a row of `data`, that now have these hashes.

        Returns the sums of their grains now, and when they had the hashes `before`; and of which
        blocks these are known.
        """
        now = np.zeros(len(block), dtype=self._type)
        now["hash"] = hashes
        now["sums"] = self._weights.of(data)
        now["check"] = self._weights.check(now)
        old = np.zeros(len(block), dtype=self._type)
        place = (block % np.uint64(self._room)).astype(np.int64)
        for some in _rising(place):
            old[some] = self._exchange(place[some], now[some])
        is_known = is_nonzero(before) & ~differ(old["hash"], before)
        is_known[is_known] = self._weights.check(old[is_known]) == old["check"][is_known]
        return now["sums"], old["sums"], is_known

    def _exchange(self, place: NDArray[np.int64], now: _Rows) -> _Rows:
        """Write rows at rising places, and return those that were there; zeros if none were."""
        first = int(place[0])
        span = np.zeros(int(place[-1]) - first + 1, dtype=self._type)
        at = _ROWS_AT + first * self._type.itemsize
        try:
            os.preadv(self._opened(), [span.view(np.uint8).data], at)
            old: _Rows = span[place - first]
            span[place - first] = now
            os.pwrite(self._opened(), span.view(np.uint8).data, at)
        except OSError:
            # There is no room for it, as a rule: the night goes on, and later ones without it.
            self._close()
            return np.zeros(len(now), dtype=self._type)
        return old

    def _opened(self) -> int:
        if self._file is None:
            raise OSError("closed")
        return self._file


def _rising(place: NDArray[np.int64]) -> Iterator[slice]:
    """Yield the slices within which places rise."""
    edges = [0, *(np.flatnonzero(place[1:] <= place[:-1]) + 1).tolist(), len(place)]
    yield from map(slice, edges[:-1], edges[1:])
