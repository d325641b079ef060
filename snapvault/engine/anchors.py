# SPDX-License-Identifier: Apache-2.0
"""Places in a stream of bytes that are found again wherever they have moved to: anchors.

An anchor lies where one chosen byte is, about every 700 bytes, and has a key made of the 32 bytes
from there on. A key that both an old and a new stream have tells how old bytes lie in the new
one. It is a guess: who acts on it compares the bytes around by their finer hashes.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from snapvault.engine.spare_file import SpareFile
from snapvault.model.extents import U64

WIDTH: Final = 32
"""Bytes that make a key."""

_MAGIC: Final = b"SVANCHR1"
# magic | the choice: byte, bits | how many of the lowest bits of all keys are 0 | count
_HEADER: Final = struct.Struct("<8sIIIQ")
_SPACING: Final = 700  # bytes between two anchors, about
_SAMPLE: Final = 1 << 20  # bytes to choose by
_DENSEST: Final = 16  # a byte that comes up more often makes no anchors
_MOST: Final = 1 << 20  # anchors kept of a stream: 16 MiB
_MOST_THINNED: Final = 40  # bits of keys: more only where keys are the same
_MOST_PARTS: Final = 1 << 10  # arrays they are kept in: each takes some hundred bytes of its own
_MOST_AT_ONCE: Final = 1 << 16  # anchors found in one piece: as many as a mebibyte should have
_POOREST: Final = 1 << 14  # bytes for each anchor; with fewer anchors another byte is chosen

_I64: TypeAlias = NDArray[np.int64]
_FACTORS: Final = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F],
    dtype=np.uint64,
)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which places are anchors: those of a byte, thinned to those with `bits` bits of 0."""

    byte: int
    bits: int


@dataclass(frozen=True, slots=True)
class Anchors:
    """Places in a stream, rising, with their keys."""

    position: _I64
    key: U64


NO_ANCHORS: Final = Anchors(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint64))


def choose(data: bytes) -> Choice | None:
    """Choose by a stream's first bytes; None if no byte will do."""
    sample = np.frombuffer(data, dtype=np.uint8, count=min(len(data), _SAMPLE))
    counts = np.bincount(sample, minlength=256)
    counts[0] = 0  # comes in long runs
    counts[counts * _DENSEST > len(sample)] = 0
    usable = np.flatnonzero(counts)
    if not len(usable):
        return None
    often = np.log2(counts[usable] * _SPACING / len(sample))
    best = int(np.argmin(np.abs(often)))
    return Choice(int(usable[best]), max(0, round(float(often[best]))))


class Scanner:
    """Finds the anchors of a stream that comes piece by piece."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._rest = b""
        self._begin = 0  # of the rest, in the stream

    def feed(self, data: bytes) -> Anchors:
        """Return the anchors whose bytes are complete with these."""
        data = self._rest + data
        begin = self._begin
        room = max(0, len(data) - WIDTH + 1)
        self._rest = data[room:]
        self._begin += room
        if not room:
            return NO_ANCHORS
        position = np.flatnonzero(
            np.frombuffer(data, dtype=np.uint8, count=room) == self._choice.byte
        )[:_MOST_AT_ONCE]
        # One opaque element for each window: numpy gathers those by copying memory.
        windows: NDArray[np.void] = np.ndarray((room,), f"V{WIDTH}", data, strides=(1,))
        sums = windows[position].view("<u8").reshape(-1, WIDTH // 8) * _FACTORS
        if self._choice.bits:
            first = sums[:, 0] + sums[:, 1]
            kept = (first >> np.uint64(40)) & np.uint64((1 << self._choice.bits) - 1) == 0
            position, sums = position[kept], sums[kept]
        key = sums.sum(axis=1, dtype=np.uint64)
        key ^= key >> np.uint64(29)
        key *= _FACTORS[0]
        return Anchors(position + begin, key ^ (key >> np.uint64(32)))


class AnchorWriter:
    """Gathers a stream's anchors, a million at most: then every other one goes, by its key."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._parts: list[Anchors] = []
        self._count = 0
        self._thinned = 0

    def add(self, anchors: Anchors) -> None:
        """Add what comes next in the stream."""
        self._parts.append(_thin(anchors, self._thinned))
        self._count += len(self._parts[-1].key)
        if self._count <= _MOST and len(self._parts) < _MOST_PARTS:
            return
        part = self._joined()
        while len(part.key) > _MOST:
            # Keys that no thinning tells apart were made to be so, and are of no use.
            self._thinned += 1
            part = _thin(part, self._thinned) if self._thinned < _MOST_THINNED else NO_ANCHORS
        self._parts = [part]
        self._count = len(part.key)

    def _joined(self) -> Anchors:
        key = np.concatenate([NO_ANCHORS.key, *(part.key for part in self._parts)])
        position = np.concatenate([NO_ANCHORS.position, *(part.position for part in self._parts)])
        self._parts.clear()
        return Anchors(position, key)

    def write(self, path: Path) -> None:
        """Write what was gathered, without those that have a key in common."""
        every = self._joined()
        key, position = every.key, every.position
        del every
        order = np.argsort(key, kind="stable")
        key = key[order]
        is_double = np.zeros(len(key), dtype=bool)
        is_double[1:] |= key[1:] == key[:-1]
        is_double[:-1] |= key[1:] == key[:-1]
        key, order = key[~is_double], order[~is_double]
        with SpareFile(path) as file:
            file.write(
                _HEADER.pack(_MAGIC, self._choice.byte, self._choice.bits, self._thinned, len(key))
            )
            file.write(key.astype("<u8", copy=False).data)
            file.write(position[order].astype("<i8", copy=False).data)


