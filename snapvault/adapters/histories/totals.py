# SPDX-License-Identifier: Apache-2.0
"""Sums over all runs that ever were: they go on when the runs themselves are forgotten."""

import sqlite3
from typing import Final

TABLE: Final = """
CREATE TABLE total (
    vault TEXT NOT NULL,
    name TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (vault, name)
) WITHOUT ROWID;
INSERT INTO total
SELECT substr(key, 1, instr(key, '/') - 1), 'requests', sum(amount) FROM (
    SELECT key, json_extract(content, '$.counters.requests') AS amount FROM run
) WHERE amount > 0 GROUP BY 1
"""
"""What makes the table, from the runs of a file that did not have it."""

_REQUESTS: Final = "requests"
_MOST: Final = 1 << 53  # what every reader of JSON and metrics takes as a whole number


def add(database: sqlite3.Connection, vault: str, requests: int) -> None:
    """Count requests that were made of a vault's store."""
    if not requests:
        return
    database.execute(
        "INSERT INTO total VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET value = value + excluded.value",
        (vault, _REQUESTS, max(-_MOST, min(requests, _MOST))),
    )


def add_run(database: sqlite3.Connection, vault: str, run: str, requests: int) -> None:
    """Count the requests of a run that is about to be put, in place of what it had before."""
    query = "SELECT json_extract(content, '$.counters.requests') FROM run WHERE id = ?"
    row = database.execute(query, (run,)).fetchone()
    before = row[0] if row is not None and isinstance(row[0], int) else 0
    add(database, vault, requests - before)


def requests(database: sqlite3.Connection) -> dict[str, int]:
    """Return the requests by vault."""
    rows = database.execute("SELECT vault, value FROM total WHERE name = ?", (_REQUESTS,))
    return {vault: max(0, value) for vault, value in rows}
