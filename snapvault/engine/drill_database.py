# SPDX-License-Identifier: Apache-2.0
"""Rehearsing a database: its dumps are loaded into a private server, which is then asked."""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

from snapvault import clock
from snapvault.engine.contents import Contents
from snapvault.engine.drill_notes import NOT_RESTORED, Notes, Tools, origin_of
from snapvault.engine.drill_restore import bring_back
from snapvault.errors import DrillError, SnapVaultError
from snapvault.formats import table_facts
from snapvault.model.drills import Phase, Verdict
from snapvault.model.point import StreamRecord
from snapvault.model.policy import KindSpec, MysqlSpec, PostgresqlSpec, SourceSpec
from snapvault.model.rehearsal import DatabaseDrill, SqlCheck
from snapvault.model.tables import Tables, TablesSummary
from snapvault.ports.scratch_database import ScratchDatabase, ScratchDatabases
from snapvault.units import format_count, format_duration, format_size

_SERVER_ROOM: Final = 512 << 20  # bytes that an empty server takes, at the most
_GROWTH: Final = 2  # times a dump's size that its tables may take
_TABLES: Final = "tables are as at the backup"
_NAMED: Final = 3  # tables, in a message
_GLOBALS: Final = "globals"


def rehearse(notes: Notes, tools: Tools, kind: DatabaseDrill, contents: Contents) -> None:
    """Load the dumps of a point, and make the checks."""
    names = [_name(check) for check in kind.checks] + ([_TABLES] if kind.compare_tables else [])
    try:
        servers = _servers(notes, tools, contents)
        servers.check()
    except SnapVaultError:
        notes.skip(names, "no server can be started here")
        raise
    size = sum(stream.size for stream in contents.streams)
    try:
        paths = bring_back(notes, tools, contents, room_beside=size * _GROWTH + _SERVER_ROOM)
    except BaseException:
        notes.skip(names, NOT_RESTORED)
        raise
    with _server(notes, servers, kind.timeout) as server:
        loaded = _load(notes, server, contents, paths)
        if loaded is None:
            notes.skip(names, "not everything could be loaded")
            return
        with notes.phases.at(Phase.READY):
            for check in kind.checks:
                server.ask(notes, _name(check), partial(_answer, server, check))
            if kind.compare_tables:
                _compare(notes, server, contents.streams, loaded)
        notes.ready = notes.phases.elapsed


def dumps_of(notes: Notes, streams: Sequence[StreamRecord]) -> tuple[StreamRecord, ...]:
    """Return the streams that are dumps, what concerns the whole server first."""
    dumps = [stream for stream in streams if _product(notes, stream) is not None]
    return tuple(sorted(dumps, key=lambda stream: not _is_of_server(stream)))


def is_dump_of_server(source: SourceSpec) -> bool:
    """Tell whether a source is dumps of one database server, by what the policy says."""
    return len({_product_of(stream.spec) for stream in source.streams}) == 1 and (
        _product_of(source.streams[0].spec) is not None
    )


def _is_of_server(stream: StreamRecord) -> bool:
    return stream.name.rpartition(".")[2] == _GLOBALS and "database" not in stream.facts


def _product(notes: Notes, stream: StreamRecord) -> str | None:
    """Return the product that a stream is a dump of; None: it is none."""
    if stream.kind == "disk" or stream.facts.get("format") == "tar":
        return None
    return _product_of(origin_of(notes.source, stream.name))


def _product_of(spec: KindSpec | None) -> str | None:
    match spec:
        case MysqlSpec(lvm=None):
            return "mysql"
        case PostgresqlSpec(base_backup=False):
            return "postgresql"
        case _:
            return None


def _servers(notes: Notes, tools: Tools, contents: Contents) -> ScratchDatabases:
    products = {_product(notes, stream) for stream in contents.streams}
    if len(products) != 1 or None in products:
        raise DrillError(
            f'restore point "{contents.point.point}" of source "{notes.source.name}" has no dumps'
            " of one database server",
            hint='Rehearse it with "files", or choose another restore point.',
        )
    return tools.databases[str(products.pop())]


class _Asked:
    """A server that is loaded and asked until its time is over."""

    def __init__(self, server: ScratchDatabase, limit: timedelta) -> None:
        self._server = server
        self._limit = limit
        self._until = clock.monotonic() + limit.total_seconds()
        self._is_late = False
        self._timer = threading.Timer(limit.total_seconds(), self._end)
        self._timer.daemon = True
        self._timer.start()

    @property
    def own(self) -> ScratchDatabase:
        return self._server

    @property
    def left(self) -> timedelta:
        return timedelta(seconds=max(0.001, self._until - clock.monotonic()))

    def ask(self, notes: Notes, name: str, look: "partial[str]") -> bool:
        """Make a check, unless the time is over."""
        if self._is_late:
            notes.add(name, notes.not_made(), self._told())
            return False
        return notes.attempt(name, lambda: self._timely(look))

    def close(self) -> None:
        self._timer.cancel()
        self._server.close()

    def _end(self) -> None:
        self._is_late = True
        with suppress(SnapVaultError, OSError):  # whoever waits for it hears of it
            self._server.close()

    def _timely(self, look: "partial[str]") -> str:
        try:
            return look()
        except SnapVaultError as error:
            if self._is_late:
                raise DrillError(self._told()) from error
            raise

    def _told(self) -> str:
        return f"the {format_duration(self._limit)} that the drill had were over"


