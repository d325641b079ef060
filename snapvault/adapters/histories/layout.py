# SPDX-License-Identifier: Apache-2.0
"""The tables of a history file."""

from typing import Final

from snapvault.adapters.database import Layout
from snapvault.adapters.histories import totals, usages

ALARM_COLUMNS: Final = "subject, kind, message, hint, raised, cleared"

# `key` is `vault/source`; neither name can have a slash.
_SCHEMA = """
CREATE TABLE run (
    id TEXT PRIMARY KEY,
    key TEXT NOT NULL,
    state TEXT NOT NULL,
    started TEXT NOT NULL,
    ended TEXT,
    point TEXT,
    content TEXT NOT NULL,
    digest BLOB NOT NULL
);
CREATE INDEX run_by_time ON run (started, id);
CREATE INDEX run_by_key ON run (key, started, id);
CREATE INDEX run_at_work ON run (started, id) WHERE state = 'running';
CREATE INDEX run_by_point ON run (point) WHERE point IS NOT NULL;
CREATE TABLE mark (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE TABLE alarm (
    subject TEXT NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    hint TEXT,
    raised TEXT NOT NULL,
    cleared TEXT
);
CREATE UNIQUE INDEX alarm_up ON alarm (subject, kind) WHERE cleared IS NULL;
CREATE INDEX alarm_by_time ON alarm (raised);
"""

# Whatever else is remembered: `kind` says what, `subject` of whom, `state` how it ended, `at` when.
_ENTRY = """
CREATE TABLE entry (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    subject TEXT NOT NULL,
    state TEXT NOT NULL,
    at TEXT NOT NULL,
    content TEXT NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE INDEX entry_by_time ON entry (kind, at, name);
CREATE INDEX entry_by_subject ON entry (kind, subject, at, name)
"""

LAYOUT: Final = Layout(
    what="history",
    application_id=0x53564C48,  # "SVLH", in the header of every history file
    version=1,
    schema=_SCHEMA,
    additions={"entry": _ENTRY, "total": totals.TABLE, "usage": usages.TABLE},
    probes=(
        "SELECT id, key, state, started, ended, point, content, digest FROM run LIMIT 1",
        "SELECT kind, key, at FROM mark LIMIT 1",
        f"SELECT {ALARM_COLUMNS} FROM alarm LIMIT 1",  # noqa: S608 -- only constants
        "SELECT vault, name, value FROM total LIMIT 1",
        "SELECT kind, name, subject, state, at, content, digest FROM entry LIMIT 1",
        usages.PROBE,
    ),
)
