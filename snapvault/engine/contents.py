# SPDX-License-Identifier: Apache-2.0
"""What a point holds, ready to be fetched; and the proof that it came back as it was."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import compress

from blake3 import blake3

from snapvault.engine import metadata
from snapvault.engine.blocks import block_hashes
from snapvault.engine.buffers import dense, sparse
from snapvault.engine.commit import cached_list
from snapvault.engine.extract import Pieces, Plan, plan
from snapvault.engine.key_changes import key_of
from snapvault.engine.mixed import Whole, is_part
from snapvault.engine.vault import Vault
from snapvault.errors import IntegrityError
from snapvault.formats.signatures import HASH_SIZE
from snapvault.formats.volume_list import VolumeRecord
from snapvault.model.extents import ExtentMap
from snapvault.model.point import Point, StreamRecord

_STEP = 1 << 20  # bytes
_READ = 4 << 20  # bytes; as much memory


@dataclass(frozen=True, slots=True)
class Contents:
    """Some streams of a point with their maps, and the volumes that the point vouches for."""

    point: Point
    streams: tuple[StreamRecord, ...]
    maps: tuple[ExtentMap, ...]
    volumes: dict[str, VolumeRecord]
    hash_key: bytes

    def plan(self) -> Plan:
        """Return what to fetch to bring the streams back."""
        units = [each.block_size if each.engine == "blocks" else 1 for each in self.streams]
        return plan(self.maps, self.volumes, units)

    def only(self, wanted: Sequence[bool]) -> "Contents":
        """Return the contents reduced to some of the streams."""
        return replace(
            self,
            streams=tuple(compress(self.streams, wanted)),
            maps=tuple(compress(self.maps, wanted)),
        )


def look_up(vault: Vault, point: Point, streams: tuple[StreamRecord, ...]) -> Contents:
    """Fetch the metadata of some streams of a point.

    Raises:
        IntegrityError: an object is missing or damaged.
        KeyMissingError: no key here opens it.
    """
    maps = metadata.read_maps(vault, point, streams)
    volumes = {record.volume: record for each in point.lists for record in cached_list(vault, each)}
    return Contents(point, streams, tuple(maps), volumes, key_of(vault, point))


class BlockDigest:
    """The content digest of a disk, from blocks that come in any order. Safe from several threads.

    Takes 16 bytes of memory a block that is not zeros. `join` gets the pieces that are less than
    whole blocks, with their offsets, and returns the block that such a piece makes whole.
    """

    def __init__(
        self, stream: StreamRecord, key: bytes, join: Callable[[int, memoryview], Whole | None]
    ) -> None:
        self._stream = stream
        self._key = key
        self._join = join
        # On a sparse disk most of this table is never written, and takes no memory.
        self._hashes = sparse(-(-stream.size // stream.block_size) * HASH_SIZE)

    def add(self, pieces: Pieces, data: memoryview) -> None:
        """Take pieces: whole blocks (only the disk's last may be short), or parts of one."""
        begin = end = 0
        run: list[tuple[int, int]] = []
        for piece in pieces:
            if is_part(self._stream, *piece):
                self._add_run(run, data[begin:end])
                begin, run = end + piece[1], []
                self.add_whole(self._join(piece[0], data[end:begin]))
                end = begin
                continue
            run.append(piece)
            end += piece[1]
            if piece[1] % self._stream.block_size:
                self._add_run(run, data[begin:end])
                begin, run = end, []
        self._add_run(run, data[begin:end])

    def add_whole(self, blocks: Whole | None) -> None:
        """Take what was put together, if there is anything."""
        if blocks is not None:
            begin, data = blocks
            self._add_run([(begin, len(data))], data)

    def _add_run(self, pieces: Pieces, data: memoryview) -> None:
        """Hash blocks that follow each other in memory in one go; only the last may be short."""
        if not pieces:
            return
        hashes = block_hashes(data, self._key, self._stream.block_size)
        taken = 0
        for offset, length in pieces:
            at = offset // self._stream.block_size * HASH_SIZE
            size = -(-length // self._stream.block_size) * HASH_SIZE
            self._hashes[at : at + size] = hashes[taken : taken + size]
            taken += size

    def check(self, point: Point) -> None:
        """Hold what came against the manifest.

        Raises:
            IntegrityError: it is not what was backed up.
        """
        digest = blake3()
        for start in range(0, len(self._hashes), _STEP):
            digest.update(self._hashes[start : start + _STEP])
        require_digest(self._stream, point, digest.hexdigest())


def stream_digest(size: int, read_into: Callable[[int, memoryview], None]) -> str:
    """Return the SHA-256, in lower-case hex, of a stream that is read back in order."""
    digest = hashlib.sha256()
    # What starts at a page is read past the cache, at a tenth of the cost.
    buffer = dense(_READ)
    for offset in range(0, size, len(buffer)):
        view = buffer[: min(len(buffer), size - offset)]
        read_into(offset, view)
        digest.update(view)
    return digest.hexdigest()


def require_digest(stream: StreamRecord, point: Point, found: str) -> None:
    """Compare a content digest with the manifest's.

    Raises:
        IntegrityError: they differ.
    """
    if found != stream.digest:
        raise IntegrityError(
            f'stream "{stream.name}" of restore point "{point.point}" is not what was backed up: '
            "its content digest differs from the manifest",
            hint="The stored objects are as they were written: report this, and try another point.",
        )
