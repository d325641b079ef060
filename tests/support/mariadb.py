# SPDX-License-Identifier: Apache-2.0
"""A real MariaDB server for tests: own folder, own socket, no network, stopped by its own pid."""

import atexit
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.manual import statements

_READY_SECONDS = 120.0
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


class MariadbServer:
    """A server over a copy of the template, or over `data` if given; a context manager.

    With `binary_log`, its changes are numbered: each transaction is one more of its GTID.
    """

    def __init__(
        self, *, data: Path | None = None, binary_log: bool = True, options: Sequence[str] = ()
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))
        self.data = data or self.folder / "data"
        if data is None:
            shutil.copytree(template(), self.data)
        self.socket = self.folder / "s"
        self._options = [*options]
        if binary_log:
            self._options += ["--log-bin=binlog", "--server-id=1"]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server wrote into its error log."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "--"),
                    *(_program("mariadbd"), *_COMMON, f"--datadir={self.data}"),
                    *(f"--socket={self.socket}", f"--pid-file={self.folder}/pid"),
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _READY_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"MariaDB did not start:\n{self.log[-3000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Shut it down in order; safe to repeat."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Let it die at once; safe to repeat."""
        self._end(signal.SIGKILL)

    def remove(self) -> None:
        """End it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

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

    def _answers(self) -> bool:
        if not self.socket.exists():
            return False
        asked = subprocess.run(self.client(), input=b"SELECT 1", capture_output=True, check=False)
        return asked.returncode == 0

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None


class LedgerWriter:
    """A client that goes on writing: each transaction touches two tables that must agree.

    Every transaction adds a row to `ledger` and moves an amount between two of `accounts`, whose
    sum stays the same. `done` counts those that the server has confirmed.
    """

    SCHEMA = """
CREATE DATABASE bank; USE bank;
CREATE TABLE accounts (id INT PRIMARY KEY, amount INT NOT NULL) ENGINE=InnoDB;
INSERT INTO accounts SELECT seq, 100 FROM seq_1_to_50;
CREATE TABLE ledger (id INT PRIMARY KEY, note VARCHAR(80) NOT NULL) ENGINE=InnoDB;
"""

    def __init__(self, server: MariadbServer) -> None:
        self._process = subprocess.Popen(
            [*server.client(), "bank"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._stop = threading.Event()
        self._moved = threading.Condition()
        self.done = 0
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_for(1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._process.communicate()

    def wait_for(self, more: int) -> None:
        """Wait until so many more transactions are done."""
        with self._moved:
            target = self.done + more
            assert self._moved.wait_for(lambda: self.done >= target, 60)

    def _write(self) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        number = 0
        while not self._stop.wait(0.001):
            number += 1
            stdin.write(
                b"START TRANSACTION;"
                b"INSERT INTO ledger VALUES (%d, 'moved');"
                b"UPDATE accounts SET amount = amount - 1 WHERE id = %d;"
                b"UPDATE accounts SET amount = amount + 1 WHERE id = %d;"
                b"COMMIT; SELECT %d;\n" % (number, number % 50 + 1, number * 7 % 50 + 1, number)
            )
            stdin.flush()
            if not stdout.readline():
                return
            with self._moved:
                self.done = number
                self._moved.notify_all()


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


@contextmanager
def table_lock(server: MariadbServer, table: str) -> Iterator[None]:
    """Hold LOCK TABLES … WRITE, as somebody's forgotten session does."""
    with subprocess.Popen(
        server.client(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"LOCK TABLES {table} WRITE; SELECT 'locked';\n".encode())
        process.stdin.flush()
        assert process.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            process.stdin.close()
            process.wait()


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
