# SPDX-License-Identifier: Apache-2.0
"""Builds a vault in a folder from the formats alone, with real gpg and no engine.

A second, naive writer of docs/format.md: whole streams in memory, one block or piece at a time.
What it writes, every reader must be able to read.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import zstandard
from blake3 import blake3

from snapvault.formats import manifest, maps, meta, names, signatures, vault, volume, volume_list
from snapvault.formats.emergency_kit import script, text
from snapvault.model import extents
from snapvault.model.extents import FIRST_VOLUME, PARENT, ZERO, ExtentMap
from snapvault.model.point import LogEntry, ObjectRecord, ParentRecord, Point, StreamRecord
from tests.support.keys import gpg

FIRST_NIGHT = datetime(2026, 11, 18, 1, 30, 0, 250_000, tzinfo=UTC)
ROLLING_BLOCK = 256
STRONG_SIZE = 16

Row = tuple[int, int, int]


@dataclass
class _Volume:
    """A volume that is being filled."""

    raw: bytearray = field(default_factory=bytearray)
    volume: str = field(default_factory=names.new_volume_id)


@dataclass
class _State:
    """What the last point of a source left behind, for one stream."""

    content: bytes
    extents: ExtentMap
    hashes: bytes
    map_log: tuple[LogEntry, ...]
    signature_log: tuple[LogEntry, ...]


class VaultBuilder:
    """Commits restore points into a folder; `home` is a GnuPG home that can sign as `signer`."""

    def __init__(
        self,
        folder: Path,
        home: Path,
        *,
        recipients: Iterable[str],
        signer: str,
        block_size: int = 4096,
        volume_size: int = 64 * 1024,
        checkpoint_every: int = 4,
    ) -> None:
        self.folder = folder
        self.signer = signer
        self.volume_size = volume_size
        self.block_size = block_size
        self.vault = secrets.token_hex(16)
        self._home = home
        self._recipients = sorted(recipients)
        self._checkpoint_every = checkpoint_every
        self._states: dict[tuple[str, str], _State] = {}
        self._points: dict[str, tuple[Point, ObjectRecord]] = {}
        self._stored: dict[str, ObjectRecord] = {}
        self._lists: dict[str, list[tuple[volume_list.VolumeRecord, ...]]] = {}
        self._key = secrets.token_bytes(32)
        record = vault.VaultRecord(self.vault, FIRST_NIGHT, block_size)
        self.put(names.VAULT, vault.encode(record))
        self.put(names.EMERGENCY_SIGNED, self.sign(script()))
        self.put(names.EMERGENCY_SCRIPT, script())
        self.put(names.EMERGENCY_TEXT, text())
        for fingerprint in {*self._recipients, signer}:
            exported = gpg(home, "--armor", "--export", fingerprint)
            self.put(names.public_key(fingerprint), exported)
        self._hash_key = self.put(
            names.hash_key(signer), self.seal(self._key, [*self._recipients, signer])
        )

    def put(self, name: str, data: bytes) -> ObjectRecord:
        """Store an object and remember what was stored."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        record = ObjectRecord(name, len(data), hashlib.sha256(data).hexdigest())
        self._stored[name] = record
        return record

    def seal(self, data: bytes, readers: Iterable[str]) -> bytes:
        """Encrypt as every object of a vault is."""
        to = [word for fingerprint in readers for word in ("--recipient", fingerprint)]
        options = ["--trust-model", "always", "--compress-algo", "none", *to]
        return gpg(self._home, *options, "--encrypt", data=data)

    def sign(self, content: bytes, signer: str | None = None) -> bytes:
        """Make a signed message of a manifest's JSON."""
        options = ["--compress-algo", "none", "--local-user", signer or self.signer]
        return gpg(self._home, *options, "--sign", data=content)

    def commit(
        self, source: str, streams: Mapping[str, bytes], *, rolling: Iterable[str] = ()
    ) -> Point:
        """Store the streams of one night, changes only, and sign the restore point.

        Streams named in `rolling` are cut at any byte, the others are disks. Nights
        follow each other by a day.
        """
        before = self._points.get(source)
        sequence = before[0].sequence + 1 if before else 1
        taken_at = FIRST_NIGHT + timedelta(days=sequence - 1)
        point_id = names.new_point_id()
        map_sections, signature_sections, records = [], [], []
        open_volume = _Volume()
        fresh: list[volume_list.VolumeRecord] = []

        def data(piece: bytes) -> tuple[str, int]:
            nonlocal open_volume
            if open_volume.raw and len(open_volume.raw) + len(piece) > self.volume_size:
                fresh.append(self.store_volume(open_volume.volume, bytes(open_volume.raw)))
                open_volume = _Volume()
            offset = len(open_volume.raw)
            open_volume.raw += piece
            return open_volume.volume, offset

        for name, content in streams.items():
            rolls = name in rolling
            state = self._states.get((source, name))
            checkpoint = state is None or len(state.map_log) >= self._checkpoint_every
            old = state.content if state else b""
            size = ROLLING_BLOCK if rolls else self.block_size
            pieces = _rolled(content, old) if rolls else _blocks(content, old, size)
            changes = _map(pieces, data)
            full = extents.compose(changes, state.extents if state else extents.from_rows([], ()))
            written = full if checkpoint else changes
            payload = b"".join(maps.encode(written))
            map_sections.append(meta.Section(maps.header(name, written), len(payload), [payload]))
            hashes = b"" if rolls else self._hashes(content)
            if rolls:
                signature = librsync_signature(content, ROLLING_BLOCK, STRONG_SIZE)
            else:
                signature = _pages(hashes, b"" if checkpoint or not state else state.hashes)
            header = {
                "kind": "signature",
                "stream": name,
                "engine": "rolling" if rolls else "blocks",
                "full": rolls or checkpoint,
                "size": len(content),
                "block_size": size,
            }
            signature_sections.append(meta.Section(header, len(signature), [signature]))
            map_log: tuple[LogEntry, ...] = (LogEntry(point_id, len(payload)),)
            signature_log: tuple[LogEntry, ...] = (LogEntry(point_id, len(signature)),)
            if state and not checkpoint:
                map_log = (*state.map_log, *map_log)
                if not rolls:
                    signature_log = (*state.signature_log, *signature_log)
            self._states[source, name] = _State(content, full, hashes, map_log, signature_log)
            records.append(
                StreamRecord(
                    name=name,
                    kind="bytes" if rolls else "disk",
                    engine="rolling" if rolls else "blocks",
                    size=len(content),
                    block_size=size,
                    digest=(hashlib.sha256(content) if rolls else blake3(hashes)).hexdigest(),
                    map_log=map_log,
                    signature_log=signature_log,
                )
            )
        if open_volume.raw:
            fresh.append(self.store_volume(open_volume.volume, bytes(open_volume.raw)))
        self._put_meta(names.map_of(source, point_id), map_sections)
        self._put_meta(names.signature_of(source, point_id), signature_sections)
        point = Point(
            vault=self.vault,
            source=source,
            point=point_id,
            sequence=sequence,
            taken_at=taken_at,
            finished_at=taken_at + timedelta(minutes=5),
            parent=before and ParentRecord(before[0].point, before[1].name, before[1].sha256),
            consistency="crash",
            streams=tuple(records),
            hash_key=self._hash_key,
            objects=tuple(self._meta_of(source, records)),
            lists=tuple(self._put_lists(source, records, fresh)),
            host=self.signer,
            tool="vault builder of the tests",
            counters={"volumes_written": len(fresh)},
        )
        self._points[source] = (point, self.put_point(point))
        return point

    def put_point(self, point: Point, signer: str | None = None) -> ObjectRecord:
        """Sign a manifest and store it under its name."""
        signed = self.sign(manifest.encode(point), signer)
        return self.put(names.point(point.source, point.taken_at, point.point), signed)

    def put_again(self, point: Point, name: str, data: bytes) -> Point:
        """Store other bytes for one of a point's objects, and sign a manifest that says so."""
        record = self.put(name, data)
        objects = tuple(record if entry.name == name else entry for entry in point.objects)
        changed = replace(point, objects=objects)
        self.put_point(changed)
        return changed

    def store_volume(self, volume_id: str, raw: bytes) -> volume_list.VolumeRecord:
        """Pack, seal and store a volume."""
        stored = self.put(names.volume(volume_id), self.seal(pack_volume(raw), self._recipients))
        return volume_list.VolumeRecord(volume_id, stored.size, stored.sha256)

    def map_of(self, source: str, stream: str) -> ExtentMap:
        """Return the full map of a stream at the newest point."""
        return self._states[source, stream].extents

    def _put_meta(self, name: str, parts: list[meta.Section]) -> None:
        packed = b"".join(meta.encode(parts))
        self.put(name, self.seal(packed, [*self._recipients, self.signer]))

    def _meta_of(self, source: str, records: Iterable[StreamRecord]) -> list[ObjectRecord]:
        wanted = dict.fromkeys(
            name
            for record in records
            for name in (
                *(names.map_of(source, entry.point) for entry in record.map_log),
                *(names.signature_of(source, entry.point) for entry in record.signature_log),
            )
        )
        return [self._stored[name] for name in wanted]

    def _put_lists(
        self,
        source: str,
        records: Iterable[StreamRecord],
        fresh: Iterable[volume_list.VolumeRecord],
    ) -> list[ObjectRecord]:
        used = dict.fromkeys(
            name for record in records for name in self._states[source, record.name].extents.volumes
        )
        previous = self._lists.get(source, [])
        known = {record.volume: record for entry in previous for record in entry}
        known |= {record.volume: record for record in fresh}
        self._lists[source] = volume_list.arrange(previous, [known[name] for name in used])
        return [self._put_list(entry) for entry in self._lists[source]]

    def _put_list(self, entry: tuple[volume_list.VolumeRecord, ...]) -> ObjectRecord:
        encoded = volume_list.encode(entry)
        return self.put(names.volume_list(volume_list.digest(encoded)), encoded)

    def _hashes(self, content: bytes) -> bytes:
        size = self.block_size
        blocks = (content[start : start + size] for start in range(0, len(content), size))
        return b"".join(
            blake3(block, key=self._key).digest(16) if any(block) else bytes(16) for block in blocks
        )


