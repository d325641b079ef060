# SPDX-License-Identifier: Apache-2.0
"""Where a block may be found: a table from block hashes to pages of the signatures kept here.

A hint and nothing more: who follows one compares the hash with the signature itself. So slots are
written over by whatever comes last, by several processes at once and without a lock, and what a
power cut tears costs space in a vault, never a wrong byte. Of a page's blocks one in sixteen is
entered; who finds one finds the page, and in the page all others.
"""

import os
import secrets
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from snapvault.formats.signatures import Hashes, Page, is_nonzero
from snapvault.model.extents import U64

FEWEST_SLOTS: Final = 1 << 16

# magic 8s | slots u64 | entries since it was built u64 | of which vault and key 32s, little-endian
_HEADER = struct.Struct("<8sQQ32s")
_MAGIC = b"SVBLOCK1"
_FIRST = 4096  # where the slots begin
_ROWS = np.dtype([("tag", "<u8"), ("stream", "<u4"), ("region", "<u4")])
_ONE_IN = 16
_FEW = 64  # blocks of a page that are entered in any case
_ASKED = 16  # blocks that are asked for in any case
_BATCH = 1 << 20  # entries sorted at once
_ABANDONED = 3600.0  # seconds after the last write of a build
_SMALLEST_WINDOW, _LARGEST_WINDOW = 1 << 8, 1 << 16  # slots read and written at once

Rows = NDArray[np.void]
"""Slots: `tag` is the lower half of a hash, `stream` a stream's number, `region` its page's."""


def stream_number(source: str, stream: str) -> int:
    """Return what a stream is called in slots: 32 bits of a digest; two may share one."""
    return int.from_bytes(blake3(f"{source}/{stream}".encode()).digest(4), "little")


def slots_for(blocks: int) -> int:
    """Return the slots of a new table for that many blocks: two to four for each entry."""
    slots = FEWEST_SLOTS
    while slots * _ONE_IN < 2 * blocks:
        slots *= 2
    return slots


def is_fit(index: "BlockIndex", blocks: int) -> bool:
    """Tell whether a table is neither too small, nor too large, nor mostly written over."""
    small = index.slots * _ONE_IN < blocks
    large = index.slots > FEWEST_SLOTS and index.slots > blocks
    return not small and not large and index.learned <= index.slots


