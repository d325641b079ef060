# SPDX-License-Identifier: Apache-2.0
"""Names of the objects in a vault, and the ids in them: docs/format.md, section 2."""

import re
import secrets
from datetime import datetime

from snapvault import clock

VAULT = "vault.json"
EMERGENCY_SCRIPT = "restore.py"
EMERGENCY_SIGNED = "restore.py.gpg"
EMERGENCY_TEXT = "RESTORE.md"
POINTS = "points/"
VOLUMES = "volumes/"
META = "meta/"
LISTS = "lists/"
DRILLS = "drills/"

_POINT = re.compile(
    r"points/(?P<source>[a-z0-9][a-z0-9._-]*)/(?P<time>\d{8}T\d{6}Z)-(?P<id>[0-9a-f]{16})\.point"
)
_DRILL = re.compile(r"drills/(?P<time>\d{8}T\d{6}Z)-(?P<id>[0-9A-Za-z][0-9A-Za-z-]{0,63})\.report")
_VOLUME_ID = re.compile(r"[0-9a-f]{32}")


def new_point_id() -> str:
    """Return a fresh random id of a restore point: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def new_volume_id() -> str:
    """Return a fresh random id of a volume: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def new_drill_id() -> str:
    """Return a fresh random id of a drill: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def is_volume_id(text: str) -> bool:
    """Tell whether a text has the form of a volume id."""
    return _VOLUME_ID.fullmatch(text) is not None


def points_of(source: str) -> str:
    """Return the prefix of a source's manifests."""
    return f"{POINTS}{source}/"


def point(source: str, taken_at: datetime, point_id: str) -> str:
    """Return the name of a manifest; within a source, names sort by time."""
    return f"{POINTS}{source}/{clock.to_name(taken_at)}-{point_id}.point"


def parse_point(name: str) -> tuple[str, str] | None:
    """Return the source and the point id that a manifest's name holds; None for other names."""
    found = _POINT.fullmatch(name)
    return (found["source"], found["id"]) if found else None


def map_of(source: str, point_id: str) -> str:
    """Return the name of the object that holds a point's maps."""
    return f"{META}{source}/{point_id}.map"


def signature_of(source: str, point_id: str) -> str:
    """Return the name of the object that holds a point's signatures."""
    return f"{META}{source}/{point_id}.sig"


def volume(volume_id: str) -> str:
    """Return the name of a volume."""
    return f"{VOLUMES}{volume_id[:2]}/{volume_id}.vol"


def volume_list(sha256: str) -> str:
    """Return the name of a list of volumes."""
    return f"{LISTS}{sha256}.list"


def drill_report(started: datetime, drill_id: str) -> str:
    """Return the name of a drill's report; names sort by time."""
    return f"{DRILLS}{clock.to_name(started)}-{drill_id}.report"


def parse_drill_report(name: str) -> str | None:
    """Return the drill's id that a report's name holds; None for other names."""
    found = _DRILL.fullmatch(name)
    return found["id"] if found else None


def public_key(fingerprint: str) -> str:
    """Return the name of a public key."""
    return f"keys/{fingerprint}.asc"


def hash_key(fingerprint: str) -> str:
    """Return the name of the sealed key for block hashes, as one host wrote it."""
    return f"keys/{fingerprint}.hash"
