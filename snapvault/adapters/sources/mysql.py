# SPDX-License-Identifier: Apache-2.0
"""Databases of a MariaDB or MySQL server, dumped while it works.

A dump shows one state of all tables whose engine knows transactions. Tables of other engines
(MyISAM, Aria) are each read at a moment of their own, as a power cut may leave them: a source
that has some is worth CRASH and says which they are.

Dumped is everything that a restore needs: when no databases are named, also `mysql`, with users
and grants; never what the server makes up itself (information_schema, performance_schema, sys).
With a stream for each database, each dump shows a moment of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from snapvault import clock
from snapvault.adapters import command
from snapvault.adapters.command import Program
from snapvault.adapters.dump_tables import MARIADB, DumpTables
from snapvault.adapters.sources import mysql_dump, mysql_errors, mysql_grants, mysql_tables
from snapvault.adapters.sources.dump_names import Naming
from snapvault.adapters.sources.dump_stream import DumpStream, DumpView, Watch
from snapvault.adapters.sources.mysql_client import MysqlClient, Server
from snapvault.adapters.sources.mysql_dump import DumpProgram
from snapvault.errors import QuiesceError, SnapVaultError, SourceError
from snapvault.model.policy import MysqlSpec
from snapvault.ports.events import Events
from snapvault.ports.source import NO_MARKS, Consistency, Finding

_WAITING = """
SELECT HEX(state), HEX(COALESCE(info, '')) FROM information_schema.processlist
WHERE id <> CONNECTION_ID() AND user = SUBSTRING_INDEX(USER(), '@', 1) AND command = 'Query'
AND state LIKE 'Waiting for%' AND time >= {seconds} LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be dumped: one dump of each group of databases."""

    server: Server
    program: DumpProgram
    groups: tuple[tuple[str, tuple[str, ...]], ...]  # stream, databases
    position: bool
    unprotected: tuple[str, ...]  # tables
    history: bool
    lost_history: tuple[str, ...]  # tables


class MysqlSource:
    """Dumps by mariadb-dump or mysqldump, with the binary log's position as a fact of each.

    Facts of a stream: `server`, `database` (its real name, if it is one), `binlog_file`,
    `binlog_position`, `gtid`, and those of its tables (formats/table_facts.py).
    """

    def __init__(self, name: str, spec: MysqlSpec, *, naming: Naming, events: Events) -> None:
        self._name = name
        self._spec = spec
        self._naming = naming
        self._events = events
        self._client = MysqlClient(spec.defaults_file, spec.lock_timeout.total_seconds())

    @property
    def name(self) -> str:
        """The source's name, unique in its vault."""
        return self._name

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> DumpView:
        """Look at the server and plan the dumps; each starts when its stream is opened.

        Raises:
            SourceError: the server cannot be reached, a database is missing, or the account
                may not see all of it, so that the dump would leave things out.
        """
        plan = self._plan()
        if plan.unprotected:
            self._warn("dump.unprotected", _told_unprotected(plan.unprotected))
        if plan.lost_history:
            self._warn("dump.history", _told_history(plan.lost_history))
        if plan.server.binary_log and not plan.position:
            self._warn("dump.position", _NO_POSITION)
        consistency = Consistency.CRASH if plan.unprotected else Consistency.APPLICATION
        streams = [self._stream(plan, name, databases) for name, databases in plan.groups]
        return DumpView(clock.now(), streams, consistency)

    def check(self) -> Iterator[Finding]:
        """Look at programs, login, rights, databases, binary log and engines."""
        try:
            self._client.require_settings()
            server = self._client.server()
        except SnapVaultError as error:
            yield Finding("server", str(error), error)
            return
        yield Finding("server", f'{server.label} answers as "{server.account}"')
        if self._client.is_exposed():
            yield Finding(
                "option file",
                f"{self._client.settings} may be read by other users of this host",
                remedy=f'Run "chmod 600 {self._spec.defaults_file}".',
            )
        yield _checked("program", lambda: _told_program(mysql_dump.find_program(server), server))
        try:
            databases = self._databases(server)
        except SnapVaultError as error:
            yield Finding("databases", str(error), error)
            return
        yield Finding("databases", f"{len(databases)} to be dumped; the account may read them")
        yield self._check_position(server)
        if tables := mysql_tables.unprotected(self._client, databases):
            yield Finding("engines", _told_unprotected(tables), remedy=_CONVERT)
        if tables := self._history(server, databases)[1]:
            yield Finding("history", _told_history(tables), remedy=_KEEP_HISTORY)

    def _plan(self) -> _Plan:
        server = self._client.server()
        program = mysql_dump.find_program(server)
        databases = self._databases(server)
        groups = (
            tuple((self._naming.own(database), (database,)) for database in databases)
            if self._spec.per_database
            else ((self._naming.whole, databases),)
        )
        position = server.binary_log and self._sees_position(server)
        unprotected = mysql_tables.unprotected(self._client, databases)
        history = self._history(server, databases)
        return _Plan(server, program, groups, position, unprotected, *history)

    def _databases(self, server: Server) -> tuple[str, ...]:
        """Return what is to be dumped, after seeing to it that all of it can be seen."""
        there = self._client.databases()
        grants = mysql_grants.parse(self._client.grants())
        wanted = self._spec.databases
        for database in wanted:
            if database not in there:
                raise _unknown(database, there)
        missing = grants.missing_everywhere()
        if missing and wanted:
            lacking = [(database, grants.missing_on(database)) for database in wanted]
            where, missing = next(((d, m) for d, m in lacking if m), ("", []))
            target = f"`{where}`.*"
        else:
            target = "*.*"
        if not missing and not grants.sees_routines(mariadb=server.is_mariadb):
            missing = ["SELECT" if server.is_mariadb else "SHOW_ROUTINE"]
            target = "mysql.proc" if server.is_mariadb else "*.*"
        # Rights that come through roles are not all listed; then the dump itself is believed.
        if missing and not grants.has_roles:
            rights = ", ".join(missing)
            raise SourceError(
                f'account "{server.account}" lacks {rights} on {target}, so a dump would not '
                "be whole",
                hint=f'Run "GRANT {rights} ON {target} TO {_quoted(server.account)}" as root.',
            )
        if not there:
            raise SourceError(f'account "{server.account}" can see no database')
        return tuple(wanted or there)

    def _sees_position(self, server: Server) -> bool:
        if server.is_mariadb:  # a status variable of the snapshot itself, open to everybody
            return True
        return mysql_grants.parse(self._client.grants()).sees_position()

    def _check_position(self, server: Server) -> Finding:
        if not server.binary_log:
            return Finding(
                "binary log",
                "it is off: a restore brings back the nightly state, and nothing after it",
                remedy="Set log_bin and server_id to be able to roll forward from a dump.",
            )
        if not self._sees_position(server):
            remedy = "Grant RELOAD, REPLICATION CLIENT on *.*."
            return Finding("binary log", _NO_POSITION, remedy=remedy)
        return Finding("binary log", "it is on, and its position can be read")

    def _history(self, server: Server, databases: Sequence[str]) -> tuple[bool, tuple[str, ...]]:
        """Tell whether there is history that a dump can hold, and which tables' it cannot."""
        if not server.is_mariadb:
            return False, ()
        by_time, by_transactions = mysql_tables.versioned(self._client, databases)
        program = mysql_dump.find_program(server)
        if by_transactions or not program.keeps_history:
            return False, (*by_time, *by_transactions)
        return bool(by_time), ()

    def _stream(self, plan: _Plan, stream: str, databases: tuple[str, ...]) -> DumpStream:
        everything = not self._spec.databases and not self._spec.per_database
        arguments = plan.program.arguments(databases, position=plan.position, history=plan.history)
        timeout = self._spec.timeout.total_seconds() if self._spec.timeout else None
        own = {"database": databases[0]} if len(databases) == 1 and not everything else {}

        def explain(program: Program) -> SourceError:
            doing = f'dump stream "{stream}"'
            return mysql_errors.explain(program, doing, self._client.settings)

        def read_facts(head: bytes, tail: bytes) -> Mapping[str, str]:
            position = mysql_dump.read_position(head, tail) if plan.position else {}
            return {"server": plan.server.label, **own, **position}

        return DumpStream(
            stream,
            command.stream(
                [*self._client.argv(plan.program.name), *arguments], timeout=timeout, parsed=True
            ),
            is_complete=mysql_dump.is_complete,
            explain=explain,
            read_facts=read_facts,
            # MySQL's program writes rows in a way that cannot be counted as they pass by.
            tables=DumpTables(MARIADB) if plan.program.is_mariadb else None,
            watch=Watch(max(1.0, self._client.lock_timeout), lambda: self._look_for_locks(stream)),
        )

    def _look_for_locks(self, stream: str) -> None:
        """Raise if a session of our account has been waiting for a lock for too long.

        mariadb-dump cannot be told how long to wait, and the server's default is a day.
        """
        limit = max(1, int(self._client.lock_timeout) - 1)
        try:
            waiting = self._client.rows(_WAITING.format(seconds=limit))
        except SourceError:
            # No second session is to be had, perhaps; then the dump itself is believed.
            return
        for state, statement in waiting:
            table = _from_hex(statement).partition("FROM `")[2].partition("`")[0]
            what = f' of table "{table}"' if table else ""
            raise QuiesceError(
                f'could not dump stream "{stream}": it waited for a lock{what} for more than '
                f"{limit} s ({_from_hex(state).lower()})",
                hint="End the session that holds LOCK TABLES or alters the table, or raise "
                "lock_timeout.",
            )

    def _warn(self, event: str, message: str) -> None:
        self._events.warn(event, f'source "{self._name}": {message}', source=self._name)


