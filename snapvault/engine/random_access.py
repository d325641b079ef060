# SPDX-License-Identifier: Apache-2.0
"""The disks of a point at random: whatever is asked for is fetched, and proven before it is given.

A volume's own digest is known to fit only at its end. But the point's signature holds a keyed
hash of every block, and the manifest's content digest vouches for all of these; so each
block is held against its hash.
"""

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from blake3 import blake3

from snapvault.engine import metadata
from snapvault.engine.blocks import block_hashes
from snapvault.engine.contents import Contents, require_digest
from snapvault.engine.vault import Vault
from snapvault.engine.volume_cache import VolumeCache
from snapvault.engine.volume_room import Need
from snapvault.errors import RestoreError, SignatureError, VolumeError
from snapvault.formats import names, signatures
from snapvault.formats.signatures import HASH_SIZE, REGION_BLOCKS, hashes_from
from snapvault.model.extents import FIRST_VOLUME, ZERO, ExtentMap, runs_of_zeros
from snapvault.model.point import Point, StreamRecord
from snapvault.ports.events import Events

_STEP = 1 << 20  # bytes
_NO_SIGNATURE = "Restore it to a file instead."


class Disk:
    """One disk of a point. Safe from several threads; `ServedDisk` of the ports."""

    def __init__(
        self,
        stream: StreamRecord,
        extents: ExtentMap,
        *,
        cache: VolumeCache,
        hashes: memoryview,
        key: bytes,
        events: Events,
    ) -> None:
        self._stream = stream
        self._cache = cache
        self._hashes = hashes
        self._key = key
        self._events = events
        self._told: set[str] = set()
        self._volumes = extents.volumes
        self._length, self._place, self._offset = extents.length, extents.place, extents.offset
        self._starts = extents.starts()
        start, length, self._run_is_zero = runs_of_zeros(extents)
        self._run_ends = start + length

    @property
    def name(self) -> str:
        """The stream's name."""
        return self._stream.name

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self._stream.size

    @property
    def block_size(self) -> int:
        """Bytes of the blocks that are hashed."""
        return self._stream.block_size

    @property
    def first_data(self) -> int | None:
        """Where the first byte is that a volume holds; None if all are zeros."""
        data = np.flatnonzero(self._place != ZERO)
        return int(self._starts[data[0]]) if len(data) else None

    def read(self, offset: int, length: int) -> memoryview:
        """Return bytes of the disk, every block of which fits its hash.

        Raises:
            IntegrityError: they are not there any more as they were backed up.
            StoreError, SealError: they could not be fetched, or opened.
            RestoreError: there is no room to keep them in.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise RestoreError(f'disk "{self.name}" ends at {self.size} bytes')
        begin = offset - offset % self.block_size
        end = min(self.size, -(-(offset + length) // self.block_size) * self.block_size)
        view = memoryview(bytearray(end - begin))
        for at in range(begin, end, self._step):
            self._fill(at, view[at - begin : at - begin + self._step])
        return view[offset - begin : offset - begin + length]

    def extents(self, offset: int, length: int, limit: int) -> Sequence[tuple[int, bool]]:
        """Return (length, whether it is zeros) of the runs from `offset` on, `limit` at most."""
        first = int(np.searchsorted(self._run_ends, np.uint64(offset), side="right"))
        ends = self._run_ends[first : first + limit].tolist()
        zeros = self._run_is_zero[first : first + limit].tolist()
        found: list[tuple[int, bool]] = []
        at, stop = offset, offset + length
        for end, is_zero in zip(ends, zeros, strict=True):
            found.append((min(end, stop) - at, is_zero))
            at = end
            if end >= stop:
                break
        return found

    @property
    def _step(self) -> int:
        return max(self.block_size, _STEP - _STEP % self.block_size)

    def _fill(self, begin: int, view: memoryview) -> None:
        """Fill a view with whole blocks; a volume that turns out wrong is fetched once more."""
        self._fetch(begin, view)
        wrong = self._first_wrong(begin, view)
        if wrong is None:
            return
        for volume in self._volumes_of(wrong):
            self._cache.forget(volume)
        self._fetch(begin, view)
        wrong = self._first_wrong(begin, view)
        if wrong is not None:
            raise self._damaged(wrong)

    def _fetch(self, begin: int, view: memoryview) -> None:
        """Fill a view with what the map says is there."""
        for volume, raw, start, stop in self._parts(begin, begin + len(view)):
            part = view[start - begin : stop - begin]
            if volume is None:
                part[:] = bytes(len(part))
            else:
                self._cache.read_into(volume, raw, part)

    def _parts(self, begin: int, end: int) -> Iterator[tuple[str | None, int, int, int]]:
        """Yield volume (None: zeros), offset in it, and range of the disk, in the disk's order."""
        first = int(np.searchsorted(self._starts, np.uint64(begin), side="right")) - 1
        last = int(np.searchsorted(self._starts, np.uint64(end), side="left"))
        rows = slice(first, last)
        for start, length, place, raw in zip(
            self._starts[rows].tolist(),
            self._length[rows].tolist(),
            self._place[rows].tolist(),
            self._offset[rows].tolist(),
            strict=True,
        ):
            at = max(start, begin)
            volume = None if place == ZERO else self._volumes[place - FIRST_VOLUME]
            yield volume, raw + at - start, at, min(start + length, end)

    def _volumes_of(self, begin: int) -> list[str]:
        """Return the volumes that a block lies in: most lie in one."""
        end = min(begin + self.block_size, self.size)
        return [volume for volume, *_ in self._parts(begin, end) if volume is not None]

    def _first_wrong(self, begin: int, view: memoryview) -> int | None:
        """Return the offset of the first block that does not fit its hash; None if all do."""
        found = block_hashes(view, self._key, self.block_size)
        at = begin // self.block_size * HASH_SIZE
        expected = bytes(self._hashes[at : at + len(found)])
        if found == expected:
            return None
        unlike = signatures.differ(hashes_from(found), hashes_from(expected))
        return begin + int(np.flatnonzero(unlike)[0]) * self.block_size

    def _damaged(self, begin: int) -> VolumeError:
        volumes = self._volumes_of(begin)
        named = " or ".join(f'volume "{names.volume(volume)}"' for volume in volumes) or "map"
        error = VolumeError(
            f'{named} is damaged: the block at offset {begin} of stream "{self.name}" is not what'
            " was backed up",
            hint='Run "snapvault verify --level data" to see which restore points need it.',
        )
        if not self._told.issuperset(volumes):
            self._told.update(volumes)
            self._events.warn("block.damaged", str(error), stream=self.name, offset=begin)
        return error


