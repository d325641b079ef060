# SPDX-License-Identifier: Apache-2.0
"""Holds and records of prunes as JSON: docs/format.md, section 12."""

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from snapvault import clock
from snapvault.errors import FormatVersionError, ManifestError
from snapvault.formats import names
from snapvault.model.notes import Hold, PruneRecord, RemovedPoint

FORMAT_VERSION = 1
_ID = re.compile(r"[0-9a-f]{16}")
_SOURCE = re.compile(r"[a-z0-9][a-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def encode_hold(hold: Hold, vault: str) -> bytes:
    """Write a hold, or the end of some; equal ones give equal bytes."""
    return _encode(
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
    document = _document(name, content, vault)
    try:
        hold = Hold(
            id=_matching(_ID, document["hold"]),
            point=_matching(_ID, document["point"]),
            source=_matching(_SOURCE, document["source"]),
            at=clock.from_text(document["at"]),
            host=_text(document, "host"),
            reason=_text(document, "reason"),
            ends=tuple(_matching(_ID, each) for each in document["ends"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ManifestError(f'hold "{name}" cannot be read: {error}') from error
    _require_place(name, names.hold(hold.point, hold.id))
    return hold


def encode_prune(record: PruneRecord, vault: str) -> bytes:
    """Write the record of a prune; equal ones give equal bytes."""
    return _encode(
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
    document = _document(name, content, vault)
    try:
        record = PruneRecord(
            id=_matching(_ID, document["prune"]),
            at=clock.from_text(document["at"]),
            host=_text(document, "host"),
            tool=_text(document, "tool"),
            grace=timedelta(seconds=_count(document["grace_seconds"])),
            points=tuple(
                RemovedPoint(
                    _matching(_ID, each["point"]),
                    _matching(_SOURCE, each["source"]),
                    _text(each, "name"),
                    _matching(_SHA256, each["sha256"]),
                    _text(each, "reason"),
                )
                for each in document["points"]
            ),
            doomed=tuple(_prunable(each) for each in document["doomed"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ManifestError(f'record "{name}" of a prune cannot be read: {error}') from error
    _require_place(name, names.prune_record(record.at, record.id))
    return record


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=True).encode("ascii") + b"\n"


def _document(name: str, content: bytes, vault: str) -> Mapping[str, Any]:
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


def _require_place(name: str, expected: str) -> None:
    if name != expected:
        raise ManifestError(
            f'object "{name}" is out of place: it says that it is "{expected}"',
            hint="Somebody moved or swapped objects in the vault; keep a copy and investigate.",
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


def _prunable(value: object) -> str:
    if not isinstance(value, str) or not names.is_prunable(value):
        raise ValueError(f"{value!r} is not an object that a prune removes")
    return value