_KEEP_HISTORY: Final = (
    "Use mariadb-dump 10.11 or later, and versions by time; or the lvm way, which takes everything."
)
_NO_POSITION: Final = "its account may not read the position of the binary log"
_CONVERT: Final = "Convert them to InnoDB, or use the lvm way, which locks all tables."


def _told_unprotected(tables: Sequence[str]) -> str:
    named = mysql_tables.told(tables)
    return f"tables without transactions are dumped as they are when it is their turn: {named}"


def _told_history(tables: Sequence[str]) -> str:
    return f"the history of tables is left out, as they are dumped: {mysql_tables.told(tables)}"


def _told_program(program: DumpProgram, server: Server) -> str:
    version = ".".join(str(number) for number in program.version)
    flavor = "MariaDB" if program.is_mariadb else "MySQL"
    if program.is_mariadb != server.is_mariadb:
        raise SourceError(
            f'program "{program.name}" is {flavor}\'s, but the server is {server.label}',
            hint="Install the dump program of the server's own flavor.",
        )
    return f'"{program.name}" of {flavor} {version} is there'


def _checked(check: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(check, look())
    except SnapVaultError as error:
        return Finding(check, str(error), error)


def _unknown(database: str, there: Sequence[str]) -> SourceError:
    near = get_close_matches(database, there, n=1)
    return SourceError(
        f'database "{database}" is not there, or the account may not see it',
        hint=f'The nearest is "{near[0]}".' if near else None,
    )


def _quoted(account: str) -> str:
    user, _, host = account.rpartition("@")
    return f"'{user}'@'{host}'"


def _from_hex(text: str) -> str:
    return bytes.fromhex(text).decode(errors="replace")
