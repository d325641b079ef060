# SPDX-License-Identifier: Apache-2.0
"""What was asked of stores, by vault, day and verb; kept for ever, a few rows a day."""

import json
import sqlite3
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from snapvault import clock
from snapvault.model.usage import FIELDS, NOTHING, Usage

_COLUMNS: Final = ", ".join(FIELDS)
_ADDED: Final = ", ".join(f"{name} = {name} + excluded.{name}" for name in FIELDS)
_PLACES: Final = ", ".join("?" * (3 + len(FIELDS)))
_SUMS: Final = ", ".join(f"sum({name})" for name in FIELDS)
_MOST: Final = 1 << 53  # what every reader of JSON and metrics takes as a whole number

TABLE: Final = f"""
CREATE TABLE usage (
    vault TEXT NOT NULL,
    day TEXT NOT NULL,
    verb TEXT NOT NULL,
    {", ".join(f"{name} INTEGER NOT NULL" for name in FIELDS)},
    PRIMARY KEY (vault, day, verb)
) WITHOUT ROWID
"""
PROBE: Final = f"SELECT vault, day, verb, {_COLUMNS} FROM usage LIMIT 1"  # noqa: S608 -- only constants


def add(database: sqlite3.Connection, vault: str, verb: str, usage: Usage, at: datetime) -> None:
    """Count what was asked of a vault's store on a day."""
    if usage == NOTHING:
        return
    values = (max(-_MOST, min(getattr(usage, name), _MOST)) for name in FIELDS)
    database.execute(
        f"INSERT INTO usage VALUES ({_PLACES}) ON CONFLICT DO UPDATE SET {_ADDED}",  # noqa: S608 -- only constants
        (vault, _day(at), verb, *values),
    )


def of_run(database: sqlite3.Connection, run: str) -> Usage:
    """Return what is known of a run's usage."""
    row = database.execute("SELECT content FROM run WHERE id = ?", (run,)).fetchone()
    try:
        return Usage.of_counters(json.loads(row[0])["counters"]) if row else NOTHING
    except (KeyError, TypeError, ValueError, AttributeError):
        return NOTHING  # what reads runs sees that it is damaged


def sums(
    database: sqlite3.Connection, since: datetime | None = None
) -> dict[str, dict[str, Usage]]:
    """Return the sums by vault and verb: from the day of a moment on, or of all days."""
    rows: Iterable[tuple[str, str, *tuple[int, ...]]] = database.execute(
        f"SELECT vault, verb, {_SUMS} FROM usage WHERE day >= ? GROUP BY vault, verb",  # noqa: S608 -- only constants
        ("" if since is None else _day(since),),
    )
    found: dict[str, dict[str, Usage]] = {}
    for vault, verb, *values in rows:
        found.setdefault(vault, {})[verb] = Usage(*(max(0, value) for value in values))
    return found


def _day(at: datetime) -> str:
    return clock.to_text(at)[:10]
