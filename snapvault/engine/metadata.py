# SPDX-License-Identifier: Apache-2.0
"""Reading a point's maps and signatures from the vault: the only place that composes logs."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from snapvault.engine import fetch
from snapvault.engine.files import write_durably
from snapvault.engine.vault import Vault
from snapvault.errors import SignatureError
from snapvault.formats import maps, meta, names, signatures
from snapvault.model import extents
from snapvault.model.extents import ExtentMap
from snapvault.model.point import LogEntry, Point, StreamRecord

_PIECE = 1 << 20  # bytes


def read_maps(vault: Vault, point: Point, streams: tuple[StreamRecord, ...]) -> list[ExtentMap]:
    """Return the full maps of some streams of a point.

    Each object of the logs is fetched once, oldest first, and only the maps themselves are held.

    Raises:
        IntegrityError: an object is missing or damaged, or contradicts the manifest.
        KeyMissingError: no key here opens it.
    """
    composed: list[ExtentMap | None] = [None] * len(streams)
    for writer in _writers(point, [stream.map_log for stream in streams]):
        name = names.map_of(point.source, writer)
        found = _open(vault, point, name, io.BytesIO())
        for index, stream in enumerate(streams):
            entry = next((each for each in stream.map_log if each.point == writer), None)
            if entry is None:
                continue
            part, file = _section(found, "map", stream, entry, name)
            file.seek(part.position)
            changes = maps.decode(part.header, file.read(part.size))
            composed[index] = _composed(changes, composed[index], name)
    return [_checked(full, stream, point) for full, stream in zip(composed, streams, strict=True)]


def _composed(changes: ExtentMap, parent: ExtentMap | None, name: str) -> ExtentMap:
    try:
        if parent is None:
            if not changes.is_full:
                raise ValueError("the first map of a log is not full")
            return changes
        return extents.compose(changes, parent)
    except ValueError as error:
        raise SignatureError(f'map in object "{name}" contradicts its log: {error}') from error


def _checked(full: ExtentMap | None, stream: StreamRecord, point: Point) -> ExtentMap:
    if full is None or full.size != stream.size:
        raise SignatureError(
            f'map of stream "{stream.name}" at restore point "{point.point}" '
            f"does not cover its {stream.size} bytes"
        )
    return full


def write_signatures(vault: Vault, point: Point, folder: Path) -> None:
    """Write each stream's full signature to a file `<stream>.sig` in a folder of this host.

    Raises: as `read_maps`.
    """
    with ExitStack() as stack:
        opened = {
            writer: _open(
                vault,
                point,
                names.signature_of(point.source, writer),
                stack.enter_context(tempfile.TemporaryFile(dir=folder)),
            )
            for writer in _writers(point, [stream.signature_log for stream in point.streams])
        }
        for stream in point.streams:
            parts = [
                _section(
                    opened[entry.point],
                    "signature",
                    stream,
                    entry,
                    names.signature_of(point.source, entry.point),
                )
                for entry in stream.signature_log
            ]
            if stream.engine == "rolling":
                part, file = parts[-1]
                chunks: Iterator[bytes] = _payload(file, part)
            else:
                logs = [
                    signatures.Log(
                        signatures.pages(_Bounded(file, part)),
                        -(-int(part.header["size"]) // stream.block_size),
                    )
                    for part, file in parts
                ]
                chunks = (page.encode() for page in signatures.compose(logs))
            write_durably(folder / f"{stream.name}.sig", chunks)


def _writers(point: Point, logs: list[tuple[LogEntry, ...]]) -> list[str]:
    """Return the points whose objects the logs need, oldest first."""
    needed = {entry.point for log in logs for entry in log}
    known = dict.fromkeys(
        writer
        for record in point.objects
        if (writer := record.name.rpartition("/")[2].partition(".")[0]) in needed
    )
    if unknown := needed - set(known):
        raise SignatureError(
            f'restore point "{point.point}" refers to objects of restore point "{min(unknown)}" '
            "and does not vouch for them"
        )
    return list(known)


_Opened = tuple[list[meta.Found], BinaryIO]


def _open(vault: Vault, point: Point, name: str, file: BinaryIO) -> _Opened:
    """Fetch, decrypt and unpack a container into a file."""
    record = point.object(name)
    if record is None:
        raise SignatureError(
            f'restore point "{point.point}" needs object "{name}" and does not vouch for it'
        )
    unpacker = meta.Unpacker(file)
    fetch.open_metadata(vault.store, vault.sealer, record, unpacker.feed, vault.state)
    unpacker.finish()
    return meta.sections(file), file


def _section(
    opened: _Opened, kind: str, stream: StreamRecord, entry: LogEntry, name: str
) -> tuple[meta.Found, BinaryIO]:
    sections, file = opened
    for part in sections:
        if part.header.get("kind") == kind and part.header.get("stream") == stream.name:
            if part.size != entry.size:
                break
            return part, file
    raise SignatureError(
        f'object "{name}" does not hold the {kind} of stream "{stream.name}" '
        "that the manifest names"
    )


def _payload(file: BinaryIO, part: meta.Found) -> Iterator[bytes]:
    reader = _Bounded(file, part)
    while piece := reader.read(_PIECE):
        yield piece


class _Bounded:
    """Reads one section's payload; several take turns on one file."""

    def __init__(self, file: BinaryIO, part: meta.Found) -> None:
        self._file = file
        self._at = part.position
        self._end = part.position + part.size

    def read(self, size: int, /) -> bytes:
        self._file.seek(self._at)
        piece = self._file.read(min(size, self._end - self._at))
        self._at += len(piece)
        return piece