class BlockIndex:
    """An open table. `identity` says which vault and which key the hashes are of."""

    def __init__(self, path: Path, identity: bytes) -> None:
        """Open it.

        Raises:
            OSError: it is not there, or cannot be read.
            ValueError: it is no such table, or one of another identity.
        """
        self._file = os.open(path, os.O_RDWR)
        try:
            header = os.pread(self._file, _HEADER.size, 0)
            if len(header) != _HEADER.size:
                raise ValueError("a table of blocks is cut short")
            magic, self.slots, self.learned, found = _HEADER.unpack(header)
            size = os.fstat(self._file).st_size
            if magic != _MAGIC or found != identity or size != _FIRST + self.slots * _ROWS.itemsize:
                raise ValueError("not a table of these blocks")
            if self.slots < FEWEST_SLOTS or self.slots & (self.slots - 1):
                raise ValueError("a table of blocks has an impossible size")
        except BaseException:
            self.close()
            raise
        self._identity = identity

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def look_up(self, hashes: Hashes) -> list[tuple[int, int]]:
        """Return (stream number, region) where some of these blocks may be, best first.

        Raises:
            OSError: the table cannot be read any more.
        """
        asked = hashes[_asked(hashes)]
        votes: dict[tuple[int, int], int] = {}
        slots, tags = self._slots_of(asked).tolist(), asked["low"].tolist()
        for slot, wanted in zip(slots, tags, strict=True):
            row = os.pread(self._file, _ROWS.itemsize, _FIRST + slot * _ROWS.itemsize)
            if len(row) == _ROWS.itemsize:
                tag, stream, region = struct.unpack("<QII", row)
                if tag == wanted:
                    votes[stream, region] = votes.get((stream, region), 0) + 1
        return sorted(votes, key=lambda page: -votes[page])

    def enter(self, pages: Iterable[tuple[int, Page]], *, are_news: bool = True) -> None:
        """Enter pages, each with its stream's number; news write over what was there before.

        Raises:
            OSError: the table cannot be written.
        """
        hashes: list[Hashes] = []
        rows: list[Rows] = []
        waiting = 0
        for stream, page in pages:
            chosen = page.hashes[_entered(page.hashes)]
            row = np.zeros(len(chosen), dtype=_ROWS)
            row["tag"], row["stream"], row["region"] = chosen["low"], stream, page.region
            hashes.append(chosen)
            rows.append(row)
            waiting += len(row)
            self.learned += len(row) if are_news else 0
            if waiting >= _BATCH:
                self._write(np.concatenate(hashes), np.concatenate(rows))
                hashes, rows, waiting = [], [], 0
        if waiting:
            self._write(np.concatenate(hashes), np.concatenate(rows))
        header = _HEADER.pack(_MAGIC, self.slots, self.learned, self._identity)
        os.pwrite(self._file, header, 0)

    def _write(self, hashes: Hashes, rows: Rows) -> None:
        slots = self._slots_of(hashes)
        order = np.argsort(slots, kind="stable")
        slots, rows = slots[order], rows[order]
        window = _SMALLEST_WINDOW
        while window < _LARGEST_WINDOW and window * len(rows) < 64 * self.slots:
            window *= 2
        begins = np.flatnonzero(np.diff(slots // np.uint64(window), prepend=np.uint64(1 << 63)))
        ends = [*begins[1:].tolist(), len(slots)]
        for begin, end in zip(begins.tolist(), ends, strict=True):
            first = int(slots[begin]) // window * window
            position = _FIRST + first * _ROWS.itemsize
            data = bytearray(os.pread(self._file, window * _ROWS.itemsize, position))
            there = np.frombuffer(data, _ROWS)
            there[(slots[begin:end] - np.uint64(first)).astype(np.int64)] = rows[begin:end]
            os.pwrite(self._file, data, position)

    def _slots_of(self, hashes: Hashes) -> U64:
        # The other half than the one that says which are entered, and that is kept.
        found: U64 = hashes["high"] >> np.uint64(64 - (self.slots.bit_length() - 1))
        return found


def build(path: Path, identity: bytes, blocks: int, pages: Iterable[tuple[int, Page]]) -> None:
    """Make a table for that many blocks and put it in the place of the one that is there.

    Raises:
        OSError: it cannot be written.
    """
    slots = slots_for(blocks)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as file:
            file.write(_HEADER.pack(_MAGIC, slots, 0, identity).ljust(_FIRST, b"\0"))
            # Written, not skipped: a disk that is full says so here, and not in the middle of it.
            for _ in range(slots // FEWEST_SLOTS):
                file.write(bytes(FEWEST_SLOTS * _ROWS.itemsize))
        with BlockIndex(part, identity) as index:
            index.enter(pages, are_news=False)
        part.replace(path)
        _sweep(path)
    finally:
        part.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what builds left that were killed; others may be at work at this very moment."""
    oldest = path.stat().st_mtime - _ABANDONED
    for part in path.parent.glob(f"{path.name}.*.part"):
        with suppress(FileNotFoundError):  # its build has just put it in its place
            if part.stat().st_mtime < oldest:
                part.unlink()


def _entered(hashes: Hashes) -> NDArray[np.bool_]:
    """Choose the blocks of a page that are entered: by their hashes, so that equal ones agree."""
    chosen: NDArray[np.bool_] = hashes["low"] % np.uint64(_ONE_IN) == 0
    if np.count_nonzero(chosen) < _FEW:
        chosen[:_FEW] = True
    return chosen & is_nonzero(hashes)


def _asked(hashes: Hashes) -> NDArray[np.bool_]:
    chosen: NDArray[np.bool_] = hashes["low"] % np.uint64(_ONE_IN) == 0
    chosen[:_ASKED] = True
    return chosen
