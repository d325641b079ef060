# SPDX-License-Identifier: Apache-2.0
"""The history in an SQLite file: ports/history.py.

All of it can be lost, so a file that cannot be trusted is set aside, and an empty one takes its
place.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from snapvault import clock
from snapvault.adapters.database import DatabaseFile, UntrustedError
from snapvault.adapters.histories import entries, layout, records, summaries, totals, usages
from snapvault.adapters.histories.layout import ALARM_COLUMNS
from snapvault.model.drills import DrillSummary, Verdict
from snapvault.model.notices import NotifierStanding
from snapvault.model.prunes import PruneSummary
from snapvault.model.runs import Alarm, Run, RunState, SourceKey
from snapvault.model.status import Following
from snapvault.model.usage import Usage
from snapvault.model.verifies import VerifySummary

# Goes from key to key by the index, however many runs lie between them.
_LATEST = """
WITH RECURSIVE source (name) AS (
    SELECT min(key) FROM run
    UNION ALL
    SELECT (SELECT min(key) FROM run WHERE key > name) FROM source WHERE name IS NOT NULL
)
SELECT id, content, digest FROM source JOIN run ON run.id = (
    SELECT id FROM run WHERE key = name AND state != 'missed' ORDER BY started DESC, id DESC LIMIT 1
)
"""
_EXPIRED = """
SELECT id FROM run AS old WHERE started < :before AND ended < :before AND NOT (
    state = 'succeeded' AND NOT EXISTS (
        SELECT 1 FROM run AS newer WHERE newer.key = old.key AND newer.state = 'succeeded'
        AND (newer.started, newer.id) > (old.started, old.id)
    )
)
"""
_REPLACE_MARK = "INSERT OR REPLACE INTO mark VALUES (?, ?, ?)"
_CLEAR = """
UPDATE alarm SET cleared = ? WHERE subject = ? AND kind = ? AND cleared IS NULL
RETURNING subject, kind, message, hint, raised, cleared
"""


class SqliteHistory:
    """A history file, made when it is missing."""

    def __init__(
        self,
        path: Path,
        *,
        expire_logs: Callable[[datetime], object] | None = None,
        must_open: bool = True,
    ) -> None:
        """Open the history; `expire_logs` forgets the logs of runs from before a time.

        Raises:
            StateError, ConfigError: the state folder cannot be used, and it `must_open` now.
        """
        self._file = DatabaseFile(path, layout.LAYOUT, must_open=must_open)
        self._expire_logs = expire_logs

    @property
    def was_reset(self) -> bool:
        """Whether an untrusted or lost file was replaced by an empty one since this was made."""
        return self._file.reset_reason is not None

    @property
    def reset_reason(self) -> str | None:
        """What was wrong with the file that was replaced; None if none was."""
        return self._file.reset_reason

    @property
    def resets(self) -> int:
        """How often the file was replaced by an empty one since this was made."""
        return self._file.resets

    def put(self, run: Run) -> None:
        """Insert or replace a run."""
        content = records.encode(run)
        values = (
            run.id,
            str(run.key),
            run.state.value,
            clock.to_text(run.started),
            None if run.ended is None else clock.to_text(run.ended),
            run.point,
            content,
            entries.digest_of(run.id, content),
        )

        def act(database: sqlite3.Connection) -> None:
            before = usages.of_run(database, run.id)
            usage = Usage.of_counters(run.counters)
            usages.add(database, run.key.vault, "backup", usage - before, run.started)
            totals.add_run(database, run.key.vault, run.id, run.counters.get("requests", 0))
            database.execute("INSERT OR REPLACE INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

        self._file.write(act)

    def get(self, run: str) -> Run | None:
        """Return the run of that id."""
        return next(iter(self._runs("WHERE id = :id", {"id": run})), None)

    def of_point(self, point: str) -> Run | None:
        """Return the run that made a restore point."""
        found = self._runs("WHERE point = :point ORDER BY started DESC LIMIT 1", {"point": point})
        return next(iter(found), None)

    def runs(
        self,
        key: SourceKey | None = None,
        *,
        since: datetime | None = None,
        running: bool = False,
        limit: int = 1000,
    ) -> list[Run]:
        """Return runs, newest start first."""
        conditions: list[str] = []
        values: dict[str, object] = {"limit": limit}
        if key is not None:
            conditions.append("key = :key")
            values["key"] = str(key)
        if since is not None:
            conditions.append("started >= :since")
            values["since"] = clock.to_text(since)
        if running:
            conditions.append(f"state = '{RunState.RUNNING.value}'")
        where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
        return self._runs(f"{where}ORDER BY started DESC, id DESC LIMIT :limit", values)

    def latest(self) -> Mapping[SourceKey, Run]:
        """Return each source's run that started last."""
        found = self._file.read(lambda database: _read(database.execute(_LATEST)))
        return {run.key: run for run in found}

    def handled(self) -> Mapping[SourceKey, datetime]:
        """Return up to when each source's schedule was followed."""
        return self._marks("handled")

    def set_handled(self, key: SourceKey, until: datetime) -> None:
        """Remember up to when a source's schedule was followed."""
        self._mark(_REPLACE_MARK, "handled", key, clock.to_text(until))

    def schedules(self) -> Mapping[SourceKey, str]:
        """Return by which schedule each source was followed."""
        return self._texts("schedule")

    def set_schedule(self, key: SourceKey, schedule: str) -> None:
        """Remember by which schedule a source is followed."""
        self._mark(_REPLACE_MARK, "schedule", key, schedule)

    def seen(self) -> Mapping[SourceKey, datetime]:
        """Return when each source was first seen in a policy."""
        return self._marks("seen")

    def set_seen(self, key: SourceKey, at: datetime) -> None:
        """Remember when a source was first seen."""
        statement = (
            "INSERT INTO mark VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET at = excluded.at WHERE excluded.at < at"
        )
        self._mark(statement, "seen", key, clock.to_text(at))

    def alarms(self, *, up: bool = True, since: datetime | None = None) -> list[Alarm]:
        """Return alarms, newest first."""
        up_only = "AND cleared IS NULL" if up else ""
        query = (
            f"SELECT {ALARM_COLUMNS} FROM alarm WHERE raised >= ? {up_only} "  # noqa: S608 -- only constants
            "ORDER BY raised DESC, subject, kind"
        )
        start = "" if since is None else clock.to_text(since)
        return self._file.read(
            lambda database: [_alarm(row) for row in database.execute(query, (start,))]
        )

    def raise_alarm(self, alarm: Alarm) -> bool:
        """Record an alarm, unless it is up: then only replace its text."""

        def act(database: sqlite3.Connection) -> bool:
            updated = database.execute(
                "UPDATE alarm SET message = ?, hint = ? "
                "WHERE subject = ? AND kind = ? AND cleared IS NULL",
                (alarm.message, alarm.hint, alarm.subject, alarm.kind),
            )
            if updated.rowcount:
                return False
            cleared = None if alarm.cleared is None else clock.to_text(alarm.cleared)
            database.execute(
                f"INSERT INTO alarm ({ALARM_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608 -- only constants
                (
                    alarm.subject,
                    alarm.kind,
                    alarm.message,
                    alarm.hint,
                    clock.to_text(alarm.raised),
                    cleared,
                ),
            )
            return True

        return self._file.write(act)

    def clear_alarm(self, subject: str, kind: str, at: datetime) -> Alarm | None:
        """End an alarm and return it."""

        def act(database: sqlite3.Connection) -> Alarm | None:
            row = database.execute(_CLEAR, (clock.to_text(at), subject, kind)).fetchone()
            return None if row is None else _alarm(row)

        return self._file.write(act)

    def add_drill(self, summary: DrillSummary) -> None:
        """Remember what a drill showed of a source."""
        self._file.write(lambda database: summaries.add_drill(database, summary))

    def drills(self, key: SourceKey | None = None, *, limit: int = 100) -> list[DrillSummary]:
        """Return drills, newest end first."""
        return self._file.read(lambda database: summaries.drills(database, key, limit=limit))

    def last_drills(self, verdict: Verdict | None = None) -> Mapping[SourceKey, DrillSummary]:
        """Return each source's newest drill, or the newest that ended so."""
        return self._file.read(lambda database: summaries.last_drills(database, verdict))

    def add_verify(self, summary: VerifySummary) -> None:
        """Remember a verify, and count its requests."""
        self._file.write(lambda database: summaries.add_verify(database, summary))

    def verifies(self) -> list[VerifySummary]:
        """Return what counts of all verifies, newest first."""
        return self._file.read(summaries.verifies)

    def add_prune(self, summary: PruneSummary) -> None:
        """Remember a prune."""
        self._file.write(lambda database: summaries.add_prune(database, summary))

    def prunes(self) -> list[PruneSummary]:
        """Return of each vault the newest prune of each way to end."""
        return self._file.read(summaries.prunes)

    def count_usage(self, vault: str, verb: str, usage: Usage, at: datetime) -> None:
        """Count what something else than a run or a verify asked of a vault's store."""

        def act(database: sqlite3.Connection) -> None:
            usages.add(database, vault, verb, usage, at)
            totals.add(database, vault, usage.requests)

        self._file.write(act)

    def usage(self, since: datetime | None = None) -> Mapping[str, Mapping[str, Usage]]:
        """Return what was asked of each vault's store, by verb."""
        return self._file.read(lambda database: usages.sums(database, since))

    def requests(self) -> Mapping[str, int]:
        """Return what was ever asked of each vault's store."""
        return self._file.read(totals.requests)

    def set_notifiers(self, standings: Sequence[NotifierStanding]) -> None:
        """Remember how the notifiers stand."""
        self._file.write(lambda database: summaries.set_notifiers(database, standings))

    def notifiers(self) -> list[NotifierStanding]:
        """Return how the notifiers stood."""
        return self._file.read(summaries.notifiers)

    def set_following(self, following: Following | None) -> None:
        """Leave what a scheduler goes by for other processes."""
        self._file.write(lambda database: summaries.set_following(database, following))

    def following(self) -> Following | None:
        """Return what a scheduler left."""
        return self._file.read(summaries.following)

    def started_by(self, share: float, *, at_least: int) -> datetime | None:
        """Return when the first run started that is not among the oldest."""
        query = (
            "SELECT started FROM run ORDER BY started, id LIMIT 1 "
            "OFFSET (SELECT max(CAST(count(*) * ? AS INTEGER), ?) FROM run)"
        )
        values = (share, at_least)
        row = self._file.read(lambda database: database.execute(query, values).fetchone())
        return None if row is None else clock.from_text(row[0])

    def expired(self) -> datetime | None:
        """Return when `expire` was called last."""
        return self._file.read(summaries.expired)

    def expire(self, before: datetime, *, now: datetime) -> int:
        """Forget runs, drills, verifies, prunes and alarms that ended before then, and logs."""
        limit = clock.to_text(before)

        def act(database: sqlite3.Connection) -> int:
            database.execute("DELETE FROM alarm WHERE cleared < ?", (limit,))
            summaries.expire(database, limit, now)
            gone = database.execute(
                f"DELETE FROM run WHERE id IN ({_EXPIRED})",  # noqa: S608 -- only constants
                {"before": limit},
            )
            return gone.rowcount

        count = self._file.write(act)
        if self._expire_logs is not None:
            self._expire_logs(before)
        return count

    def close(self) -> None:
        """Close the file. Safe to repeat."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def _runs(self, rest: str, values: Mapping[str, object]) -> list[Run]:
        query = f"SELECT id, content, digest FROM run {rest}"  # noqa: S608 -- only constants
        return self._file.read(lambda database: _read(database.execute(query, values)))

    def _marks(self, kind: str) -> Mapping[SourceKey, datetime]:
        def act(database: sqlite3.Connection) -> Mapping[SourceKey, datetime]:
            return {key: _moment(at) for key, at in _marked(database, kind)}

        return self._file.read(act)

    def _texts(self, kind: str) -> Mapping[SourceKey, str]:
        return self._file.read(lambda database: dict(_marked(database, kind)))

    def _mark(self, statement: str, kind: str, key: SourceKey, text: str) -> None:
        values = (kind, str(key), text)
        self._file.write(lambda database: database.execute(statement, values))


def _marked(database: sqlite3.Connection, kind: str) -> list[tuple[SourceKey, str]]:
    rows = database.execute("SELECT key, at FROM mark WHERE kind = ?", (kind,))
    return [(_key(name), text) for name, text in rows]


def _read(rows: sqlite3.Cursor) -> list[Run]:
    """Return runs as they were put.

    Raises:
        UntrustedError: one is not as it was put.
    """
    found = []
    for name, content, digest in rows:
        if entries.digest_of(name, content) != digest:
            raise UntrustedError(f'run "{name}" has changed')
        try:
            found.append(records.decode(content))
        except ValueError as error:
            raise UntrustedError(f'run "{name}": {error}') from error
    return found


def _key(name: str) -> SourceKey:
    vault, slash, source = name.partition("/")
    if not slash:
        raise UntrustedError(f'"{name}" names no source')
    return SourceKey(vault, source)


def _alarm(row: tuple[Any, ...]) -> Alarm:
    subject, kind, message, hint, raised, cleared = row
    ended = None if cleared is None else _moment(cleared)
    return Alarm(subject, kind, message, hint, _moment(raised), ended)


def _moment(text: str) -> datetime:
    try:
        return clock.from_text(text)
    except (TypeError, ValueError) as error:
        raise UntrustedError(str(error)) from error
