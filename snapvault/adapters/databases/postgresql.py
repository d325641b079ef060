# SPDX-License-Identifier: Apache-2.0
"""Scratch servers of PostgreSQL, for dumps by pg_dump and pg_dumpall in plain text."""

import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Final

from snapvault.adapters.databases import cage as cages
from snapvault.adapters.databases import feeding
from snapvault.adapters.databases.cage import Place, one_line
from snapvault.adapters.databases.feeding import Dump, Said
from snapvault.adapters.databases.server import Scratch, closed_on_failure
from snapvault.adapters.dump_tables import POSTGRESQL, DumpTables
from snapvault.errors import DrillError
from snapvault.model.tables import TableFacts, Tables

_SOON: Final = timedelta(minutes=1)
_START_SECONDS: Final = 300.0
_READY: Final = b"database system is ready to accept connections"
_PACKAGE: Final = "postgresql"
_SUPERUSER: Final = "postgres"  # that of nearly all clusters; dumps name it as who granted what
_OURS: Final = "snapvault_drill"
_DATABASES: Final = "SELECT datname FROM pg_database"

# Where distributions keep the programs of each major version.
_INSTALLED: Final = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "usr/lib/postgresql*/bin")
_PROGRAMS: Final = ("postgres", "initdb", "psql", "pg_dump")

# These exist in every cluster.
_ALWAYS_THERE: Final = ("postgres", "template1")

_SERVER: Final = (
    "--listen_addresses=",
    "--fsync=off",
    "--full_page_writes=off",
    "--synchronous_commit=off",
    "--wal_level=minimal",
    "--max_wal_senders=0",
    "--autovacuum=off",
    "--shared_buffers=64MB",
    "--maintenance_work_mem=64MB",
    "--max_connections=16",
    "--max_worker_processes=0",
    # A dump is loaded in one transaction, which locks all that it makes.
    "--max_locks_per_transaction=4096",
    "--dynamic_shared_memory_type=mmap",
    "--logging_collector=off",
    "--lc_messages=C",
)

_CLUSTER_DUMP: Final = re.compile(rb"\A--\n-- PostgreSQL database cluster dump\n")
_ARCHIVE: Final = b"PGDMP"
_TAR: Final = b"ustar"
_TAR_AT: Final = 257
# The first object that lies in a schema: a database and its settings come before it.
_FIRST_OBJECT: Final = re.compile(
    rb"(?<=\n)--\n(?=-- Name: [^\n]*; Type: [^\n]*; Schema: (?!-;)[^\n]*\n)"
)
_TABLESPACE: Final = re.compile(
    rb"(?<=\n)(CREATE TABLESPACE [^\n]* LOCATION )'(?:[^']|'')*';(?=\n)"
)

# Since PostgreSQL 16, who granted must have been able to, and only the superuser of a cluster's
# first day always is. That one may have had another name than ours.
_GRANTED_BY: Final = re.compile(
    rb"(?<=\n)(GRANT [^\n]*) GRANTED BY (?:\"(?:[^\"]|\"\")+\"|\w+);(?=\n)"
)
_CREATE: Final = re.compile(rb'\nCREATE DATABASE ("(?:[^"]|"")+"|[^\s"]+) ')

# psql:<stdin>:12: ERROR:  relation "x" does not exist
_ERROR: Final = re.compile(
    rb"(?:^|\n)(?:[\w/.-]+:)?(?:<stdin>:(\d+):)? ?(?:psql: |pg_dump: )?(?:error: )?"
    rb"(?:ERROR|FATAL|error|fatal): +([^\n]*)"
)
_WHERE: Final = re.compile(rb"\nCONTEXT:  (COPY [^\n]*?, line \d+)")
_SERVER_ERROR: Final = re.compile(rb"(?:FATAL|PANIC|ERROR): +([^\n]*)")
_REMEDIES: Final = (
    (rb"No space left|could not extend", "Give the drill a scratch folder with more room."),
    (rb"extension control file|could not access file", "Install what the extension comes in."),
    (rb"locale|collation", 'Install the server\'s locales here: "apt-get install locales-all".'),
)


