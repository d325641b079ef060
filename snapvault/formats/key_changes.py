# SPDX-License-Identifier: Apache-2.0
"""Changes of keys as JSON: docs/format.md, section 13."""

from collections.abc import Iterable, Mapping
from typing import Any

from snapvault import clock
from snapvault.errors import ManifestError
from snapvault.formats import fields, names
from snapvault.formats.notes import FORMAT_VERSION, document_of, encode_document
from snapvault.model.notes import HandedHead, KeyChange
from snapvault.model.point import ObjectRecord


def encode_key_change(change: KeyChange, vault: str) -> bytes:
    """Write a change of keys; equal ones give equal bytes."""
    return encode_document(
        {
            "format": FORMAT_VERSION,
            "vault": vault,
            "change": change.id,
            "at": clock.to_text(change.at),
            "host": change.host,
            "tool": change.tool,
            "signer": change.signer,
            "recipients": list(change.recipients),
            "added": list(change.added),
            "hash_key": _object(change.hash_key),
            "same": [_object(each) for each in change.same],
            "heads": [_head_document(head) for head in change.heads],
        }
    )


def decode_key_change(name: str, content: bytes, vault: str) -> KeyChange:
    """Read a change of keys whose signature was proven, and hold it against its name and vault.

    Raises:
        ManifestError: these bytes are none, or belong somewhere else.
        FormatVersionError: one of a newer format.
    """
    document = document_of(name, content, vault)
    try:
        change = KeyChange(
            id=fields.matching(fields.ID, document["change"]),
            at=clock.from_text(document["at"]),
            host=fields.text(document, "host"),
            tool=fields.text(document, "tool"),
            signer=fields.matching(fields.FINGERPRINT, document["signer"]),
            recipients=_fingerprints(document["recipients"]),
            added=_fingerprints(document["added"]),
            hash_key=_record(document["hash_key"]),
            same=tuple(_record(each) for each in document["same"]),
            heads=tuple(_head(each) for each in document["heads"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ManifestError(f'change of keys "{name}" cannot be read: {error}') from error
    fields.require_place("change of keys", name, names.key_change(change.at, change.id))
    return change


def _fingerprints(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(fields.matching(fields.FINGERPRINT, each) for each in values)


def _head_document(head: HandedHead) -> dict[str, Any]:
    return {
        "source": head.source,
        "point": head.point,
        "maps": _object(head.maps),
        "signatures": _object(head.signatures),
        "sizes": {name: list(sizes) for name, sizes in sorted(head.sizes.items())},
    }


def _head(document: Mapping[str, Any]) -> HandedHead:
    sizes: dict[str, tuple[int, int]] = {}
    for stream, (of_map, of_signature) in document["sizes"].items():
        sizes[fields.matching(fields.NAME, stream)] = (
            fields.count(of_map),
            fields.count(of_signature),
        )
    return HandedHead(
        fields.matching(fields.NAME, document["source"]),
        fields.matching(fields.ID, document["point"]),
        _record(document["maps"]),
        _record(document["signatures"]),
        sizes,
    )


def _object(record: ObjectRecord) -> dict[str, Any]:
    return {"name": record.name, "size": record.size, "sha256": record.sha256}


def _record(document: Mapping[str, Any]) -> ObjectRecord:
    return ObjectRecord(
        fields.text(document, "name"),
        fields.count(document["size"]),
        fields.matching(fields.SHA256, document["sha256"]),
    )
