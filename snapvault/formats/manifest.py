# SPDX-License-Identifier: Apache-2.0
"""The manifest's JSON: docs/format.md, section 8."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from snapvault import clock
from snapvault.errors import FormatVersionError, ManifestError
from snapvault.formats import names
from snapvault.model.point import LogEntry, ObjectRecord, ParentRecord, Point, StreamRecord

FORMAT_VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_VAULT_ID = re.compile(r"[0-9a-f]{32}")
_POINT_ID = re.compile(r"[0-9a-f]{16}")
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
            vault=_matching(_VAULT_ID, document["vault"]),
            source=_matching(_NAME, document["source"]),
            point=_matching(_POINT_ID, document["point"]),
            sequence=_count(document["sequence"]),
            taken_at=clock.from_text(document["taken_at"]),
            finished_at=clock.from_text(document["finished_at"]),
            parent=parent
            and ParentRecord(
                _matching(_POINT_ID, parent["point"]),
                _text(parent, "name"),
                _matching(_SHA256, parent["sha256"]),
            ),
            consistency=_one_of(document["consistency"], *_CONSISTENCIES),
            streams=tuple(_stream(stream) for stream in document["streams"]),
            hash_key=_record(document["hash_key"]),
            objects=tuple(_record(record) for record in document["objects"]),
            lists=tuple(_record(record) for record in document["lists"]),
            host=_text(document, "host"),
            tool=_text(document, "tool"),
            counters={str(key): _count(value) for key, value in document["counters"].items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ManifestError(f"manifest cannot be read: {error}") from error


def decode_as(name: str, content: bytes) -> Point:
    """Read a manifest and hold it against the name it is stored under.

    Raises:
        ManifestError: as `decode`; or it belongs under another name.
    """
    point = decode(content)
    expected = names.point(point.source, point.taken_at, point.point)
    if expected != name:
        raise ManifestError(
            f'manifest "{name}" is out of place: it says that it is "{expected}"',
            hint="Somebody moved or swapped objects in the vault; keep a copy and investigate.",
        )
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
        name=_matching(_NAME, document["name"]),
        kind=_one_of(document["kind"], "disk", "bytes"),
        engine=_one_of(document["engine"], "blocks", "rolling"),
        size=_count(document["size"]),
        block_size=_count(document["block_size"]),
        digest=_matching(_SHA256, document["digest"]),
        map_log=_log(document["map"]),
        signature_log=_log(document["signature"]),
        mark=_text(document, "mark") if "mark" in document else None,
        facts={key: _text(document["facts"], key) for key in document.get("facts", {})},
    )
    if not record.map_log or not record.signature_log or not record.block_size:
        raise ValueError(f'stream "{record.name}" has no map, no signature or no block size')
    return record


def _log(entries: Iterable[tuple[object, object]]) -> tuple[LogEntry, ...]:
    return tuple(LogEntry(_matching(_POINT_ID, point), _count(size)) for point, size in entries)


def _object(record: ObjectRecord) -> dict[str, Any]:
    return {"name": record.name, "size": record.size, "sha256": record.sha256}


def _record(document: Mapping[str, Any]) -> ObjectRecord:
    return ObjectRecord(
        _text(document, "name"), _count(document["size"]), _matching(_SHA256, document["sha256"])
    )


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document[key]
    if not isinstance(value, str):
        raise TypeError(f'"{key}" is not a text')
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _matching(pattern: re.Pattern[str], value: object) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r} has not the form {pattern.pattern}")
    return value


def _one_of(value: object, *allowed: str) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{value!r} is none of {', '.join(allowed)}")
    return value