class PostgresqlServers:
    """What starts scratch servers of PostgreSQL: each with an empty cluster of its own."""

    def __init__(
        self, *, limit: timedelta | None = None, folders: Sequence[Path] | None = None
    ) -> None:
        """Each dump may take as long as `limit` to be loaded; None: as long as it takes.

        `folders` are searched for programs; None: where distributions keep them.
        """
        self._limit = limit
        self._folders = folders

    def check(self) -> None:
        """Make sure that it can be started here.

        Raises:
            DrillError: a program is missing; the hint is the command that installs it.
        """
        self._find_programs()
        cages.find()

    def start(self, folder: Path) -> "PostgresqlServer":
        """Start a server in a private folder, that has room for it.

        Raises:
            DrillError: it did not start; the message has its own words.
        """
        programs = self._find_programs()
        cage = cages.find()
        # It removes its shared memory on the way.
        scratch = Scratch(folder, signal.SIGQUIT)
        with closed_on_failure(scratch):
            server = PostgresqlServer(scratch, cage.prepare(folder), programs, self._limit)
            server.install()
            server.start()
        return server

    def _find_programs(self) -> dict[str, Path]:
        """Return the programs, all of the newest version that has all of them."""
        folders = self._folders
        if folders is None:
            there = [path for glob in _INSTALLED for path in Path("/").glob(glob)]
            whole = [path for path in there if all((path / name).is_file() for name in _PROGRAMS)]
            folders = sorted(whole, key=_version)[-1:]
        return {name: cages.require(name, package=_PACKAGE, folders=folders) for name in _PROGRAMS}


