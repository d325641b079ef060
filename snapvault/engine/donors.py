# SPDX-License-Identifier: Apache-2.0
"""Points of sources of this host whose volumes another source's point may name as well."""

import struct
from collections import OrderedDict
from collections.abc import Container, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from snapvault.engine import head
from snapvault.engine.block_index import stream_number
from snapvault.engine.commit import cached_list
from snapvault.engine.head import Head, Kept
from snapvault.engine.key_changes import OwnKey
from snapvault.engine.vault import Held, Vault, sync
from snapvault.errors import ConfigError, IntegrityError, ObjectMissingError, SealError
from snapvault.formats import names, signatures
from snapvault.formats.signatures import HASH_SIZE, Hashes
from snapvault.formats.volume_list import VolumeRecord
from snapvault.model.extents import FIRST_VOLUME, U64, ExtentMap
from snapvault.ports.sealer import Addressees

_AT_ONCE: Final = 4  # donors that are open
_PROVEN_FOR_A_PAGE: Final = 16 << 20  # bytes whose digest takes as long as sorting a page
_PAGE_HEAD = struct.Struct("<II")
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Disk:
    """A disk of a donor; `starts` are those of its extents, `positions` of pages in the file."""

    extents: ExtentMap
    starts: U64
    file: BinaryIO
    positions: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class _Donor:
    """A point that is in the vault, its head proven; `volumes` are those that its lists name."""

    disks: Mapping[str, _Disk]
    volumes: Mapping[str, VolumeRecord]

    def close(self) -> None:
        for disk in self.disks.values():
            disk.file.close()


@dataclass(frozen=True, slots=True)
class DonorPage:
    """One region of a donor's disk: its blocks by the lower halves of their hashes, sorted."""

    donor: _Donor
    stream: str
    region: int
    low: U64
    high: U64
    index: Indices

    def match(self, hashes: Hashes) -> tuple[Indices, Indices]:
        """Return which of the hashes are here, and the numbers of their blocks on the disk."""
        low = np.ascontiguousarray(hashes["low"])
        at = np.minimum(np.searchsorted(self.low, low), len(self.low) - 1)
        same = np.flatnonzero((self.low[at] == low) & (self.high[at] == hashes["high"]))
        return same, self.index[at[same]] + self.region * signatures.REGION_BLOCKS


@dataclass(frozen=True, slots=True)
class Found:
    """Where blocks lie: one volume, the blocks' own indices, and the offset of each."""

    volume: VolumeRecord
    index: Indices
    offset: U64


