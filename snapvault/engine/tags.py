# SPDX-License-Identifier: Apache-2.0
"""Tags of 64 KiB of a disk, kept on the host alone: what is as it was is told without its hashes.

Most of a disk is as it was the night before. To see that by the hashes of its blocks costs four
times what a tag costs: AES-GMAC with a key of the file's own, which processors compute nearly as
fast as memory gives the bytes. Other bytes have the same tag with a chance of 2^-116, whatever they
are: it is a universal hash to everybody who knows neither key nor tags (NIST SP 800-38D). Tags are
a cache: without them a night costs more time, and nothing else.
"""

import secrets
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from snapvault.engine.spare_file import Sink
from snapvault.errors import SignatureError
from snapvault.formats.signatures import (
    REGION_BLOCKS,
    Hashes,
    Page,
    differ,
    hashes_from,
    is_nonzero,
    no_hashes,
    page_of,
    pages,
)

UNIT: Final = 64 << 10
"""Bytes of a tag."""

CHECKED: Final = 64
"""One in so many units is hashed every night, whatever its tag says."""

_MAGIC: Final = b"SVTAGS1\n"
_KEY: Final = 16  # bytes
_HEADER: Final = struct.Struct(f"<8sII{_KEY}s")
_NONCE: Final = 12  # bytes


@cache
def are_cheap() -> bool:
    """Tell whether the processor has instructions for tags; without, they cost more than hashes."""
    with suppress(OSError):
        words = set(Path("/proc/cpuinfo").read_text().split())
        return "aes" in words and not words.isdisjoint({"pclmulqdq", "pmull"})
    return False


def turn() -> int:
    """Return which of each `CHECKED` units is hashed tonight."""
    return secrets.randbelow(CHECKED)


@dataclass(frozen=True, slots=True)
class Tagged:
    """Tags of units that follow each other; `first` is the number of the first one."""

    first: int
    tags: Hashes


class Tags:
    """The tags of a disk's parent, and those of the disk, which go into a new file.

    Only a unit that is whole in the disk, and was read at once, has a tag. Ranges are asked for in
    rising order, and so are regions: a region is 65,536 blocks. Close it after use.
    """

    def __init__(
        self, old: Path | None, new: Sink, block_size: int, most: int, *, unit: int = UNIT
    ) -> None:
        """Open the parent's file; one that is of no use is left alone.

        The new one takes `most` bytes, and what has no room there has no tag.
        """
        self._unit = unit
        self._per_unit = unit // block_size
        self._units = REGION_BLOCKS // self._per_unit
        self._files = ExitStack()
        # Two readers: chunks are read ahead of the region that is looked at.
        self._ahead = self._open(old, block_size)
        self._behind = self._open(old, block_size)
        self._key = self._ahead.key or secrets.token_bytes(_KEY)
        self._found = no_hashes(self._units)
        self._new = new
        self._left = most - _HEADER.size
        self._turn = turn()
        new.write(_HEADER.pack(_MAGIC, unit, block_size, self._key))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.close()

    def _open(self, path: Path | None, block_size: int) -> "_Old":
        with suppress(OSError):
            file = self._files.enter_context(path.open("rb")) if path else None
            return _Old(file, self._unit, block_size, self._units)
        return _Old(None, self._unit, block_size, self._units)

    def _first(self, begin: int) -> int:
        """Return the number of the first unit that begins at a byte or behind it."""
        return -(-begin // self._unit)

    def before(self, begin: int, end: int) -> Tagged:
        """Return the parent's tags of the units that are whole in a range, which is in one region.

        Zeros where there is none.
        """
        first = self._first(begin)
        stop = max(first, end // self._unit)
        region = first // self._units
        if first == stop:
            return Tagged(first, no_hashes(0))
        tags = self._ahead.region(region)
        return Tagged(first, tags[first - region * self._units : stop - region * self._units])

    def of(self, begin: int, data: memoryview) -> Tagged:
        """Compute the tags of the units that are whole in what was read. Safe from any thread."""
        first = self._first(begin)
        aead = AESGCM(self._key)
        raw = b"".join(
            [
                # SAFETY: the unit's number is the nonce, so that bytes that moved are not the same.
                aead.encrypt((at // self._unit).to_bytes(_NONCE, "big"), b"", view)
                for at in range(first * self._unit, begin + len(data), self._unit)
                if len(view := data[at - begin : at - begin + self._unit]) == self._unit
            ]
        )
        return Tagged(first, hashes_from(raw))

    def unchanged(
        self, tagged: Tagged, before: Tagged, begin: int, count: int
    ) -> NDArray[np.bool_]:
        """Tell which of `count` blocks, from byte `begin` on, lie in units with the old tag.

        One unit in `CHECKED` is left out.
        """
        block_size = self._unit // self._per_unit
        found = np.zeros(count, dtype=bool)
        same = is_nonzero(before.tags) & ~differ(tagged.tags, before.tags)
        # SAFETY: a hash of the parent that is wrong, as after an error of memory, does not stay.
        same[(self._turn - tagged.first) % CHECKED :: CHECKED] = False
        at = (tagged.first * self._unit - begin) // block_size
        found[at : at + len(same) * self._per_unit] = np.repeat(same, self._per_unit)
        return found

    def take(self, tagged: Tagged) -> None:
        """Take new tags of the region that is ended next."""
        at = tagged.first % self._units
        self._found[at : at + len(tagged.tags)] = tagged.tags

    def end_region(self, region: int, same: NDArray[np.bool_]) -> None:
        """Write the tags of a region; what was not read keeps the old one where it is the same.

        `same` tells for each of its blocks whether it is as in the parent.
        """
        whole = len(same) // self._per_unit
        kept = np.zeros(self._units, dtype=bool)
        kept[:whole] = same[: whole * self._per_unit].reshape(-1, self._per_unit).all(axis=1)
        kept &= ~is_nonzero(self._found)
        old = self._behind.region(region)
        self._found[kept] = old[kept]
        page = page_of(region, self._found, is_nonzero(self._found))
        self._found = no_hashes(self._units)
        raw = page.encode() if page else b""
        if raw and len(raw) <= self._left:
            self._left -= len(raw)
            self._new.write(raw)


class _Old:
    """The pages of a file of tags, region by region; nothing, if it is no such file."""

    def __init__(self, file: BinaryIO | None, unit: int, block_size: int, units: int) -> None:
        self.key = b""
        self._units = units
        self._region = -1
        self._tags = no_hashes(units)
        self._pages: Iterator[Page] = iter(())
        header = file.read(_HEADER.size) if file else b""
        if file and len(header) == _HEADER.size:
            magic, *sizes, key = _HEADER.unpack(header)
            if (magic, *sizes) == (_MAGIC, unit, block_size):
                self.key = key
                self._pages = pages(file)
        self._next = self._read()

    def region(self, number: int) -> Hashes:
        """Return the tags of a region; the number must not fall."""
        if number != self._region:
            self._region, self._tags = number, no_hashes(self._units)
            while self._next is not None and self._next.region < number:
                self._next = self._read()
            if self._next is not None and self._next.region == number:
                self._next.apply(self._tags)
        return self._tags

    def _read(self) -> Page | None:
        with suppress(SignatureError, OSError):
            page = next(self._pages, None)
            return page if page is None or page.index[-1] < self._units else None
        return None