class AnchorIndex:
    """The anchors of an old stream, in a file as `AnchorWriter` writes it.

    Nothing vouches for the file: wrong anchors cost bytes, as everything they tell is checked.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ValueError: it is not such a file.
            OSError: it could not be read.
        """
        raw = path.read_bytes()
        if len(raw) < _HEADER.size:
            raise ValueError("too short for anchors")
        magic, byte, bits, thinned, count = _HEADER.unpack_from(raw)
        if (
            magic != _MAGIC
            or not 0 <= byte < 256
            or bits > 20
            or thinned > _MOST_THINNED
            or len(raw) != _HEADER.size + 16 * count
        ):
            raise ValueError("not a file of anchors")
        self.choice = Choice(byte, bits)
        self._key: U64 = np.frombuffer(raw, "<u8", count, _HEADER.size)
        self._position: _I64 = np.frombuffer(raw, "<i8", count, _HEADER.size + 8 * count)
        self._thinned: int = thinned
        self._count: int = count << thinned

    def is_poor(self, size: int) -> bool:
        """Tell whether a stream of so many bytes should have had more anchors."""
        return self._count * _POOREST < size

    def find(self, anchors: Anchors) -> tuple[_I64, _I64]:
        """Return, for those anchors that the old stream has too, their places: new and old."""
        wanted = _thin(anchors, self._thinned)
        if not len(self._key) or not len(wanted.key):
            return NO_ANCHORS.position, NO_ANCHORS.position
        at = np.minimum(np.searchsorted(self._key, wanted.key), len(self._key) - 1)
        hit = np.flatnonzero(self._key[at] == wanted.key)
        return wanted.position[hit], self._position[at[hit]]


class Survey:
    """Finds the anchors of a stream while it is read: those to look up, and those to write.

    They are the same, unless `index`, the anchors of the old stream of `old_size` bytes, is poor.
    """

    def __init__(self, index: AnchorIndex | None, old_size: int) -> None:
        self._old = Scanner(index.choice) if index else None
        self._new: Scanner | None = None
        self._writer: AnchorWriter | None = None
        self._pending: bytes | None = None
        if index is None or index.is_poor(old_size):
            self._pending = b""
        else:
            self._writer = AnchorWriter(index.choice)

    def feed(self, data: bytes) -> Anchors:
        """Take the next bytes; return the anchors to look up in the old stream."""
        found = self._old.feed(data) if self._old else NO_ANCHORS
        if self._pending is not None:
            self._pending += data
            # Not by less: a pipe gives 64 KiB at a time, and a dump begins with other words.
            if len(self._pending) >= _SAMPLE:
                self._begin()
        elif self._writer is not None:
            self._writer.add(self._new.feed(data) if self._new else found)
        return found

    def write(self, path: Path) -> None:
        """Write the stream's anchors, at its end."""
        self._begin()
        if self._writer is not None:
            self._writer.write(path)

    def _begin(self) -> None:
        """Choose, once enough is known of the stream."""
        data, self._pending = self._pending, None
        choice = choose(data) if data else None
        if data and choice is not None:
            self._new, self._writer = Scanner(choice), AnchorWriter(choice)
            self._writer.add(self._new.feed(data))


def _thin(anchors: Anchors, bits: int) -> Anchors:
    if not bits:
        return anchors
    kept = anchors.key & np.uint64((1 << bits) - 1) == 0
    return Anchors(anchors.position[kept], anchors.key[kept])
