# SPDX-License-Identifier: Apache-2.0
"""Lists of volumes, named by their digest: docs/format.md, section 7."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from snapvault.errors import FormatVersionError, ManifestError
from snapvault.formats import names

FORMAT_VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
LIST_LENGTH = 1000
"""Volumes in a list, at most."""


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """A stored volume: its id, and size in bytes and SHA-256 (lower-case hex) as stored."""

    volume: str
    size: int
    sha256: str


def encode(volumes: Sequence[VolumeRecord], *, salt: str | None = None) -> bytes:
    """Write a list; the same volumes in the same order give the same bytes, but for the salt."""
    rows = [[record.volume, record.size, record.sha256] for record in volumes]
    document: dict[str, object] = {"format": FORMAT_VERSION, "volumes": rows}
    if salt is not None:
        document["salt"] = salt
    text = json.dumps(document, separators=(",", ":"))
    return text.encode("ascii") + b"\n"


def digest(encoded: bytes) -> str:
    """Return the SHA-256 that names a list."""
    return hashlib.sha256(encoded).hexdigest()


def decode(encoded: bytes) -> tuple[VolumeRecord, ...]:
    """Read a list whose digest was checked.

    Raises:
        ManifestError: these bytes are not a list of volumes.
        FormatVersionError: a list of a newer format.
    """
    try:
        parsed = json.loads(encoded)
        version = parsed["format"]
        if version != FORMAT_VERSION:
            raise FormatVersionError(
                f"list of volumes has format {version}, this release reads {FORMAT_VERSION}",
                hint="Use a newer SnapVault.",
            )
        records = tuple(
            VolumeRecord(str(volume), int(size), str(sha256))
            for volume, size, sha256 in parsed["volumes"]
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ManifestError(f"list of volumes cannot be read: {error}") from error
    for record in records:
        if (
            not names.is_volume_id(record.volume)
            or record.size <= 0
            or not _SHA256.fullmatch(record.sha256)
        ):
            raise ManifestError(f'list of volumes holds an impossible volume "{record.volume}"')
    return records


def arrange(
    previous: Sequence[Sequence[VolumeRecord]], live: Sequence[VolumeRecord]
) -> list[tuple[VolumeRecord, ...]]:
    """Divide the live volumes into lists, keeping the previous lists wherever they still hold.

    A previous list whose volumes are all live stays as it is, so its object is shared. One that
    lost volumes is written again without them. New volumes form a list of their own. When
    MOST_SMALL lists are under half the full length they are merged, so that a manifest stays
    short.
    """
    wanted = {record.volume: record for record in live}
    lists: list[tuple[VolumeRecord, ...]] = []
    for old in previous:
        kept = tuple(wanted.pop(record.volume) for record in old if record.volume in wanted)
        if kept:
            lists.append(kept)
    fresh = list(wanted.values())
    small = [entry for entry in lists if len(entry) < LIST_LENGTH // 2]
    if len(small) >= MOST_SMALL:
        lists = [entry for entry in lists if len(entry) >= LIST_LENGTH // 2]
        fresh = [record for entry in small for record in entry] + fresh
    lists.extend(
        tuple(fresh[start : start + LIST_LENGTH]) for start in range(0, len(fresh), LIST_LENGTH)
    )
    return lists


MOST_SMALL = 16
