# SPDX-License-Identifier: Apache-2.0
"""Holds and records of prunes as JSON: docs/format.md, section 12."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from snapvault import clock
from snapvault.errors import FormatVersionError, ManifestError
from snapvault.formats import fields, names
from snapvault.model.notes import Hold, PruneRecord, RemovedPoint

FORMAT_VERSION = 1


def encode_hold(hold: Hold, vault: str) -> bytes:
    """Write a hold, or the end of some; equal ones give equal bytes."""
    return encode_document(
        {
            "format": FORMAT_VERSION,
            "vault": vault,
            "hold": hold.id,
            "point": hold.point,
            "source": hold.source,
            "at": clock.to_text(hold.at),
            "host": hold.host,
            "reason": hold.reason,
            "ends": list(hold.ends),
        }
    )


def decode_hold(name: str, content: bytes, vault: str) -> Hold:
    """Read a hold whose signature was proven, and hold it against its name and vault.

    Raises:
        ManifestError: these bytes are no hold, or belong somewhere else.
        FormatVersionError: one of a newer format.
    """
    document = document_of(name, content, vault)
    try:
        hold = Hold(
            id=fields.matching(fields.ID, document["hold"]),
            point=fields.matching(fields.ID, document["point"]),
            source=fields.matching(fields.NAME, document["source"]),
            at=clock.from_text(document["at"]),
            host=fields.text(document, "host"),
            reason=fields.text(document, "reason"),
            ends=tuple(fields.matching(fields.ID, each) for each in document["ends"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ManifestError(f'hold "{name}" cannot be read: {error}') from error
    fields.require_place("object", name, names.hold(hold.point, hold.id))
    return hold


def encode_prune(record: PruneRecord, vault: str) -> bytes:
    """Write the record of a prune; equal ones give equal bytes."""
    return encode_document(
        {
            "format": FORMAT_VERSION,
            "vault": vault,
            "prune": record.id,
            "at": clock.to_text(record.at),
            "host": record.host,
            "tool": record.tool,
            "grace_seconds": int(record.grace.total_seconds()),
            "points": [
                {
                    "point": each.point,
                    "source": each.source,
                    "name": each.name,
                    "sha256": each.sha256,
                    "reason": each.reason,
                    **({"absent": True} if each.absent else {}),
                }
                for each in record.points
            ],
            "doomed": list(record.doomed),
        }
    )


def decode_prune(name: str, content: bytes, vault: str) -> PruneRecord:
    """Read a prune's record whose signature was proven, as `decode_hold` does.

    Raises: as `decode_hold`.
    """
    document = document_of(name, content, vault)
    try:
        record = PruneRecord(
            id=fields.matching(fields.ID, document["prune"]),
            at=clock.from_text(document["at"]),
            host=fields.text(document, "host"),
            tool=fields.text(document, "tool"),
            grace=timedelta(seconds=fields.count(document["grace_seconds"])),
            points=tuple(
                RemovedPoint(
                    fields.matching(fields.ID, each["point"]),
                    fields.matching(fields.NAME, each["source"]),
                    fields.text(each, "name"),
                    fields.matching(fields.SHA256, each["sha256"]),
                    fields.text(each, "reason"),
                    each.get("absent", False) is True,
                )
                for each in document["points"]
            ),
            doomed=tuple(_prunable(each) for each in document["doomed"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ManifestError(f'record "{name}" of a prune cannot be read: {error}') from error
    fields.require_place("object", name, names.prune_record(record.at, record.id))
    return record


def encode_document(document: Mapping[str, Any]) -> bytes:
    """Write a note's JSON."""
    return json.dumps(document, indent=1, ensure_ascii=True).encode("ascii") + b"\n"


def document_of(name: str, content: bytes, vault: str) -> Mapping[str, Any]:
    """Read the JSON of a note that has to be of this vault.

    Raises:
        ManifestError, FormatVersionError: as `decode_hold`.
    """
    try:
        document = json.loads(content)
        version, belongs = document["format"], document["vault"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ManifestError(f'object "{name}" cannot be read: {error}') from error
    if version != FORMAT_VERSION:
        raise FormatVersionError(
            f'object "{name}" has format {version}, this release reads {FORMAT_VERSION}',
            hint="Use a newer SnapVault.",
        )
    if belongs != vault:
        raise ManifestError(f'object "{name}" belongs to another vault, "{belongs}"')
    return document  # type: ignore[no-any-return] # a member was taken from it: it is a mapping


def _prunable(value: object) -> str:
    if not isinstance(value, str) or not names.is_prunable(value):
        raise ValueError(f"{value!r} is not an object that a prune removes")
    return value