def pack_volume(raw: bytes) -> bytes:
    """Write a volume in clear: frames and their seek table."""
    frames, packed = [], b""
    for start in range(0, len(raw), volume.FRAME_SIZE):
        piece = raw[start : start + volume.FRAME_SIZE]
        frame = zstandard.ZstdCompressor(level=1).compress(piece)
        frames.append(volume.Frame(len(frame), len(piece)))
        packed += frame
    return packed + volume.seek_table(frames)


def librsync_signature(content: bytes, block: int, strong: int) -> bytes:
    """Write a librsync signature file: RabinKarp and BLAKE2b."""
    head = b"rs\x01G" + block.to_bytes(4, "big") + strong.to_bytes(4, "big")
    rows = []
    for start in range(0, len(content), block):
        piece = content[start : start + block]
        weak = 1
        for byte in piece:
            weak = (weak * 0x08104225 + byte) & 0xFFFFFFFF
        rows.append(weak.to_bytes(4, "big"))
        rows.append(hashlib.blake2b(piece, digest_size=32).digest()[:strong])
    return head + b"".join(rows)


Piece = tuple[int, bytes | int]
"""Length, and new bytes, or where the same bytes are in the parent; -1 for zeros."""


def _blocks(content: bytes, old: bytes, size: int) -> Iterable[Piece]:
    for start in range(0, len(content), size):
        block = content[start : start + size]
        if not any(block):
            yield len(block), -1
        elif old[start : start + len(block)] == block:
            yield len(block), start
        else:
            yield len(block), block


