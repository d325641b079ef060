# SPDX-License-Identifier: Apache-2.0
"""The manifest's JSON: docs/format.md, section 8."""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from snapvault import clock
from snapvault.errors import FormatVersionError, ManifestError
from snapvault.formats import fields, names
from snapvault.model.point import LogEntry, ObjectRecord, ParentRecord, Point, StreamRecord

FORMAT_VERSION = 1
_CONSISTENCIES = ("none", "crash", "file-system", "application")


def encode(point: Point) -> bytes:
    """Write a manifest; equal points give equal bytes."""
    document = {
        "format": FORMAT_VERSION,
        "vault": point.vault,
        "source": point.source,
        "point": point.point,
        "sequence": point.sequence,
        "taken_at": clock.to_text(point.taken_at),
        "finished_at": clock.to_text(point.finished_at),
        "parent": point.parent
        and {
            "point": point.parent.point,
            "name": point.parent.name,
            "sha256": point.parent.sha256,
        },
        "consistency": point.consistency,
        "streams": [_stream_document(stream) for stream in point.streams],
        "hash_key": _object(point.hash_key),
        "objects": [_object(record) for record in point.objects],
        "lists": [_object(record) for record in point.lists],
        "host": point.host,
        "tool": point.tool,
        "counters": dict(point.counters),
    }
    return json.dumps(document, indent=1, ensure_ascii=True).encode("ascii") + b"\n"


def decode(content: bytes) -> Point:
    """Read a manifest whose signature was proven.

    Raises:
        ManifestError: these bytes are not a manifest, or it contradicts itself.
        FormatVersionError: a manifest of a newer format.
    """
    try:
        document = json.loads(content)
        version = document["format"]
        if version != FORMAT_VERSION:
            raise FormatVersionError(
                f"manifest has format {version}, this release reads {FORMAT_VERSION}",
                hint="Use a newer SnapVault.",
            )
        parent = document["parent"]
        return Point(
            vault=fields.matching(fields.VAULT_ID, document["vault"]),
            source=fields.matching(fields.NAME, document["source"]),
            point=fields.matching(fields.ID, document["point"]),
            sequence=fields.count(document["sequence"]),
            taken_at=clock.from_text(document["taken_at"]),
            finished_at=clock.from_text(document["finished_at"]),
            parent=parent
            and ParentRecord(
                fields.matching(fields.ID, parent["point"]),
                fields.text(parent, "name"),
                fields.matching(fields.SHA256, parent["sha256"]),
            ),
            consistency=fields.one_of(document["consistency"], *_CONSISTENCIES),
            streams=tuple(_stream(stream) for stream in document["streams"]),
            hash_key=_record(document["hash_key"]),
            objects=tuple(_record(record) for record in document["objects"]),
            lists=tuple(_record(record) for record in document["lists"]),
            host=fields.text(document, "host"),
            tool=fields.text(document, "tool"),
            counters={str(key): fields.count(value) for key, value in document["counters"].items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ManifestError(f"manifest cannot be read: {error}") from error


def decode_as(name: str, content: bytes) -> Point:
    """Read a manifest and hold it against the name it is stored under.

    Raises:
        ManifestError: as `decode`; or it belongs under another name.
    """
    point = decode(content)
    fields.require_place("manifest", name, names.point(point.source, point.taken_at, point.point))
    return point


def _stream_document(stream: StreamRecord) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": stream.name,
        "kind": stream.kind,
        "engine": stream.engine,
        "size": stream.size,
        "block_size": stream.block_size,
        "digest": stream.digest,
        "map": [[entry.point, entry.size] for entry in stream.map_log],
        "signature": [[entry.point, entry.size] for entry in stream.signature_log],
    }
    if stream.mark is not None:
        document["mark"] = stream.mark
    if stream.facts:
        document["facts"] = dict(sorted(stream.facts.items()))
    return document


def _stream(document: Mapping[str, Any]) -> StreamRecord:
    record = StreamRecord(
        name=fields.matching(fields.NAME, document["name"]),
        kind=fields.one_of(document["kind"], "disk", "bytes"),
        engine=fields.one_of(document["engine"], "blocks", "rolling"),
        size=fields.count(document["size"]),
        block_size=fields.count(document["block_size"]),
        digest=fields.matching(fields.SHA256, document["digest"]),
        map_log=_log(document["map"]),
        signature_log=_log(document["signature"]),
        mark=fields.text(document, "mark") if "mark" in document else None,
        facts={key: fields.text(document["facts"], key) for key in document.get("facts", {})},
    )
    if not record.map_log or not record.signature_log or not record.block_size:
        raise ValueError(f'stream "{record.name}" has no map, no signature or no block size')
    return record


def _log(entries: Iterable[tuple[object, object]]) -> tuple[LogEntry, ...]:
    return tuple(
        _log_entry(fields.matching(fields.ID, point), fields.count(size)) for point, size in entries
    )


def _object(record: ObjectRecord) -> dict[str, Any]:
    return {"name": record.name, "size": record.size, "sha256": record.sha256}


def _record(document: Mapping[str, Any]) -> ObjectRecord:
    return _object_record(
        fields.text(document, "name"),
        fields.count(document["size"]),
        fields.matching(fields.SHA256, document["sha256"]),
    )


# The points of a source name mostly the same objects: a thousand manifests share what they say.
_log_entry = lru_cache(maxsize=1 << 16)(LogEntry)
_object_record = lru_cache(maxsize=1 << 16)(ObjectRecord)
