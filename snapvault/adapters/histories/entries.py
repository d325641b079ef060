# SPDX-License-Identifier: Apache-2.0
"""What a history remembers besides runs and alarms: texts by kind, subject, end and time."""

import hashlib
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from snapvault import clock
from snapvault.adapters.database import UntrustedError

# Goes from subject to subject by the index, however many entries lie between them.
_NEWEST = """
WITH RECURSIVE whose (subject) AS (
    SELECT min(subject) FROM entry WHERE kind = :kind
    UNION ALL
    SELECT (SELECT min(subject) FROM entry WHERE kind = :kind AND subject > whose.subject)
    FROM whose WHERE whose.subject IS NOT NULL
)
SELECT entry.name, entry.content, entry.digest FROM whose JOIN entry
ON entry.kind = :kind AND entry.name = (
    SELECT name FROM entry
    WHERE kind = :kind AND subject = whose.subject AND (:state IS NULL OR state = :state)
    ORDER BY at DESC, name DESC LIMIT 1
)
"""
_EXPIRE = """
DELETE FROM entry WHERE kind = :kind AND at < :before AND EXISTS (
    SELECT 1 FROM entry AS newer
    WHERE newer.kind = entry.kind AND newer.subject = entry.subject
    AND newer.state = entry.state AND (newer.at, newer.name) > (entry.at, entry.name)
)
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One of a kind; `name` is unique in it, `subject` who it is about, `state` how it ended."""

    kind: str
    name: str
    subject: str
    state: str
    at: datetime
    content: str


def digest_of(name: str, content: str) -> bytes:
    """Return what shows that a text has changed: SQLite sees damage to its own structure only."""
    return hashlib.blake2b(f"{name} {content}".encode(), digest_size=16).digest()


def put(database: sqlite3.Connection, entry: Entry) -> None:
    """Insert an entry, or replace the one of its kind and name."""
    database.execute(
        "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            entry.kind,
            entry.name,
            entry.subject,
            entry.state,
            clock.to_text(entry.at),
            entry.content,
            digest_of(entry.name, entry.content),
        ),
    )


def get(database: sqlite3.Connection, kind: str, name: str) -> str | None:
    """Return what an entry holds; None: there is none."""
    query = "SELECT name, content, digest FROM entry WHERE kind = ? AND name = ?"
    return next(iter(_checked(database.execute(query, (kind, name)))), None)


def listed(
    database: sqlite3.Connection, kind: str, *, subject: str | None = None, limit: int = -1
) -> list[str]:
    """Return what entries of a kind hold, newest first: those of one subject, or all."""
    condition = "" if subject is None else "AND subject = :subject "
    query = (
        f"SELECT name, content, digest FROM entry WHERE kind = :kind {condition}"  # noqa: S608 -- only constants
        "ORDER BY at DESC, name DESC LIMIT :limit"
    )
    values = {"kind": kind, "subject": subject, "limit": limit}
    return _checked(database.execute(query, values))


def newest(database: sqlite3.Connection, kind: str, *, state: str | None = None) -> list[str]:
    """Return what each subject's newest entry of a kind holds, or the newest that ended so."""
    return _checked(database.execute(_NEWEST, {"kind": kind, "state": state}))


def clear(database: sqlite3.Connection, kind: str) -> None:
    """Forget all of a kind."""
    database.execute("DELETE FROM entry WHERE kind = ?", (kind,))


def expire(database: sqlite3.Connection, kind: str, before: str) -> None:
    """Forget the entries from before a time, but for each subject's newest of each state."""
    database.execute(_EXPIRE, {"kind": kind, "before": before})


def _checked(rows: Iterable[tuple[str, str, bytes]]) -> list[str]:
    found = []
    for name, content, digest in rows:
        if digest_of(name, content) != digest:
            raise UntrustedError(f'entry "{name}" has changed')
        found.append(content)
    return found
