# SPDX-License-Identifier: Apache-2.0
"""Sums of grains of 128 bytes, which tell them apart.

A hash is a weak sum that rolls, and two sums modulo a prime with random weights: two different
grains have the same two sums with a chance of 2^-62, whatever they hold (Carter and Wegman's
universal hashing). All sums are of 16-bit words and stay below 2^53, so that doubles hold them
exactly and the linear algebra library does the work.
"""

import hashlib
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from snapvault.model.extents import U64

GRAIN: Final = 128
"""Bytes of a hash."""

WORDS: Final = GRAIN // 2
"""Words of 16 bits that a grain has."""

_PRIME: Final = 2**31 - 1
_CHUNK: Final = 512  # grains hashed at once: what fits in a core's own cache as doubles

Hashes: TypeAlias = NDArray[np.uint32]
"""Rows of: weak sum, two strong sums."""

I64: TypeAlias = NDArray[np.int64]


class Sums:
    """Computes hashes with the weights that a seed gives."""

    def __init__(self, seed: bytes) -> None:
        raw = np.frombuffer(hashlib.shake_256(seed).digest(8 * 2 * WORDS), dtype="<u8")
        strong = (raw % np.uint64(_PRIME)).astype(np.float64).reshape(WORDS, 2)
        falling = np.arange(WORDS, 0, -1, dtype=np.float64)
        self._weights = np.column_stack([np.ones(WORDS), falling, strong])
        self._strong_weights = np.ascontiguousarray(self._weights[:, 2:])
        # Used over and over again: fresh memory for each chunk would cost page faults.
        self._doubles = np.empty((_CHUNK, WORDS))
        self._products = np.empty((_CHUNK, 4))
        self._strong_products = np.empty((_CHUNK, 2))

    def of(self, words: NDArray[np.uint16]) -> Hashes:
        """Hash grains, one a row."""
        hashes = np.empty((len(words), 3), dtype=np.uint32)
        for begin in range(0, len(words), _CHUNK):
            part = words[begin : begin + _CHUNK]
            doubles, sums = self._doubles[: len(part)], self._products[: len(part)]
            doubles[:] = part
            np.matmul(doubles, self._weights, out=sums)
            plain = sums[:, :2].astype(np.uint64)
            hashes[begin : begin + _CHUNK, 0] = weak_sum(plain[:, 0], plain[:, 1])
            hashes[begin : begin + _CHUNK, 1:] = _remainder(sums[:, 2:])
        return hashes

    def strong_of(self, words: NDArray[np.uint16]) -> NDArray[np.uint32]:
        """Return the two strong sums of grains, one grain a row."""
        hashes = np.empty((len(words), 2), dtype=np.uint32)
        for begin in range(0, len(words), _CHUNK):
            part = words[begin : begin + _CHUNK]
            doubles, sums = self._doubles[: len(part)], self._strong_products[: len(part)]
            doubles[:] = part
            np.matmul(doubles, self._strong_weights, out=sums)
            hashes[begin : begin + _CHUNK] = _remainder(sums)
        return hashes


def _remainder(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sums modulo the prime. All of it is exact: the quotient is off by one at most."""
    left: NDArray[np.float64] = sums - np.floor(sums * (1 / _PRIME)) * _PRIME
    left += (left < 0) * float(_PRIME)
    left -= (left >= _PRIME) * float(_PRIME)
    return left


def weak_sum(plain: U64, falling: U64) -> NDArray[np.uint32]:
    """Return the weak sum of grains from the plain and the falling sum of their words."""
    return ((falling << np.uint64(11)) + plain).astype(np.uint32)


def rolling_sums(words: U64) -> NDArray[np.uint32]:
    """Return the weak sums of the windows that begin at each word."""
    index = np.arange(len(words), dtype=np.uint64)
    plain_to = np.concatenate((np.zeros(1, np.uint64), np.cumsum(words, dtype=np.uint64)))
    rising_to = np.concatenate((np.zeros(1, np.uint64), np.cumsum(words * index, dtype=np.uint64)))
    plain = plain_to[WORDS:] - plain_to[:-WORDS]
    rising = rising_to[WORDS:] - rising_to[:-WORDS]
    falling = (index[: len(plain)] + np.uint64(WORDS)) * plain - rising
    return weak_sum(plain, falling)


def windows(data: bytes, position: U64 | I64) -> NDArray[np.uint16]:
    """Return the grains' worth of bytes at some positions, one a row."""
    # One opaque element for each window: numpy gathers those by copying memory.
    whole: NDArray[np.void] = np.ndarray((len(data) - GRAIN + 1,), f"V{GRAIN}", data, strides=(1,))
    rows: NDArray[np.uint16] = whole[position].view("<u2").reshape(-1, WORDS)
    return rows
