# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL server for tests: own folder and socket, no network, stopped by its own pid."""

import atexit
import functools
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from snapvault.model.policy import PostgresqlSpec
from tests.support.database_server import DatabaseServer, LedgerClient, locked_by
from tests.support.manual import statements

_PREFIX = "svp-"  # LIMIT: a socket's path has at most 107 bytes (Linux)
_HBA = """
local all postgres trust
local all all scram-sha-256
local replication all scram-sha-256
"""

ROLE = "snapvault"
# What the manual tells an operator to grant, and nothing more, once the role is there.
DUMP_GRANTS, BASE_BACKUP_GRANTS = (
    tuple(each.replace(ROLE, "{role}") for each in block if not each.startswith("CREATE ROLE"))
    for block in statements("postgresql")
)

PASSWORD = "s3cret ä'\"#x"


class PostgresqlMissingError(Exception):
    """A program is missing; the message says what installs it."""


class PostgresqlServer(DatabaseServer):
    """A server over a copy of the template, or over `data` if given; a context manager."""

    name = "PostgreSQL"
    stops_at, dies_at = signal.SIGINT, signal.SIGQUIT

    def __init__(self, *, data: Path | None = None, options: Sequence[str] = ()) -> None:
        super().__init__(_folder())
        self.data = self.folder / "data"
        if data is None:
            subprocess.run(["cp", "-a", str(_template()), str(self.data)], check=True)
        else:
            data.rename(self.data)
            _give_away(self.data)
        self._options = [f"--{option}" for option in options]

    def _command(self) -> list[str]:
        return [
            *_as_server("--pdeathsig", "KILL"),
            *(_program("postgres"), "-D", str(self.data), "-k", str(self.folder)),
            *("--listen_addresses=", "--fsync=off", "--shared_buffers=16MB"),
            *("--autovacuum=off", "--max_wal_senders=4", *self._options),
        ]

    def _sockets(self) -> list[Path]:
        return list(self.folder.glob(".s.PGSQL.*"))

    def run(self, script: str | bytes, *, database: str = "postgres", strict: bool = True) -> bytes:
        """Run a script as superuser and return the rows; `strict` fails at the first error."""
        finished = subprocess.run(
            [*self.client(database), *(["--set=ON_ERROR_STOP=1"] if strict else [])],
            input=script.encode() if isinstance(script, str) else script,
            capture_output=True,
            check=False,
        )
        said = finished.stderr.decode(errors="replace")[-2000:]
        assert finished.returncode == 0 or not strict, said
        return finished.stdout

    def value(self, query: str, *, database: str = "postgres") -> str:
        """Return the one field of the one row that a query gives."""
        return self.run(query, database=database).decode().removesuffix("\n")

    def client(self, database: str = "postgres") -> list[str]:
        """Return the command line of a client that is superuser."""
        escaped = database.replace("\\", "\\\\").replace("'", "\\'")
        return [
            *(_program("psql"), "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"),
            *(f"--host={self.folder}", "--username=postgres", f"--dbname=dbname='{escaped}'"),
        ]

    def spec(self, *databases: str, **changes: object) -> PostgresqlSpec:
        """Return how the backup's role reaches this server."""
        given: dict[str, object] = {
            "databases": databases,
            "host": str(self.folder),
            "user": ROLE,
            "password_file": self.folder / "pgpass",
            **changes,
        }
        return PostgresqlSpec(**given)  # type: ignore[arg-type]  # a test says what it changes

    def create_role(self, *grants: str, password: str = PASSWORD) -> None:
        """Create the backup's role with these rights alone, and its password file."""
        quoted = password.replace("'", "''")
        self.run(f"DROP ROLE IF EXISTS {ROLE}; CREATE ROLE {ROLE} LOGIN PASSWORD '{quoted}';")
        self.run("".join(f"{grant.format(role=ROLE)};" for grant in grants))
        self.write_password(password)

    def write_password(self, password: str, *, mode: int = 0o600) -> None:
        """Write the password file."""
        path = self.folder / "pgpass"
        path.write_text(f"*:*:*:{ROLE}:{password}\n")
        path.chmod(mode)

    def reset(self) -> None:
        """Remove what a test made: databases and roles."""
        names = self.run(
            "SELECT quote_ident(datname) FROM pg_database "
            "WHERE NOT datistemplate AND datname <> 'postgres'"
        )
        for name in names.decode().splitlines():
            self.run(f"DROP DATABASE {name} WITH (FORCE)")
        roles = self.run("SELECT quote_ident(rolname) FROM pg_roles WHERE oid >= 16384")
        self.run("".join(f"DROP ROLE {name};" for name in roles.decode().splitlines()))

    def contents(self, database: str) -> dict[str, bytes]:
        """Return every object of a database: tables by their rows, the rest by its definition."""
        found = {"database": self.run(_DATABASE.format(database), database=database)}
        for name, query in _CATALOG.items():
            found[name] = self.run(query, database=database)
        names = self.run(_TABLES, database=database).decode().splitlines()
        for name in names:
            copy = f"COPY (SELECT * FROM {name} t ORDER BY t::text) TO STDOUT"
            found[f"table {name}"] = self.run(copy, database=database)
        return found


