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
MAP_SUFFIX = ".map"
META = "meta/"
LISTS = "lists/"
DRILLS = "drills/"
HOLDS = "holds/"
PRUNES = "prunes/"
KEYS = "keys/"
PROBES = "probe/"

_POINT = re.compile(
    r"points/(?P<source>[a-z0-9][a-z0-9._-]*)/(?P<time>\d{8}T\d{6}Z)-(?P<id>[0-9a-f]{16})\.point"
)
_DRILL = re.compile(r"drills/(?P<time>\d{8}T\d{6}Z)-(?P<id>[0-9A-Za-z][0-9A-Za-z-]{0,63})\.report")
_HOLD = re.compile(r"holds/(?P<point>[0-9a-f]{16})-(?P<id>[0-9a-f]{16})\.hold")
_PRUNE = re.compile(r"prunes/(?P<time>\d{8}T\d{6}Z)-(?P<id>[0-9a-f]{16})\.prune")
_KEY_CHANGE = re.compile(r"keys/(?P<time>\d{8}T\d{6}Z)-(?P<id>[0-9a-f]{16})\.change")
_KEY_FILE = re.compile(r"keys/(?P<key>[0-9A-F]{40}(?:[0-9A-F]{24})?)\.asc")
_PRUNABLE = re.compile(
    r"meta/[a-z0-9][a-z0-9._-]*/[0-9a-f]{16}\.(map|sig)"
    r"|lists/[0-9a-f]{64}\.list"
    r"|volumes/(?P<xx>[0-9a-f]{2})/(?P=xx)[0-9a-f]{30}\.vol"
)
_PUBLIC_KEY = re.compile(r"keys/[0-9A-F]{40,64}\.asc")
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
    return f"{META}{source}/{point_id}{MAP_SUFFIX}"


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


def new_note_id() -> str:
    """Return a fresh random id of a hold or of a prune's record: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def hold(point_id: str, hold_id: str) -> str:
    """Return the name of a hold, or of the end of holds."""
    return f"{HOLDS}{point_id}-{hold_id}.hold"


def parse_hold(name: str) -> str | None:
    """Return the hold's id that an object's name holds; None for other names."""
    found = _HOLD.fullmatch(name)
    return found["id"] if found else None


def prune_record(at: datetime, prune_id: str) -> str:
    """Return the name of a prune's record; names sort by time."""
    return f"{PRUNES}{clock.to_name(at)}-{prune_id}.prune"


def parse_prune_record(name: str) -> str | None:
    """Return the prune's id that a record's name holds; None for other names."""
    found = _PRUNE.fullmatch(name)
    return found["id"] if found else None


def is_prunable(name: str) -> bool:
    """Tell whether a name is of an object that lives as long as a manifest names it."""
    return _PRUNABLE.fullmatch(name) is not None


def public_key(fingerprint: str) -> str:
    """Return the name of a public key."""
    return f"keys/{fingerprint}.asc"


def is_public_key(name: str) -> bool:
    """Tell whether a name is of a public key."""
    return _PUBLIC_KEY.fullmatch(name) is not None


def hash_key(fingerprint: str) -> str:
    """Return the name of the sealed key for block hashes, as one host wrote it."""
    return f"keys/{fingerprint}.hash"


def later_hash_key(fingerprint: str, change_id: str) -> str:
    """Return the name of the sealed key for block hashes that came with a change of keys."""
    return f"keys/{fingerprint}-{change_id}.hash"


def key_change(at: datetime, change_id: str) -> str:
    """Return the name of the record of a change of keys; names sort by time."""
    return f"{KEYS}{clock.to_name(at)}-{change_id}.change"


def parse_key_change(name: str) -> str | None:
    """Return the id that the name of a change of keys holds; None for other names."""
    found = _KEY_CHANGE.fullmatch(name)
    return found["id"] if found else None


def parse_public_key(name: str) -> str | None:
    """Return the fingerprint that the name of a public key holds; None for other names."""
    found = _KEY_FILE.fullmatch(name)
    return found["key"] if found else None
