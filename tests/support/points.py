# SPDX-License-Identifier: Apache-2.0
"""A restore point as a manifest says it, small and whole."""

from datetime import UTC, datetime

from snapvault.model.point import LogEntry, ObjectRecord, Point, StreamRecord

TAKEN_AT = datetime(2026, 11, 20, 1, 30, 3, tzinfo=UTC)
_LOG = (LogEntry("3f2a9c0d1e4b5a67", 9),)
POINT = Point(
    vault="0" * 32,
    source="web01",
    point="3f2a9c0d1e4b5a67",
    sequence=1,
    taken_at=TAKEN_AT,
    finished_at=TAKEN_AT,
    parent=None,
    consistency="crash",
    streams=(StreamRecord("root", "disk", "blocks", 700, 16, "00" * 32, _LOG, _LOG),),
    hash_key=ObjectRecord("keys/x.hash", 1, "00" * 32),
    objects=(),
    lists=(),
    host="host1",
    tool="snapvault",
    counters={"read_bytes": 700, "stored_bytes": 20},
)
"""A disk of 700 bytes, taken at `TAKEN_AT`."""