@contextmanager
def _server(notes: Notes, servers: ScratchDatabases, limit: timedelta) -> Iterator[_Asked]:
    folder = notes.folder / "server"
    folder.mkdir(mode=0o700)
    with notes.phases.at(Phase.LOAD):
        server = _Asked(servers.start(folder), limit)
    try:
        yield server
    finally:
        with notes.cleaning_up("end the scratch server"):
            server.close()


def _load(
    notes: Notes, server: _Asked, contents: Contents, paths: Mapping[str, Path]
) -> dict[str, Tables | None] | None:
    """Load every dump; return the tables that each has, or None if one could not be loaded."""
    counted: dict[str, Tables | None] = {}

    def load(stream: StreamRecord) -> str:
        names_its_own = stream.facts.get("creates_database", "yes") == "yes"
        database = None if names_its_own else stream.facts.get("database")
        with paths[stream.name].open("rb") as dump:
            counted[stream.name] = server.own.load(dump, stream.name, database)
        return format_size(stream.size)

    dumps = dumps_of(notes, contents.streams)
    with notes.phases.at(Phase.LOAD):
        for number, stream in enumerate(dumps):
            if not server.ask(notes, _load_name(stream), partial(load, stream)):
                rest = [_load_name(each) for each in dumps[number + 1 :]]
                notes.skip(rest, f'stream "{stream.name}" before it could not be loaded')
                return None
    return counted


def _load_name(stream: StreamRecord) -> str:
    return f'stream "{stream.name}" is loaded'


def _name(check: SqlCheck) -> str:
    where = f'database "{check.database}": ' if check.database else ""
    return f"{where}{' '.join(check.sql.split())}"


def _answer(server: _Asked, check: SqlCheck) -> str:
    """Ask one thing; return why the answer is right."""
    database = check.database
    if database is None:
        loaded = server.own.databases()
        database = loaded[0] if len(loaded) == 1 else None
    rows = server.own.query(check.sql, database, server.left)
    if not rows or not rows[0]:
        raise DrillError("it answered with no row")
    value = rows[0][0]
    shown = value if len(value) <= 100 else f"{value[:100]}…"
    if check.expect is not None:
        if re.fullmatch(check.expect, value) is None:
            raise DrillError(f'the answer is "{shown}", which does not match "{check.expect}"')
        return f'the answer is "{shown}"'
    try:
        number = float(value)
    except ValueError:
        raise DrillError(f'the answer is "{shown}", which is no number') from None
    least = f"{check.at_least:g}"
    if not number >= (check.at_least or 0.0):
        raise DrillError(f"the answer is {shown}, which is less than {least}")
    return f"the answer is {shown}, at least {least}"


def _compare(
    notes: Notes,
    server: _Asked,
    streams: Sequence[StreamRecord],
    loaded: Mapping[str, Tables | None],
) -> None:
    """Compare the tables that the server has with what the backup recorded of them.

    That is one digest of all tables of a dump. Where the tables that were counted on their way
    into the server have it, they are those of the backup, and what the server has is held
    against them one by one.
    """
    recorded = {stream.name: table_facts.decode(stream.facts) for stream in streams}
    known = {name: summary for name, summary in recorded.items() if summary is not None}
    if not known:
        notes.add(_TABLES, Verdict.SKIPPED, "the backup recorded nothing of its tables")
    elif uncounted := [name for name in known if loaded[name] is None]:
        reason = f'the tables of stream "{uncounted[0]}" cannot be counted here'
        notes.add(_TABLES, Verdict.SKIPPED, reason)
    else:
        server.ask(notes, _TABLES, partial(_compared, server.own, known, loaded))


def _compared(
    server: ScratchDatabase,
    recorded: Mapping[str, TablesSummary],
    loaded: Mapping[str, Tables | None],
) -> str:
    wrong: list[str] = []
    for stream, summary in recorded.items():
        tables = loaded[stream] or {}
        found = table_facts.summarize(tables)
        if found != summary:
            wrong.append(
                f'stream "{stream}" has {_counts(found)} now, at the backup {_counts(summary)}'
                + (" and other contents" if _counts(found) == _counts(summary) else "")
            )
        wrong += _differences(server, tables)
    if wrong:
        more = len(wrong) - _NAMED
        raise DrillError("; ".join(wrong[:_NAMED]) + (f"; and {more} more" if more > 0 else ""))
    tables_there = sum(summary.tables for summary in recorded.values())
    rows_there = sum(summary.rows for summary in recorded.values())
    return f"{format_count(tables_there, 'table')}, {format_count(rows_there, 'row')}"


def _counts(summary: TablesSummary) -> str:
    return f"{format_count(summary.tables, 'table')} with {format_count(summary.rows, 'row')}"


def _differences(server: ScratchDatabase, loaded: Tables) -> Iterator[str]:
    """Yield what a server does not have as its dump had it."""
    there = set(server.databases())
    for database, tables in loaded.items():
        if database not in there:
            yield f'database "{database}" is not there'
            continue
        has = server.tables(database)
        for table, facts in tables.items():
            found = has.get(table)
            name = f'table "{database}.{table}"'
            if found is None:
                yield f"{name} is not there"
            elif found.rows != facts.rows:
                yield f"{name} has {format_count(found.rows, 'row')}, not {facts.rows:,}"
            elif found.digest != facts.digest:
                yield f"{name} has other contents"