class PostgresqlServer:
    """A running scratch server."""

    def __init__(
        self,
        scratch: Scratch,
        place: Place,
        programs: Mapping[str, Path],
        limit: timedelta | None,
    ) -> None:
        self._scratch = scratch
        self._place = place
        self._programs = programs
        self._limit = limit
        self._loaded: set[str] = set()

    def install(self) -> None:
        """Make the empty cluster.

        Raises:
            DrillError: it cannot be made.
        """
        argv = [
            *(str(self._programs["initdb"]), f"--pgdata={self._place.folder}/data", "--no-sync"),
            *(f"--username={_SUPERUSER}", "--auth=trust", "--encoding=UTF8", "--locale=C"),
        ]
        self._place.run(argv, "make a cluster", timeout=_START_SECONDS)

    def start(self) -> None:
        """Start the server over its cluster.

        Raises:
            DrillError: it does not start.
        """
        argv = [
            # Killed by SIGKILL, it would leave shared memory.
            *(*self._place.prefix, "setpriv", "--pdeathsig", "QUIT", "--"),
            *(str(self._programs["postgres"]), "-D", f"{self._place.folder}/data"),
            *("-k", str(self._place.folder), *_SERVER),
        ]
        self._scratch.start(argv, _READY, _START_SECONDS, _why)
        # A dump may take the superuser's rights, but not ours.
        self._ask(f'CREATE ROLE "{_OURS}" SUPERUSER LOGIN', _SOON, role=_SUPERUSER)

    def load(self, dump: BinaryIO, stream: str, database: str | None) -> Tables | None:
        """Load one stream, read to its end; `database` where the dump does not name its own.

        Raises:
            DrillError: the server refused something; the message has its own words.
        """
        opened = Dump(dump)
        counted = DumpTables(POSTGRESQL, database or _created_by(opened.head))
        _refuse_archives(opened.head, stream)
        if database is not None:
            self._provide(database)
        argv = [
            *(*self._client("psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"),
            *("--output=/dev/null", "--file=-", _dbname(database or _ALWAYS_THERE[0])),
        ]
        try:
            feeding.feed(argv, self._fitted(opened, counted), stream, self._limit, _find)
        except DrillError as error:
            raise self._scratch.death(_why) or error from error
        if opened.is_cut():
            raise feeding.refused(stream, Said("it ends without its last line"))
        return counted.facts()

    def query(self, sql: str, database: str | None, limit: timedelta) -> Sequence[Sequence[str]]:
        """Run one statement; return its rows, each value as text (`NULL` for none).

        Raises:
            DrillError: the server refused it, or it took longer.
        """
        return self._ask(sql, limit, database=database)

    def databases(self) -> Sequence[str]:
        """Return the names of the databases that were loaded, sorted."""
        rows = self._ask("SELECT datname FROM pg_database WHERE datname <> 'template0'", _SOON)
        hidden = {*_ALWAYS_THERE} - self._loaded
        return sorted(name for (name,) in rows if name not in hidden)

    def tables(self, database: str) -> Mapping[str, TableFacts]:
        """Return the facts of all tables that a database has now, by the same rule as `load`."""
        argv = [*self._client("pg_dump"), "--format=plain", "--data-only", _dbname(database)]
        counted = DumpTables(POSTGRESQL, database)
        for piece in feeding.ask(argv, self._limit, _find):
            counted.feed(piece)
        return (counted.facts() or {}).get(database, {})

    def close(self) -> None:
        """End the server and remove its folder. Repeatable."""
        self._scratch.close()

    def _client(self, name: str, *, role: str = "", limit: timedelta | None = None) -> list[str]:
        timeout = 0 if limit is None else max(1, round(limit.total_seconds() * 1000))
        return [
            # Times are written as at the backup, wherever the two servers are.
            *(*self._place.prefix, "PGTZ=UTC", f"PGOPTIONS=-c statement_timeout={timeout}"),
            *(str(self._programs[name]), "--no-password", f"--host={self._place.folder}"),
            f"--username={role or _OURS}",
        ]

    def _ask(
        self, sql: str, limit: timedelta, *, database: str | None = None, role: str = ""
    ) -> list[list[str]]:
        argv = [
            *(*self._client("psql", role=role, limit=limit), "--no-psqlrc", "--quiet"),
            *("--tuples-only", "--no-align", "--field-separator=\x1f", "--record-separator=\x1e"),
            *("--pset=null=NULL", "--set=ON_ERROR_STOP=1", _dbname(database or _ALWAYS_THERE[0])),
            f"--command={sql}",
        ]
        said = b"".join(feeding.ask(argv, limit, _find)).decode(errors="replace")
        records = said.removesuffix("\n").split("\x1e") if said else []
        return [record.split("\x1f") for record in records]

    def _provide(self, database: str) -> None:
        """Make a database that a dump does not make, unless it is there."""
        self._loaded.add(database)
        if (database,) not in [tuple(row) for row in self._ask(_DATABASES, _SOON)]:
            self._ask(f"CREATE DATABASE {_quoted(database)} TEMPLATE template0", _SOON)

    def _fitted(self, dump: Dump, counted: DumpTables) -> Iterator[bytes]:
        """Yield a dump as this server is to get it; every line keeps its number."""
        pieces = counted.passing(dump.pieces())
        if _CLUSTER_DUMP.match(dump.head):
            yield self._fitted_globals(b"".join(pieces))
            return
        # Rows keep their order only where their table was made in the same transaction:
        # otherwise PostgreSQL looks for room in earlier pages.
        head, count = _FIRST_OBJECT.subn(b"BEGIN;\n", next(pieces, b""), count=1)
        yield head
        yield from pieces
        if count:
            yield b"\nCOMMIT;\n"

    def _fitted_globals(self, text: bytes) -> bytes:
        """Leave out a role that is there and who granted; put tablespaces where nobody's are."""
        text = text.replace(f"\nCREATE ROLE {_SUPERUSER};\n".encode(), b"\n\n")
        text = _GRANTED_BY.sub(rb"\1;", text)
        count = 0

        def moved(found: re.Match[bytes]) -> bytes:
            nonlocal count
            count += 1
            place = f"{self._place.folder}/tablespace-{count}"
            self._place.run(["mkdir", place], "make a folder for a tablespace")
            return found[1] + f"'{place}';".encode()

        return _TABLESPACE.sub(moved, text)


def _refuse_archives(head: bytes, stream: str) -> None:
    """See to it that what is to be loaded is text.

    Raises:
        DrillError: it is an archive.
    """
    if head.startswith(_ARCHIVE):
        what = "an archive for pg_restore"
    elif head[_TAR_AT:].startswith(_TAR):
        what = "a base backup"
    else:
        return
    raise DrillError(
        f'stream "{stream}" is {what}, which a scratch server does not load',
        hint="Rehearse it as files, or let the source make dumps in plain text.",
    )


def _created_by(head: bytes) -> str | None:
    """Return the database that a dump makes; None: it makes none."""
    found = _CREATE.search(head)
    if found is None:
        return None
    name = found[1]
    quoted = name.startswith(b'"')
    plain = name[1:-1].replace(b'""', b'"') if quoted else name
    return plain.decode(errors="surrogateescape")


def _version(folder: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", str(folder))]


def _find(stderr: bytes) -> Said | None:
    found = _ERROR.search(stderr)
    if found is None:
        return None
    hint = next((hint for words, hint in _REMEDIES if re.search(words, found[2])), None)
    text = one_line(found[2])
    if where := _WHERE.search(stderr, found.end()):
        text += f" ({one_line(where[1])})"
    return Said(text, int(found[1]) if found[1] else None, hint)


def _why(said: bytes) -> str:
    """Return why a server ended, as far as it told."""
    errors = _SERVER_ERROR.findall(said)
    return one_line(errors[0] if errors else said[-1000:])


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def _dbname(database: str) -> str:
    """Return a database's name as programs take it, whatever characters it has."""
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"--dbname=dbname='{escaped}'"