@dataclass(frozen=True, slots=True)
class OpenPoint:
    """The disks of a point, and the cache that they read through."""

    disks: tuple[Disk, ...]
    cache: VolumeCache


@contextmanager
def open_point(
    vault: Vault, contents: Contents, *, folder: Path, limit: int
) -> Iterator[OpenPoint]:
    """Open disks of a point for reading at random; nothing of their data is fetched yet.

    `folder` is on a disk that takes `limit` bytes of volumes in clear, in files without names.

    Raises:
        RestoreError: a stream is no disk, or the limit is too small.
        IntegrityError: an object is missing or damaged.
        KeyMissingError: no key here opens it.
    """
    for stream in contents.streams:
        if stream.engine != "blocks":
            raise RestoreError(
                f'stream "{stream.name}" is no disk, and cannot be read at random',
                hint=_NO_SIGNATURE,
            )
    with ExitStack() as stack:
        tables = [
            stack.enter_context(table)
            for table in _hash_tables(vault, contents.point, contents.streams, folder)
        ]
        cache = VolumeCache(
            vault.store,
            vault.sealer,
            vault.events,
            _needs(contents),
            folder=folder,
            limit=limit,
        )
        stack.callback(cache.close)
        disks = tuple(
            Disk(
                stream,
                extents,
                cache=cache,
                hashes=table,
                key=contents.hash_key,
                events=vault.events,
            )
            for stream, extents, table in zip(contents.streams, contents.maps, tables, strict=True)
        )
        yield OpenPoint(disks, cache)


def _needs(contents: Contents) -> dict[str, Need]:
    """Return the volumes in use, and how far."""
    needs: dict[str, Need] = {}
    for extents in contents.maps:
        ends = np.zeros(FIRST_VOLUME + len(extents.volumes), dtype=np.uint64)
        np.maximum.at(ends, extents.place, extents.offset + extents.length)
        for volume, end in zip(extents.volumes, ends[FIRST_VOLUME:].tolist(), strict=True):
            record = contents.volumes.get(volume)
            if record is None:
                raise SignatureError(
                    f'map uses volume "{volume}", which its manifest does not vouch for'
                )
            before = needs[volume].end if volume in needs else 0
            if end:
                needs[volume] = Need(record, max(end, before))
    return needs


def _hash_tables(
    vault: Vault, point: Point, streams: tuple[StreamRecord, ...], folder: Path
) -> "list[_Table]":
    """Return the block hashes of disks, proven by their content digests."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        written = Path(made)
        metadata.write_signatures(vault, replace(point, streams=streams), written)
        return [_Table(stream, point, written / f"{stream.name}.sig", folder) for stream in streams]


class _Table:
    """The hashes of all blocks of a disk, 16 bytes each, in a nameless file that memory maps.

    On a large disk they are more than should lie in memory.
    """

    def __init__(self, stream: StreamRecord, point: Point, pages: Path, folder: Path) -> None:
        size = -(-stream.size // stream.block_size) * HASH_SIZE
        self._map: mmap.mmap | None = None
        if size:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.truncate(size)
                self._map = mmap.mmap(file.fileno(), size)
        self._view = memoryview(self._map if self._map is not None else b"")
        with pages.open("rb") as raw:
            for page in signatures.pages(raw):
                self._write(page, stream)
        digest = blake3()
        for start in range(0, size, _STEP):
            digest.update(self._view[start : start + _STEP])
        require_digest(stream, point, digest.hexdigest())

    def __enter__(self) -> memoryview:
        return self._view

    def __exit__(self, *_: object) -> None:
        self._view.release()
        # A thread that is late may look at it still; the memory goes with its last user.
        with suppress(BufferError):
            if self._map is not None:
                self._map.close()

    def _write(self, page: signatures.Page, stream: StreamRecord) -> None:
        at = page.region * REGION_BLOCKS * HASH_SIZE
        region = self._view[at : at + REGION_BLOCKS * HASH_SIZE]
        if int(page.index[-1]) * HASH_SIZE >= len(region):
            raise SignatureError(f'signature of stream "{stream.name}" goes beyond its end')
        hashes = np.frombuffer(region, dtype=page.hashes.dtype)
        page.apply(hashes)
        del hashes
        region.release()
