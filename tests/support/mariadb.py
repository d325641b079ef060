# SPDX-License-Identifier: Apache-2.0
"""A real MariaDB server for tests: own folder, own socket, no network, stopped by its own pid."""

import atexit
import functools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tests.support.database_server import DatabaseServer, LedgerClient, locked_by
from tests.support.manual import statements

_PREFIX = "svm-"  # LIMIT: a socket's path has at most 107 bytes (Linux)

# What the manual tells an operator to grant, and nothing more: for dumps of everything, for dumps
# of the database `shop`, and for the way with LVM.
DUMP_GRANTS, SHOP_GRANTS, LOCK_GRANTS = (
    tuple(each.replace("snapvault@localhost", "{account}") for each in block)
    for block in statements("mysql")
)

ACCOUNT = "'snapvault'@'localhost'"
PASSWORD = "s3cret ä'\"#x"


class MariadbMissingError(Exception):
    """A program is missing; the message says what installs it."""


class MariadbServer(DatabaseServer):
    """A server over a copy of the template, or over `data` if given; a context manager.

    With `binary_log`, its changes are numbered: each transaction is one more of its GTID.
    """

    name = "MariaDB"
    stops_at, dies_at = signal.SIGTERM, signal.SIGKILL

    def __init__(
        self, *, data: Path | None = None, binary_log: bool = True, options: Sequence[str] = ()
    ) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp")))
        self.data = data or self.folder / "data"
        if data is None:
            shutil.copytree(template(), self.data)
        self.socket = self.folder / "s"
        self._options = [*options]
        if binary_log:
            self._options += ["--log-bin=binlog", "--server-id=1"]

    def _command(self) -> list[str]:
        return [
            *("setpriv", "--pdeathsig", "KILL", "--"),
            *(_program("mariadbd"), *_COMMON, f"--datadir={self.data}"),
            *(f"--socket={self.socket}", f"--pid-file={self.folder}/pid"),
            *self._options,
        ]

    def _sockets(self) -> list[Path]:
        return [self.socket] if self.socket.exists() else []

    def run(self, script: str | bytes, *, database: str = "") -> bytes:
        """Run a script as root and return the rows, as the client's batch mode writes them."""
        finished = subprocess.run(
            [*self.client(), *([database] if database else [])],
            input=script.encode() if isinstance(script, str) else script,
            capture_output=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr.decode(errors="replace")[-2000:]
        return finished.stdout

    def value(self, query: str) -> str:
        """Return the one field of the one row that a query gives."""
        return self.run(query).decode().removesuffix("\n")

    def client(self) -> list[str]:
        """Return the command line of a client that is root."""
        return [
            *(_program("mariadb"), "--no-defaults", f"--socket={self.socket}", "--user=root"),
            *("--batch", "--skip-column-names", "--unbuffered", "--binary-as-hex"),
            "--default-character-set=utf8mb4",
        ]

    def option_file(self, *, user: str = "snapvault", password: str = PASSWORD) -> Path:
        """Write an option file for an account, as an operator would."""
        path = self.folder / f"{user}.cnf"
        quoted = password.replace("\\", "\\\\").replace('"', '\\"')
        path.write_text(f'[client]\nsocket={self.socket}\nuser={user}\npassword="{quoted}"\n')
        path.chmod(0o600)
        return path

    def create_account(self, *grants: str) -> Path:
        """Create the backup's account with these grants alone, and return its option file."""
        password = PASSWORD.replace("'", "''")
        script = f"CREATE OR REPLACE USER {ACCOUNT} IDENTIFIED BY '{password}';\n"
        self.run(script + "".join(f"{grant.format(account=ACCOUNT)};\n" for grant in grants))
        return self.option_file()

    def reset(self) -> None:
        """Remove what a test made: databases and the account."""
        rows = self.run("SELECT HEX(schema_name) FROM information_schema.schemata").split()
        kept = {"mysql", "sys", "information_schema", "performance_schema"}
        names = {bytes.fromhex(row.decode()).decode() for row in rows} - kept
        drops = [f"DROP DATABASE `{name.replace('`', '``')}`;" for name in sorted(names)]
        self.run(f"{''.join(drops)} DROP USER IF EXISTS {ACCOUNT};")

    def contents(self, database: str) -> dict[str, bytes]:
        """Return every object of a database: tables by their rows and definitions, code as text."""
        found = {}
        for kind, name in self._objects(database):
            quoted = f"`{name.replace('`', '``')}`"
            script = f"SHOW CREATE {kind} {quoted};"
            if kind in ("TABLE", "VIEW"):
                columns = self.value(
                    "SELECT GROUP_CONCAT(CONCAT('`', column_name, '`')) FROM "
                    "information_schema.columns WHERE "
                    f"table_schema = '{database}' AND table_name = '{name}'"
                )
                script += f"SELECT * FROM {quoted} ORDER BY {columns};"
            said = self.run(script, database=database)
            # The last column is when the trigger was created here.
            found[f"{kind} {name}"] = said.rpartition(b"\t")[0] if kind == "TRIGGER" else said
        return found

    def _objects(self, database: str) -> Iterator[tuple[str, str]]:
        schema = "information_schema"
        where = f"= '{database}'"
        query = (
            "SELECT IF(table_type = 'VIEW', 'VIEW', 'TABLE'), table_name "
            f"FROM {schema}.tables WHERE table_schema {where} "
            "UNION ALL SELECT routine_type, routine_name "
            f"FROM {schema}.routines WHERE routine_schema {where} "
            "UNION ALL SELECT 'TRIGGER', trigger_name "
            f"FROM {schema}.triggers WHERE trigger_schema {where} "
            "UNION ALL SELECT 'EVENT', event_name "
            f"FROM {schema}.events WHERE event_schema {where} ORDER BY 1, 2"
        )
        for line in self.run(query).decode().splitlines():
            kind, _, name = line.partition("\t")
            yield kind, name


class LedgerWriter(LedgerClient):
    """Writes into the database `bank`."""

    SCHEMA = """
CREATE DATABASE bank; USE bank;
CREATE TABLE accounts (id INT PRIMARY KEY, amount INT NOT NULL) ENGINE=InnoDB;
INSERT INTO accounts SELECT seq, 100 FROM seq_1_to_50;
CREATE TABLE ledger (id INT PRIMARY KEY, note VARCHAR(80) NOT NULL) ENGINE=InnoDB;
"""

    def __init__(self, server: MariadbServer) -> None:
        super().__init__([*server.client(), "bank"], "START TRANSACTION;")


@functools.cache
def template() -> Path:
    """Make an empty data directory, once for all servers of this process."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run(
        [
            _program("mariadb-install-db"),
            *_COMMON,
            f"--datadir={folder}/data",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ],
        check=True,
        capture_output=True,
    )
    return folder / "data"


def table_lock(server: MariadbServer, table: str) -> AbstractContextManager[None]:
    """Hold LOCK TABLES … WRITE, as somebody's forgotten session does."""
    return locked_by(server.client(), f"LOCK TABLES {table} WRITE")


_COMMON = (
    "--no-defaults",
    *(["--user=root"] if os.geteuid() == 0 else []),
    "--skip-networking",
    "--skip-name-resolve",
    "--innodb-buffer-pool-size=16M",
    "--innodb-log-file-size=8M",
    "--innodb-flush-log-at-trx-commit=2",
    "--sync-binlog=0",
    "--innodb-use-native-aio=0",
    "--innodb-buffer-pool-load-at-startup=0",
)


def _program(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        raise MariadbMissingError(
            f'program "{name}" is missing; run "apt-get install mariadb-server mariadb-client"'
        )
    return path
