# SPDX-License-Identifier: Apache-2.0
"""Talking to a PostgreSQL server through psql, and finding the programs that fit it.

How the server is reached goes to the programs in libpq's own environment variables, and the
password stays in a file that only libpq reads.
"""

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from snapvault.adapters import command
from snapvault.adapters.sources import postgresql_errors
from snapvault.errors import SourceError
from snapvault.model.policy import PostgresqlSpec

# Where distributions keep the programs of each major version.
_INSTALLED: Final = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "usr/lib/postgresql*/bin")

_CONNECT_TIMEOUT = 15  # seconds
_QUERY_TIMEOUT = 300.0  # seconds
_SEPARATOR = "\x1f"

_SERVER = """
SELECT current_setting('server_version_num'), encode(textsend(current_user::text), 'hex'),
rolsuper, rolreplication, rolbypassrls, CASE WHEN pg_is_in_recovery()
THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END
FROM pg_roles WHERE rolname = current_user;
"""


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself and of our role; `wal_position` is where it was just now."""

    number: int  # 150018 is 15.18
    role: str
    is_superuser: bool
    may_replicate: bool
    wal_position: str

    @property
    def major(self) -> int:
        """The major version."""
        return self.number // 10_000

    @property
    def label(self) -> str:
        """Name and version, for people."""
        return f"PostgreSQL {self.major}.{self.number % 10_000}"


@dataclass(slots=True)
class PostgresqlClient:
    """How a server is reached. `directories` are searched for programs; None: where they lie.

    `home` is the database in which the server as a whole is asked: the first of those usual that
    lets us in. A role for one database alone may see no other.
    """

    spec: PostgresqlSpec
    directories: Sequence[Path] | None = None
    home: str | None = field(default=None, init=False)

    def environment(self) -> dict[str, str]:
        """Return libpq's variables for this server."""
        spec = self.spec
        given = {
            "PGSERVICE": spec.service,
            "PGHOST": spec.host,
            "PGPORT": None if spec.port is None else str(spec.port),
            "PGUSER": spec.user,
            "PGPASSFILE": None if spec.password_file is None else str(spec.password_file),
            "PGCONNECT_TIMEOUT": str(_CONNECT_TIMEOUT),
            "PGAPPNAME": "snapvault",
        }
        return {name: text for name, text in given.items() if text is not None}

    def require_settings(self) -> None:
        """See to it that the password file will be read.

        Raises:
            SourceError: it is missing, or ignored because others may read it.
        """
        path = self.spec.password_file
        if path is None:
            return
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise SourceError(
                f'could not read password file "{path}": {(error.strerror or "").lower()}',
                hint='Write one with a line "host:port:database:user:password".',
            ) from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SourceError(
                f'password file "{path}" is ignored by libpq, because others may read it',
                hint=f'Run "chmod 600 {path}".',
            )

    def rows(
        self, sql: str, *, doing: str = "ask the server", database: str | None = None
    ) -> list[list[str]]:
        """Run statements in a session of their own and return all rows, fields as text.

        Without a `database`, in `home`.

        Raises:
            SourceError: psql is missing, or the server cannot be reached or refuses.
        """
        self.require_settings()
        known = database or self.home
        if known is not None:
            return self._ask(sql, doing, known)
        refusal: SourceError | None = None
        for home in dict.fromkeys(("postgres", *self.spec.databases, "template1")):
            try:
                rows = self._ask(sql, doing, home)
            except SourceError as error:
                refusal = refusal or error
                if not postgresql_errors.is_closed(str(error)):
                    break
            else:
                self.home = home
                return rows
        raise refusal or _missing("psql", None)

    def _ask(self, sql: str, doing: str, database: str) -> list[list[str]]:
        with command.stream(
            [
                *(str(self._newest("psql")), "--no-psqlrc", "--no-password", "--quiet"),
                *("--tuples-only", "--no-align", f"--field-separator={_SEPARATOR}"),
                *("--set=ON_ERROR_STOP=1", f"--dbname={connection_string(database)}"),
            ],
            stdin=sql.encode(),
            environment={**self.environment(), "PGCLIENTENCODING": "UTF8"},
            timeout=_QUERY_TIMEOUT,
            parsed=True,
        ) as program:
            pieces = list(iter(lambda: program.read_unchecked(1 << 20), b""))
            if program.status:
                raise postgresql_errors.explain(program, doing)
        lines = b"".join(pieces).decode(errors="surrogateescape").split("\n")[:-1]
        return [line.split(_SEPARATOR) for line in lines]

    def server(self) -> Server:
        """Ask the server who it is and who we are.

        Raises:
            SourceError: as `rows`.
        """
        ((number, role, superuser, replication, _, position),) = self.rows(
            _SERVER, doing="connect to the server"
        )
        return Server(
            int(number), from_hex(role), superuser == "t", "t" in (superuser, replication), position
        )

    def databases(self) -> list[str]:
        """Return the databases that take connections, sorted.

        Raises:
            SourceError: as `rows`.
        """
        # LIMIT: -2 marks a database that was half dropped.
        sql = (
            "SELECT encode(textsend(datname::text), 'hex') FROM pg_database "
            "WHERE datallowconn AND datconnlimit <> -2;"
        )
        return sorted(from_hex(row[0]) for row in self.rows(sql, doing="list the databases"))

    def program(self, name: str, server: Server) -> Path:
        """Return a program of the server's major version, or else of the next newer one.

        Raises:
            SourceError: it is not installed, or too old for this server.
        """
        found = sorted((self._major(path), path) for path in self._candidates(name))
        if not found:
            raise _missing(name, server.major)
        fitting = [path for major, path in found if major >= server.major]
        if not fitting:
            raise SourceError(
                f'program "{name}" of PostgreSQL {found[-1][0]} is too old for a server of '
                f"PostgreSQL {server.major}",
                hint=f'Install "postgresql-client-{server.major}".',
            )
        return fitting[0]

    def _newest(self, name: str) -> Path:
        """Return the program of the newest version, which talks to older servers too."""
        found = self._candidates(name)
        if not found:
            raise _missing(name, None)
        return max(found, key=lambda path: [int(part) for part in re.findall(r"\d+", str(path))])

    def _candidates(self, name: str) -> list[Path]:
        directories = self.directories
        if directories is None:
            # Not PATH first: what is there may be a wrapper that picks a version by itself.
            installed = [path for glob in _INSTALLED for path in Path("/").glob(glob)]
            found = [path / name for path in installed if (path / name).is_file()]
            if found:
                return found
            directories = [Path(path) for path in os.get_exec_path()]
        return [path / name for path in directories if (path / name).is_file()]

    def _major(self, program: Path) -> int:
        said = command.run([str(program), "--version"], timeout=60).stdout.decode(errors="replace")
        number = re.search(r"\) (\d+)", said)
        return int(number[1]) if number else 0


def connection_string(database: str) -> str:
    """Return a database's name as programs take it, whatever characters it has."""
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"


def from_hex(text: str) -> str:
    """Return the text behind what encode(textsend(...), 'hex') gave."""
    return bytes.fromhex(text).decode(errors="surrogateescape")


def _missing(name: str, major: int | None) -> SourceError:
    package = "postgresql-client" if major is None else f"postgresql-client-{major}"
    return SourceError(f'program "{name}" of PostgreSQL is not there', hint=f'Install "{package}".')
