# SPDX-License-Identifier: Apache-2.0
"""Databases of a PostgreSQL server, dumped while it works, or the cluster as its files are.

Each dump shows one state of one database. PostgreSQL has no state of several databases that a
client could see: dumps of two databases show two moments. Who needs one moment of all takes the
base backup, which with its WAL is the state at the backup's end.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from snapvault import clock
from snapvault.adapters import command
from snapvault.adapters.command import Program
from snapvault.adapters.dump_tables import POSTGRESQL, DumpTables
from snapvault.adapters.sources import postgresql_checks as checks
from snapvault.adapters.sources import postgresql_dump as dumps
from snapvault.adapters.sources import postgresql_errors
from snapvault.adapters.sources.dump_names import Naming
from snapvault.adapters.sources.dump_stream import DumpStream, DumpView
from snapvault.adapters.sources.postgresql_client import PostgresqlClient, Server
from snapvault.errors import SnapVaultError, SourceError
from snapvault.model.policy import PostgresqlSpec
from snapvault.ports.source import NO_MARKS, Consistency, Finding

GLOBALS: Final = "globals"  # the own name of the stream of roles and tablespaces
LOCK_TIMEOUT: Final = 60.0  # seconds


class PostgresqlSource:
    """Dumps by pg_dump and pg_dumpall in plain SQL, or one archive by pg_basebackup.

    Facts of a stream: `server`, `format` (`sql` or `tar`), `wal_position` (what the server had
    written when the view was opened; the stream shows that or a little more), `database` (its
    real name) and `creates_database`, those of its tables (formats/table_facts.py), or
    `wal_start` of a base backup.
    """

    def __init__(
        self,
        name: str,
        spec: PostgresqlSpec,
        *,
        naming: Naming,
        lock_timeout: float = LOCK_TIMEOUT,
        programs: Sequence[Path] | None = None,
    ) -> None:
        """`lock_timeout` is in seconds, for each table; `programs` are folders to look in."""
        self._name = name
        self._spec = spec
        self._naming = naming
        self._lock_timeout = lock_timeout
        self._client = PostgresqlClient(spec, programs)

    @property
    def name(self) -> str:
        """The source's name, unique in its vault."""
        return self._name

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> DumpView:
        """Look at the server and plan the dumps; each starts when its stream is opened.

        Raises:
            SourceError: the server cannot be reached, a database is missing, or no
                program fits the server.
        """
        server = self._client.server()
        taken_at = clock.now()
        streams = self._base_backup(server) if self._spec.base_backup else self._dumps(server)
        return DumpView(taken_at, streams, Consistency.APPLICATION)

    def check(self) -> Iterator[Finding]:
        """Look at programs, login, rights and databases."""
        try:
            server = self._client.server()
        except SnapVaultError as error:
            yield Finding("server", str(error), error)
            return
        yield Finding("server", f'{server.label} answers as "{server.role}"')
        if self._spec.base_backup:
            yield _checked("program", lambda: self._told_program("pg_basebackup", server))
            yield from checks.of_base_backup(self._client, server)
            return
        yield _checked("program", lambda: self._told_program("pg_dump", server))
        try:
            databases = self._databases()
        except SnapVaultError as error:
            yield Finding("databases", str(error), error)
            return
        yield Finding("databases", f"{len(databases)} to be dumped")
        if self._spec.include_globals:
            yield checks.of_globals(self._client, server)
        for database in databases:
            yield checks.of_tables(self._client, server, database)

    def _databases(self) -> list[str]:
        there = self._client.databases()
        for database in self._spec.databases:
            if database not in there:
                near = get_close_matches(database, there, n=1)
                raise SourceError(
                    f'database "{database}" is not there, or takes no connections',
                    hint=f'The nearest is "{near[0]}".' if near else None,
                )
        return list(self._spec.databases or there)

    def _dumps(self, server: Server) -> list[DumpStream]:
        program = self._client.program("pg_dump", server)
        databases = self._databases()
        streams = []
        if self._spec.include_globals:
            dumpall = self._client.program("pg_dumpall", server)
            arguments = dumps.globals_arguments(self._client.home, self._lock_timeout)
            stream = self._naming.prefix + GLOBALS
            streams.append(self._stream(stream, server, [str(dumpall), *arguments], {}))
        for database in databases:
            creates = dumps.creates(database)
            arguments = dumps.database_arguments(database, self._lock_timeout)
            facts = {"database": database, "creates_database": "yes" if creates else "no"}
            stream = self._naming.own(database, reserved={GLOBALS})
            tables = DumpTables(POSTGRESQL, database)
            argv = [str(program), *arguments]
            streams.append(self._stream(stream, server, argv, facts, tables))
        return streams

    def _base_backup(self, server: Server) -> list[DumpStream]:
        checks.require_one_tablespace(self._client)
        program = self._client.program("pg_basebackup", server)
        stream = DumpStream(
            self._naming.whole,
            self._run([str(program), *dumps.BASE_BACKUP]),
            is_complete=dumps.is_complete_archive,
            explain=self._explain(self._naming.whole),
            read_facts=lambda head, _: {
                **self._facts(server, "tar"),
                **dumps.read_backup_label(head),
            },
        )
        return [stream]

    def _stream(
        self,
        stream: str,
        server: Server,
        argv: Sequence[str],
        facts: Mapping[str, str],
        tables: DumpTables | None = None,
    ) -> DumpStream:
        return DumpStream(
            stream,
            self._run(argv),
            is_complete=dumps.is_complete,
            explain=self._explain(stream),
            read_facts=lambda _head, _tail: {**self._facts(server, "sql"), **facts},
            tables=tables,
        )

    def _run(self, argv: Sequence[str]) -> AbstractContextManager[Program]:
        timeout = self._spec.timeout.total_seconds() if self._spec.timeout else None
        # Wherever a server is, and a scratch server after it, times are written in one zone.
        environment = {**self._client.environment(), "PGTZ": "UTC"}
        return command.stream(argv, environment=environment, timeout=timeout, parsed=True)

    def _facts(self, server: Server, kind: str) -> dict[str, str]:
        return {"server": server.label, "format": kind, "wal_position": server.wal_position}

    def _explain(self, stream: str) -> Callable[[Program], SourceError]:
        return lambda program: postgresql_errors.explain(program, f'dump stream "{stream}"')

    def _told_program(self, name: str, server: Server) -> str:
        return f'"{self._client.program(name, server)}" fits the server'


def _checked(check: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(check, look())
    except SnapVaultError as error:
        return Finding(check, str(error), error)
