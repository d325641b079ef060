# SPDX-License-Identifier: Apache-2.0
"""Deduplication across sources: blocks that a source of this host has stored already.

What changed is compared with pages of other disks' signatures, the way neighbors on one disk are
neighbors on its clone: the index names a page, and all its blocks are compared at once. Looking is
paid for by finding, so that it costs little where there is nothing to be found.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from snapvault.engine import block_index, head
from snapvault.engine.block_index import BlockIndex, stream_number
from snapvault.engine.donors import DonorPage, Donors, Indices
from snapvault.engine.head import Kept
from snapvault.engine.vault import Vault
from snapvault.errors import IntegrityError
from snapvault.formats import signatures
from snapvault.formats.signatures import HASH_SIZE, Hashes, Page
from snapvault.formats.volume_list import VolumeRecord
from snapvault.model.extents import U64

WORTH_IT: Final = 16
"""Blocks that have to lie in a volume before a restore shall fetch it for them."""

_FILE = "blocks.index"
_PAGES = 8  # in memory, some 1.5 MB each
_TRIES = 2  # pages looked for at once
_FIRST_CREDIT = 128.0  # pages that may be loaded for nothing
_MOST_CREDIT = 512.0
_EARNED_BY_ASKING = 1 / 16
_EARNED_BY_A_BLOCK = 1 / 64


@dataclass(frozen=True, slots=True)
class Shared:
    """Blocks that are stored already: their indices, the volume, and the offset of each."""

    index: Indices
    volume: str
    offset: U64


class Sharing:
    """Finds blocks of one run. `used` are volumes that its point needs in any case.

    Nothing is opened before the first block is looked for.
    """

    def __init__(
        self,
        open_index: Callable[[], BlockIndex | None],
        donors: Donors,
        *,
        block_size: int,
        used: Iterable[str],
    ) -> None:
        self._open_index: Callable[[], BlockIndex | None] | None = open_index
        self._index: BlockIndex | None = None
        self._donors = donors
        self._block_size = block_size
        self._used = set(used)
        self._seen: Counter[str] = Counter()
        self._pages: OrderedDict[tuple[int, int], DonorPage | None] = OrderedDict()
        self._credit = _FIRST_CREDIT
        self.records: dict[str, VolumeRecord] = {}
        self.deduplicated_bytes = 0

    def close(self) -> None:
        """Let go of all files; nothing is found any more."""
        self._open_index = None
        self._drop_index()
        self._pages.clear()
        self._donors.close()

    def _drop_index(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None

    def find(self, hashes: Hashes, wanted: NDArray[np.bool_]) -> list[Shared]:
        """Return which of the wanted blocks are stored already, and where.

        Raises:
            StoreError: the vault did not answer.
        """
        left: Indices = np.flatnonzero(wanted)
        if not len(left):
            return []
        if self._open_index is not None:
            self._index, self._open_index = self._open_index(), None
        if self._index is None and not self._pages:
            return []
        found: list[Shared] = []
        self._credit = min(_MOST_CREDIT, self._credit + _EARNED_BY_ASKING)
        for key in reversed(list(self._pages)):
            left = self._take(key, hashes, left, found)
        for _ in range(_TRIES):
            if not len(left) or not (loaded := self._load(hashes[left])):
                break
            left = self._take(loaded, hashes, left, found)
        return found

    def _load(self, hashes: Hashes) -> tuple[int, int] | None:
        """Load the page that most of these blocks may be in, unless it is there or too dear."""
        if self._index is None or self._credit < 1:
            return None
        try:
            pages = self._index.look_up(hashes)
        except OSError:
            self._drop_index()
            return None
        for key in pages:
            price = self._donors.price(key[0])
            if key in self._pages or price > self._credit:
                continue
            self._credit -= price
            # One that is of no use is remembered as such, as long as pages are.
            self._pages[key] = self._donors.page(*key)
            while len(self._pages) > _PAGES:
                self._pages.popitem(last=False)
            return key
        return None

    def _take(
        self, key: tuple[int, int], hashes: Hashes, left: Indices, found: list[Shared]
    ) -> Indices:
        """Add what a page has of the blocks that are left, and return those that still are."""
        page = self._pages[key]
        if page is None or not len(left):
            return left
        same, blocks = page.match(hashes[left])
        if not len(same):
            return left
        self._pages.move_to_end(key)
        taken = np.zeros(len(left), dtype=bool)
        for each in self._donors.places(page, blocks):
            volume = each.volume.volume
            self._seen[volume] += len(each.index)
            if volume not in self._used and self._seen[volume] < WORTH_IT:
                continue
            self._used.add(volume)
            self.records[volume] = each.volume
            at = same[each.index]
            taken[at] = True
            found.append(Shared(left[at], volume, each.offset))
        count = int(np.count_nonzero(taken))
        self._credit = min(_MOST_CREDIT, self._credit + count * _EARNED_BY_A_BLOCK)
        self.deduplicated_bytes += count * self._block_size
        return left[~taken]


def open_index(vault: Vault, key: bytes) -> BlockIndex | None:
    """Open this host's index of a vault's blocks; None if it is of no use."""
    try:
        return BlockIndex(vault.state / _FILE, _identity(vault, key))
    except (OSError, ValueError):
        return None


def learn(
    vault: Vault, sources: Path, source: str, changed: Iterable[tuple[str, Path]], key: bytes
) -> None:
    """Enter the blocks of a point just committed: files of pages, by stream.

    An index that is missing, damaged or does not fit any more is made anew from the heads.

    Raises:
        OSError: the state folder cannot be written.
    """
    heads = head.all_kept(sources)
    blocks = sum(_blocks_of(kept) for kept in heads)
    index = open_index(vault, key)
    if index is not None:
        with index:
            if block_index.is_fit(index, blocks):
                for stream, path in changed:
                    index.enter(_pages(path, stream_number(source, stream)))
                return
    every = (
        page
        for kept in heads
        for stream, path in kept.signatures().items()
        for page in _pages(path, stream_number(kept.source, stream))
    )
    block_index.build(vault.state / _FILE, _identity(vault, key), blocks, every)


def _identity(vault: Vault, key: bytes) -> bytes:
    """Return what tells blocks of another size or key apart; it gives no key away."""
    text = f"index of blocks of {vault.record.block_size} bytes in vault {vault.record.vault}"
    return blake3(text.encode(), key=key).digest()


def _blocks_of(kept: Kept) -> int:
    """Return the blocks in a head's signatures, more or less."""
    total = 0
    for path in kept.signatures().values():
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total // (2 + HASH_SIZE)


def _pages(path: Path, number: int) -> Iterator[tuple[int, Page]]:
    """Read pages as far as they can be read: of another run's head, which may be gone by now."""
    try:
        with path.open("rb") as file:
            if file.read(len(_RSYNC)) == _RSYNC:
                return
            file.seek(0)
            for page in signatures.pages(file):
                yield number, page
    except (OSError, IntegrityError):
        return


_RSYNC = b"rs\x01"  # how librsync's signatures begin