def _rolled(content: bytes, old: bytes) -> Iterable[Piece]:
    where = {
        old[start : start + ROLLING_BLOCK]: start
        for start in range(0, len(old) - ROLLING_BLOCK + 1, ROLLING_BLOCK)
    }
    position = literal = 0
    while position < len(content):
        found = where.get(content[position : position + ROLLING_BLOCK])
        if found is None:
            position += 1
            continue
        if position > literal:
            yield position - literal, content[literal:position]
        yield ROLLING_BLOCK, found
        position += ROLLING_BLOCK
        literal = position
    if position > literal:
        yield position - literal, content[literal:position]


def _map(pieces: Iterable[Piece], store: Callable[[bytes], tuple[str, int]]) -> ExtentMap:
    rows: list[Row] = []
    numbers: dict[str, int] = {}
    for length, piece in pieces:
        if isinstance(piece, bytes):
            volume_id, offset = store(piece)
            place = FIRST_VOLUME + numbers.setdefault(volume_id, len(numbers))
            rows.append((length, place, offset))
        elif piece < 0:
            rows.append((length, ZERO, 0))
        else:
            rows.append((length, PARENT, piece))
    loose = extents.from_rows(rows, numbers)
    columns = extents.coalesce(loose.length, loose.place, loose.offset)
    return ExtentMap(*columns, tuple(numbers))


def _pages(hashes: bytes, parent: bytes) -> bytes:
    now = signatures.hashes_from(hashes)
    old = signatures.no_hashes(len(now))
    known = signatures.hashes_from(parent)[: len(now)]
    old[: len(known)] = known
    wanted = signatures.differ(now, old)
    written = b""
    for region in range(-(-len(now) // signatures.REGION_BLOCKS)):
        part = np.s_[region * signatures.REGION_BLOCKS : (region + 1) * signatures.REGION_BLOCKS]
        page = signatures.page_of(region, now[part], wanted[part])
        written += page.encode() if page else b""
    return written