class LedgerWriter(LedgerClient):
    """Writes into the database `bank`."""

    SCHEMA = """
CREATE TABLE accounts (id int PRIMARY KEY, amount int NOT NULL);
INSERT INTO accounts SELECT id, 100 FROM generate_series(1, 50) id;
CREATE TABLE ledger (id int PRIMARY KEY, note text NOT NULL);
"""

    def __init__(self, server: PostgresqlServer) -> None:
        super().__init__(server.client("bank"), "BEGIN;")


def table_lock(server: PostgresqlServer, database: str, table: str) -> AbstractContextManager[None]:
    """Hold an exclusive lock, as somebody's forgotten session does."""
    return locked_by(server.client(database), f"BEGIN; LOCK TABLE {table}")


_DATABASE = """
SELECT datname, pg_get_userbyid(datdba), encoding, datcollate, datacl, setconfig
FROM pg_database LEFT JOIN pg_db_role_setting ON setdatabase = pg_database.oid
WHERE datname = '{}'
"""
_TABLES = """
SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'm', 'v') AND nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
ORDER BY 1
"""
_CATALOG = {
    "columns": """
SELECT table_schema, table_name, ordinal_position, column_name, data_type, column_default,
is_nullable, generation_expression, is_identity FROM information_schema.columns
WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2, 3""",
    "constraints": """
SELECT conrelid::regclass, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid >= 16384 OR contypid >= 16384 ORDER BY 1, 2""",
    "indexes": "SELECT indexdef FROM pg_indexes WHERE schemaname !~ '^pg_' ORDER BY 1",
    "views": """
SELECT viewname, definition FROM pg_views
WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1""",
    "functions": "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE oid >= 16384 ORDER BY 1",
    "triggers": """
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1""",
    "policies": "SELECT * FROM pg_policies ORDER BY 1, 2, 3",
    "sequences": "SELECT schemaname, sequencename, last_value FROM pg_sequences ORDER BY 1, 2",
    "types": """
SELECT enumtypid::regtype, enumlabel FROM pg_enum ORDER BY 1, enumsortorder""",
    "rights": """
SELECT relname, relowner::regrole, relacl FROM pg_class WHERE oid >= 16384 AND relacl IS NOT NULL
ORDER BY 1""",
    "comments": "SELECT description FROM pg_description WHERE objoid >= 16384 ORDER BY 1",
}


def roles_of(server: PostgresqlServer) -> bytes:
    """Return all roles with their rights, memberships and the hashes of their passwords."""
    return server.run(
        "SELECT rolname, rolsuper, rolcanlogin, rolreplication, rolbypassrls, rolpassword,"
        "ARRAY(SELECT roleid::regrole::text FROM pg_auth_members WHERE member = a.oid ORDER BY 1) "
        "FROM pg_authid a WHERE rolname !~ '^pg_' ORDER BY 1"
    )


def unpacked(archive: bytes) -> Path:
    """Unpack a base backup into a folder that a server may be started over."""
    folder = _folder() / "data"
    folder.mkdir(mode=0o700)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))
    _give_away(folder)
    return folder


def _give_away(folder: Path) -> None:
    """Let the server's user own a folder, where it is not ours."""
    if os.geteuid() == 0:
        user = _user()
        subprocess.run(["chown", "-R", f"{user.pw_uid}:{user.pw_gid}", str(folder)], check=True)


def _as_server(*more: str) -> list[str]:
    """Return the beginning of a command line, as a user that PostgreSQL does not refuse."""
    if os.geteuid() != 0:
        return ["setpriv", *more, "--"]
    user = _user()
    return [
        *("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"),
        *(*more, "--"),
    ]


def _user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _program(name: str) -> str:
    """Return the newest installed program of this name."""
    found = [path / name for path in Path("/usr/lib/postgresql").glob("*/bin")]
    found = [path for path in found if path.is_file()]
    if not found:
        if path := shutil.which(name):
            return path
        raise PostgresqlMissingError(
            f'program "{name}" is missing; run "apt-get install postgresql"'
        )
    return str(max(found, key=lambda path: [int(part) for part in re.findall(r"\d+", str(path))]))


@functools.cache
def _template() -> Path:
    """Make an empty cluster, once for all servers of this process."""
    folder = _folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run(
        [
            *(*_as_server(), _program("initdb"), f"--pgdata={folder}/data", "--no-sync"),
            *("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"),
            "--wal-segsize=1",
        ],
        check=True,
        capture_output=True,
        cwd="/",
    )
    (folder / "data" / "pg_hba.conf").write_text(_HBA)
    return folder / "data"
