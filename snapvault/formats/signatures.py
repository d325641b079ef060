# SPDX-License-Identifier: Apache-2.0
"""Block signatures as bytes: docs/format.md, section 5.2.

Payload: pages, by rising region, each: region u32 | count u32 | index u16 x count, rising |
hash 16s x count. Little-endian. A region is 65,536 blocks. In a full signature a block that no page
names is zeros; in changes it is as in the parent, and a hash of 16 zero bytes says zeros.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snapvault.errors import SignatureError
from snapvault.model.streams import Readable

HASH_SIZE = 16
REGION_BLOCKS = 1 << 16

_PAGE = struct.Struct("<II")
_HASHES = np.dtype([("low", "<u8"), ("high", "<u8")])

Hashes = NDArray[np.void]
"""Hashes of 16 bytes, as pairs of u64, so that numpy compares them whole."""


def no_hashes(count: int) -> Hashes:
    """Return the hashes of that many blocks of zeros."""
    return np.zeros(count, dtype=_HASHES)


def hashes_from(raw: bytes | bytearray | memoryview) -> Hashes:
    """View bytes, 16 a block, as hashes."""
    return np.frombuffer(raw, dtype=_HASHES)


@dataclass(frozen=True, slots=True)
class Page:
    """The blocks of one region that a signature speaks of; never empty."""

    region: int
    index: NDArray[np.uint16]
    hashes: Hashes

    def encode(self) -> bytes:
        """Write the page."""
        return (
            _PAGE.pack(self.region, len(self.index))
            + self.index.astype("<u2").tobytes()
            + self.hashes.tobytes()
        )

    def apply(self, region: Hashes) -> None:
        """Write the page's hashes into a region's."""
        region[self.index] = self.hashes


def page_of(region: int, hashes: Hashes, wanted: NDArray[np.bool_]) -> Page | None:
    """Return the page of the wanted blocks of a region; None when there are none."""
    index = np.flatnonzero(wanted)
    if not len(index):
        return None
    return Page(region, index.astype(np.uint16), hashes[index])


def is_nonzero(hashes: Hashes) -> NDArray[np.bool_]:
    """Tell which blocks are anything but zeros."""
    return differ(hashes, no_hashes(1))


def differ(left: Hashes, right: Hashes) -> NDArray[np.bool_]:
    """Tell which hashes differ."""
    unlike: NDArray[np.bool_] = (left["low"] != right["low"]) | (left["high"] != right["high"])
    return unlike


def pages(stream: Readable) -> Iterator[Page]:
    """Read pages to the end of a payload.

    Raises:
        SignatureError: these bytes are not pages.
    """
    before = -1
    while head := stream.read(_PAGE.size):
        if len(head) != _PAGE.size:
            raise SignatureError("signature is cut short")
        region, count = _PAGE.unpack(head)
        if region <= before or not 0 < count <= REGION_BLOCKS:
            raise SignatureError(f"signature holds an impossible page of region {region}")
        before = region
        body = stream.read(count * (2 + HASH_SIZE))
        if len(body) != count * (2 + HASH_SIZE):
            raise SignatureError("signature is cut short")
        index = np.frombuffer(body, "<u2", count)
        if not (np.diff(index.astype(np.int32)) > 0).all():
            raise SignatureError(f"signature page of region {region} is not in order")
        yield Page(region, index, np.frombuffer(body, _HASHES, count, 2 * count))


@dataclass(frozen=True, slots=True)
class Log:
    """One link of a log: its pages, and the number of blocks its stream had then."""

    pages: Iterator[Page]
    blocks: int


def compose(logs: Sequence[Log]) -> Iterator[Page]:
    """Merge a full signature and the changes after it, oldest first, into the full one.

    Works region by region: memory holds a page of each log. A stream that was shorter in
    between has lost the blocks beyond its end, whatever older pages say of them.
    """
    heads = [next(log.pages, None) for log in logs]
    while any(head is not None for head in heads):
        region = min(head.region for head in heads if head is not None)
        merged = no_hashes(REGION_BLOCKS)
        for number, (log, head) in enumerate(zip(logs, heads, strict=True)):
            if head is not None and head.region == region:
                head.apply(merged)
                heads[number] = next(log.pages, None)
            merged[max(0, log.blocks - region * REGION_BLOCKS) :] = no_hashes(1)
        page = page_of(region, merged, is_nonzero(merged))
        if page is not None:
            yield page