class Donors:
    """The heads that this host keeps, opened as they are asked for.

    A point counts when its manifest is in the vault now, trusted, and made with the same key for
    block hashes; a volume of it when no prune has doomed it and the store has it. Once recipients
    have changed, a volume has to be sealed to those of now, and to nobody else.
    """

    def __init__(
        self,
        vault: Vault,
        sources: Path,
        *,
        parent: Head | None,
        key: OwnKey,
        doomed: Container[str],
    ) -> None:
        self._vault = vault
        self._sources = sources
        self._parent = parent
        self._key = key
        self._doomed = doomed
        self._streams: dict[int, tuple[Kept, str]] | None = None
        self._held: dict[str, Held | None] = {}
        self._open: OrderedDict[str, _Donor | None] = OrderedDict()
        self._there: dict[str, bool] = {}
        self._addressees: Addressees | None = None

    def close(self) -> None:
        """Let go of all files."""
        for donor in self._open.values():
            if donor is not None:
                donor.close()
        self._open.clear()

    def price(self, number: int) -> float:
        """Return what a page of a stream costs, in pages: its donor may have to be proven first."""
        kept, _ = self._stream(number)
        if kept is None or kept.source in self._open:
            return 1.0
        with suppress(OSError):
            size = sum(path.stat().st_size for path in kept.signatures().values())
            return 1.0 + size / _PROVEN_FOR_A_PAGE
        return 1.0

    def page(self, number: int, region: int) -> DonorPage | None:
        """Return a page of the stream of that number; None if there is none that counts.

        Raises:
            StoreError: the vault did not answer.
        """
        kept, stream = self._stream(number)
        donor = self._donor(kept) if kept is not None else None
        disk = donor.disks.get(stream) if donor is not None else None
        position = disk.positions.get(region) if disk is not None else None
        if donor is None or disk is None or position is None:
            return None
        try:
            disk.file.seek(position)
            page = next(signatures.pages(disk.file))
        except (OSError, IntegrityError):
            return None
        low = np.ascontiguousarray(page.hashes["low"])
        order = np.argsort(low)
        high, index = page.hashes["high"][order], page.index[order].astype(np.int64)
        return DonorPage(donor, stream, page.region, low[order], high, index)

    def places(self, page: DonorPage, blocks: Indices) -> list[Found]:
        """Return where blocks of a page lie, those of them that lie in volumes that count.

        Raises:
            StoreError: the vault did not answer.
        """
        disk = page.donor.disks[page.stream]
        extents, starts = disk.extents, disk.starts
        size = self._vault.record.block_size
        begin = blocks.astype(np.uint64) * np.uint64(size)
        end = np.minimum(begin + np.uint64(size), np.uint64(extents.size))
        row = np.searchsorted(starts, begin, side="right") - 1
        place = extents.place[row]
        whole = (place >= FIRST_VOLUME) & (end <= starts[row] + extents.length[row]) & (begin < end)
        offset = extents.offset[row] + (begin - starts[row])
        found = []
        for each in np.unique(place[whole]).tolist():
            volume = page.donor.volumes.get(extents.volumes[each - FIRST_VOLUME])
            if volume is not None and self._counts(volume):
                index = np.flatnonzero(whole & (place == each))
                found.append(Found(volume, index, offset[index]))
        return found

    def _stream(self, number: int) -> tuple[Kept | None, str]:
        if self._streams is None:
            self._streams = {
                stream_number(kept.source, stream): (kept, stream)
                for kept in head.all_kept(self._sources)
                for stream in kept.signatures()
            }
        return self._streams.get(number, (None, ""))

    def _donor(self, kept: Kept) -> _Donor | None:
        if kept.source not in self._open:
            if len(self._open) >= _AT_ONCE:
                _, oldest = self._open.popitem(last=False)
                if oldest is not None:
                    oldest.close()
            self._open[kept.source] = self._opened(kept)
        self._open.move_to_end(kept.source)
        return self._open[kept.source]

    def _opened(self, kept: Kept) -> _Donor | None:
        if kept.source not in self._held:
            self._held[kept.source] = self._look_for(kept)
        held = self._held[kept.source]
        if held is None:
            return None
        parent = self._parent
        is_parent = parent is not None and parent.held.point.point == held.point.point
        found = parent if is_parent else head.load_kept(kept, held)
        if found is None:
            return None
        block_size = self._vault.record.block_size
        with ExitStack() as stack, suppress(OSError, IntegrityError):
            disks = {}
            for stream in held.point.streams:
                if stream.engine == "blocks" and stream.block_size == block_size:
                    file = stack.enter_context(found.signatures[stream.name].open("rb"))
                    full = found.maps[stream.name]
                    disks[stream.name] = _Disk(full, full.starts(), file, _page_positions(file))
            lists = [cached_list(self._vault, record) for record in held.point.lists]
            stack.pop_all()
            return _Donor(disks, {each.volume: each for some in lists for each in some})
        return None

    def _look_for(self, kept: Kept) -> Held | None:
        """Return the point of a head if it is in the vault at this moment, and of use here."""
        for held in sync(self._vault, kept.source).of(kept.source):
            if held.point.point == kept.point and self._key.is_same(held.point.hash_key):
                return held
        return None

    def _counts(self, volume: VolumeRecord) -> bool:
        if volume.volume not in self._there:
            self._there[volume.volume] = self._is_there(volume)
        return self._there[volume.volume]

    def _is_there(self, volume: VolumeRecord) -> bool:
        name = names.volume(volume.volume)
        if name in self._doomed:
            return False
        with suppress(ObjectMissingError, IntegrityError, ConfigError, SealError):
            size = self._vault.store.stat(name).size
            return size == volume.size and self._has_its_readers(name, size)
        return False

    def _has_its_readers(self, name: str, size: int) -> bool:
        """Tell whether a volume is sealed to those to whom a new one would be."""
        if not self._key.late and self._key.equals == {self._key.record.sha256}:
            return True  # recipients have never changed
        if self._addressees is None and self._vault.addressees is not None:
            self._addressees = self._vault.addressees()
        if self._addressees is None:
            return False
        start = self._vault.store.get_part(name, 0, min(size, self._addressees.head_size))
        readers = {self._addressees.owner(each) for each in self._addressees.ids(start)}
        return readers == set(self._vault.sealer.recipients)


def _page_positions(file: BinaryIO) -> dict[int, int]:
    """Return where the page of each region begins in a file of signatures."""
    positions = {}
    position = 0
    while len(raw := file.read(_PAGE_HEAD.size)) == _PAGE_HEAD.size:
        region, count = _PAGE_HEAD.unpack(raw)
        positions[region] = position
        position += _PAGE_HEAD.size + count * (2 + HASH_SIZE)
        file.seek(position)
    return positions
