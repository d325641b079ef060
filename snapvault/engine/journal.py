# SPDX-License-Identifier: Apache-2.0
"""The journal of a run: what the volumes it has sealed so far hold.

One file a volume, in the container of docs/format.md, section 5. A run that follows a killed one
looks its changes up here before it stores them.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np

from snapvault.engine.files import write_durably
from snapvault.errors import IntegrityError, ObjectMissingError
from snapvault.formats import meta, names
from snapvault.formats.signatures import HASH_SIZE, Hashes, differ, hashes_from
from snapvault.formats.volume_list import VolumeRecord
from snapvault.model.extents import U64
from snapvault.ports.store import StoreReader

SUFFIX = ".journal"


@dataclass(frozen=True, slots=True)
class PendingBlocks:
    """Blocks of one disk that volumes of an earlier, unfinished run hold, sorted by block."""

    block: U64
    hashes: Hashes
    volume: tuple[str, ...]
    position: U64

    def find(
        self, first: int, hashes: Hashes, wanted: "np.ndarray[tuple[int], np.dtype[np.bool_]]"
    ) -> Iterator[tuple[int, str, int]]:
        """Yield (index in `hashes`, volume, offset) of wanted blocks, from `first` on."""
        # QUIRK: looking for any other type, numpy first copies the whole column to one of both.
        edges = np.array([first, first + len(hashes)], dtype=np.uint64)
        begin, end = np.searchsorted(self.block, edges)
        for at in range(int(begin), int(end)):
            index = int(self.block[at]) - first
            if wanted[index] and not differ(hashes[index : index + 1], self.hashes[at : at + 1])[0]:
                yield index, self.volume[at], int(self.position[at])


NO_BLOCKS = PendingBlocks(np.zeros(0, np.uint64), hashes_from(b""), (), np.zeros(0, np.uint64))


@dataclass(frozen=True, slots=True)
class PendingBytes:
    """Bytes of one stream that a volume of an earlier, unfinished run holds.

    They lie at `offset` in the volume's raw bytes; `signature` is librsync's, of just them.
    """

    volume: str
    offset: int
    length: int
    signature: bytes


@dataclass(slots=True)
class _Entry:
    """What one volume holds so far: (first block, raw offset, hashes) per disk, and the rest."""

    blocks: dict[str, list[tuple[int, int, Hashes]]] = field(default_factory=dict)
    bytes: dict[str, Callable[[], PendingBytes]] = field(default_factory=dict)


class Journal:
    """Collects what goes into each volume and writes it down when the volume is sealed.

    `note_…` are called from the engine's thread, `seal` from a volume's.
    """

    def __init__(self, folder: Path, *, block_size: int, key_id: str) -> None:
        self._folder = folder
        self._block_size = block_size
        self._key_id = key_id
        self._entries: dict[str, _Entry] = {}
        self._lock = Lock()

    def note_blocks(
        self, stream: str, volume: str, offset: int, first: int, hashes: Hashes
    ) -> None:
        """A run of a disk's blocks, from number `first` on, lies at `offset` of a volume."""
        with self._lock:
            entry = self._entries.setdefault(volume, _Entry())
            entry.blocks.setdefault(stream, []).append((first, offset, hashes))

    def note_bytes(self, stream: str, volume: str, held: Callable[[], PendingBytes]) -> None:
        """A stream of bytes has begun to fill a volume; `held` is asked once it is complete."""
        with self._lock:
            self._entries.setdefault(volume, _Entry()).bytes[stream] = held

    def seal(self, record: VolumeRecord) -> None:
        """Write down, durably, what a sealed volume holds."""
        with self._lock:
            entry = self._entries.pop(record.volume, _Entry())
        sections = [
            self._blocks_section(record, stream, runs) for stream, runs in entry.blocks.items()
        ]
        for stream, finish in entry.bytes.items():
            held = finish()
            header = {
                "engine": "rolling",
                "stream": stream,
                "offset": held.offset,
                "length": held.length,
            }
            sections.append(self._section(record, header, held.signature))
        write_durably(self._folder / (record.volume + SUFFIX), meta.encode(sections))

    def _blocks_section(
        self, record: VolumeRecord, stream: str, runs: list[tuple[int, int, Hashes]]
    ) -> meta.Section:
        block = np.concatenate([first + np.arange(len(hashes)) for first, _, hashes in runs])
        position = np.concatenate(
            [offset + np.arange(len(hashes)) * self._block_size for _, offset, hashes in runs]
        )
        hashes = np.concatenate([hashes for _, _, hashes in runs])
        payload = block.astype("<u8").tobytes() + position.astype("<u8").tobytes()
        header = {"engine": "blocks", "stream": stream, "count": len(hashes)}
        return self._section(record, header, payload + hashes.tobytes())

    def _section(
        self, record: VolumeRecord, header: Mapping[str, object], payload: bytes
    ) -> meta.Section:
        whole = {
            **header,
            "volume": record.volume,
            "size": record.size,
            "sha256": record.sha256,
            "block_size": self._block_size,
            "key": self._key_id,
        }
        return meta.Section(whole, len(payload), (payload,))


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What an unfinished run left: stored volumes, and what they hold per stream."""

    volumes: Mapping[str, VolumeRecord]
    blocks: Mapping[str, PendingBlocks]
    bytes: Mapping[str, tuple[PendingBytes, ...]]


def load(
    folder: Path,
    store: StoreReader,
    *,
    block_size: int,
    key_id: str,
    doomed: Container[str] = frozenset(),
) -> Leftovers:
    """Read the journals in a folder, of volumes that the store does hold.

    Entries that cannot be used (another key or block size, a damaged file, a volume that never
    arrived, or that is among the `doomed` names, which a prune may remove at any time) are left
    out and their files removed.
    """
    volumes: dict[str, VolumeRecord] = {}
    blocks: dict[str, list[tuple[str, bytes]]] = {}
    rolling: dict[str, list[PendingBytes]] = {}
    for path in sorted(folder.glob("*" + SUFFIX)):
        try:
            parts = _usable_parts(path, block_size=block_size, key_id=key_id)
            record = _stored(parts, store)
            if record is not None and names.volume(record.volume) in doomed:
                record = None
            held = [
                PendingBytes(record.volume, int(part["offset"]), int(part["length"]), payload)
                if record and part["engine"] == "rolling"
                else None
                for part, payload in parts
            ]
        except (IntegrityError, KeyError, ValueError, TypeError):
            parts, record, held = [], None, []
        if record is None:
            path.unlink()
            continue
        volumes[record.volume] = record
        for (part, payload), some_bytes in zip(parts, held, strict=True):
            stream = str(part["stream"])
            if some_bytes is None:
                blocks.setdefault(stream, []).append((record.volume, payload))
            else:
                rolling.setdefault(stream, []).append(some_bytes)
    return Leftovers(
        volumes,
        {stream: _pending_blocks(found) for stream, found in blocks.items()},
        {stream: tuple(found) for stream, found in rolling.items()},
    )


def _read(path: Path) -> list[tuple[meta.Header, bytes]]:
    with path.open("rb") as file:
        return meta.read_all(iter(lambda: file.read(1 << 20), b""))


def _usable_parts(path: Path, *, block_size: int, key_id: str) -> list[tuple[meta.Header, bytes]]:
    return [
        (header, payload)
        for header, payload in _read(path)
        if header["key"] == key_id and header["block_size"] == block_size and header["stream"]
    ]


def _stored(parts: list[tuple[meta.Header, bytes]], store: StoreReader) -> VolumeRecord | None:
    if not parts:
        return None
    header = parts[0][0]
    record = VolumeRecord(str(header["volume"]), int(header["size"]), str(header["sha256"]))
    try:
        found = store.stat(names.volume(record.volume))
    except ObjectMissingError:
        return None
    return record if found.size == record.size else None


def _pending_blocks(found: Iterable[tuple[str, bytes]]) -> PendingBlocks:
    block, position, hashes, volume = [], [], [], []
    for name, payload in found:
        count = len(payload) // (16 + HASH_SIZE)
        block.append(np.frombuffer(payload, "<u8", count))
        position.append(np.frombuffer(payload, "<u8", count, 8 * count))
        hashes.append(hashes_from(payload[16 * count :]))
        volume += [name] * count
    order = np.argsort(np.concatenate(block), kind="stable")
    return PendingBlocks(
        np.concatenate(block)[order],
        np.concatenate(hashes)[order],
        tuple(volume[index] for index in order.tolist()),
        np.concatenate(position)[order],
    )


def clear(folder: Path) -> None:
    """Remove what a run left in its folder."""
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
