# SPDX-License-Identifier: Apache-2.0
"""Scratch servers of MariaDB, for dumps by mariadb-dump and mysqldump."""

import re
import signal
from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import BinaryIO, Final

from snapvault.adapters.databases import cage as cages
from snapvault.adapters.databases import feeding
from snapvault.adapters.databases.cage import Place, one_line
from snapvault.adapters.databases.feeding import Dump, Said
from snapvault.adapters.databases.server import Scratch, closed_on_failure
from snapvault.adapters.dump_tables import MARIADB, DumpTables
from snapvault.errors import DrillError
from snapvault.model.tables import TableFacts, Tables

_SOON: Final = timedelta(minutes=1)
_START_SECONDS: Final = 300.0
_READY: Final = b"ready for connections"
_ACCOUNT: Final = "snapvault_drill"
# Run as the server starts, by a user who may do anything. LIMIT: a statement is one line.
_ENTRY: Final = (
    f"CREATE OR REPLACE USER {_ACCOUNT}@localhost IDENTIFIED BY '';\n"
    f"GRANT ALL ON *.* TO {_ACCOUNT}@localhost WITH GRANT OPTION;"
)
_NOT_LOADED: Final = {"information_schema", "performance_schema", "sys"}
_SYSTEM: Final = "mysql"

_PROGRAMS: Final = {
    "server": ("mariadbd", "mysqld"),
    "install": ("mariadb-install-db", "mysql_install_db"),
    "client": ("mariadb", "mysql"),
    "dump": ("mariadb-dump", "mysqldump"),
}
_PACKAGE: Final = "mariadb-server"

# What is lost at a power cut does not matter: neither is anything synchronized nor written twice.
# Options that a release may be without are loose: then they are ignored.
_SERVER: Final = (
    "--skip-networking",
    "--skip-name-resolve",
    "--skip-log-bin",
    "--skip-slave-start",
    "--event-scheduler=OFF",
    "--loose-performance-schema=OFF",
    "--max-connections=16",
    "--key-buffer-size=8M",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=48M",
    "--innodb-flush-log-at-trx-commit=0",
    "--loose-innodb-flush-method=nosync",
    "--loose-skip-innodb-doublewrite",
    "--loose-innodb-use-native-aio=0",
    "--innodb-buffer-pool-load-at-startup=0",
    "--innodb-buffer-pool-dump-at-shutdown=0",
    # LIMIT: a gigabyte is the most that a row can be.
    "--max-allowed-packet=1G",
)
# The same as at the backup, as far as it decides how a row is written, and in which order.
_DUMP: Final = (
    "--single-transaction",
    "--skip-lock-tables",
    "--no-create-info",
    "--skip-triggers",
    "--hex-blob",
    "--tz-utc",
    "--default-character-set=utf8mb4",
    "--comments",
    "--max-allowed-packet=1G",
    "--skip-dump-date",
    "--order-by-primary",
)

# ERROR 1064 (42000) at line 12: You have an error in your SQL syntax ...
# mariadb-dump: Error 2013: Lost connection ... when dumping table `t` at row: 7
# mariadb-dump: Got error: 1049: "Unknown database" when selecting the database
_CLIENT_ERROR: Final = re.compile(rb"ERROR (\d+) \(\w+\)(?: at line (\d+))?: ([^\n]*)")
_DUMP_ERROR: Final = re.compile(rb"[Ee]rror:? (\d+): ()([^\n]*)")
_SERVER_ERROR: Final = re.compile(rb"\[ERROR\] ([^\n]*)")

# As at the backup: history is dumped if all tables that have it count in time.
_VERSIONED: Final = """
SELECT COUNT(*) > 0 AND NOT EXISTS (
  SELECT 1 FROM information_schema.columns
  WHERE generation_expression = 'ROW START' AND data_type = 'bigint'
) FROM information_schema.tables WHERE table_type = 'SYSTEM VERSIONED'
"""

_NO_SPACE: Final = {1021, 1026, 1030, 1114}
_UNKNOWN: Final = {1115, 1273}  # character set, collation
_NO_ENGINE: Final = {1286}
_GONE: Final = {2002, 2006, 2013, 2055}
_REMEDIES: Final = (
    (_NO_SPACE, "Give the drill a scratch folder with more room."),
    (_UNKNOWN, "The dump is of a server that MariaDB cannot stand in for, such as MySQL 8."),
    (_NO_ENGINE, "The scratch server has only the storage engines that are built into it."),
)
_ESCAPES: Final = {b"\\n": b"\n", b"\\t": b"\t", b"\\0": b"\0", b"\\\\": b"\\"}


class _Mode(Enum):
    """What a server is started for.

    To be loaded it needs its grants: without them it takes no events. To be asked it must do
    without: views of users that a dump does not bring could not be read.
    """

    LOADED = "--init-file={folder}/init"
    ASKED = "--skip-grant-tables"


class MariadbServers:
    """What starts scratch servers of MariaDB: each with an empty data directory of its own.

    Users and grants of a dump are loaded like all the rest, and count for nobody: to be asked, the
    server is started again without them. Events of a dump do not run.
    """

    def __init__(self, *, limit: timedelta | None = None) -> None:
        """Each dump may take as long as `limit` to be loaded; None: as long as it takes."""
        self._limit = limit

    def check(self) -> None:
        """Make sure that it can be started here.

        Raises:
            DrillError: a program is missing; the hint is the command that installs it.
        """
        _find_programs()
        cages.find()

    def start(self, folder: Path) -> "MariadbServer":
        """Start a server in a private folder, that has room for it.

        Raises:
            DrillError: it did not start; the message has its own words.
        """
        programs = _find_programs()
        cage = cages.find()
        scratch = Scratch(folder, signal.SIGKILL)
        with closed_on_failure(scratch):
            server = MariadbServer(scratch, cage.prepare(folder), programs, self._limit)
            server.install()
        return server


class MariadbServer:
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
        self._is_system_loaded = False
        self._mode: _Mode | None = None

    def install(self) -> None:
        """Make the empty data directory, and start over it.

        Raises:
            DrillError: it cannot be made, or the server does not start.
        """
        argv = [
            str(self._programs["install"]),
            "--no-defaults",
            *self._common(),
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ]
        self._place.run(argv, "make a data directory", timeout=_START_SECONDS)
        self._place.run(
            ["sh", "-c", 'echo "$1" >"$0"', f"{self._place.folder}/init", _ENTRY], "write a file"
        )
        self._be(_Mode.LOADED)

    def load(self, dump: BinaryIO, stream: str, database: str | None) -> Tables | None:
        """Load one stream, read to its end; `database` where the dump does not name its own.

        Raises:
            DrillError: the server refused something; the message has its own words.
        """
        self._be(_Mode.LOADED)
        into: tuple[str, ...] = ()
        if database is not None:
            self._ask(f"CREATE DATABASE IF NOT EXISTS {_quoted(database)}", _SOON)
            into = (f"--database={database}",)
        opened, counted = Dump(dump), DumpTables(MARIADB, database)
        # SAFETY: names in a damaged or hostile dump may be commands of the client; it runs none.
        argv = [*self._client(), "--loose-sandbox", "--batch", *into]
        try:
            feeding.feed(argv, counted.passing(opened.pieces()), stream, self._limit, _find)
        except DrillError as error:
            raise self._scratch.death(_why) or error from error
        if opened.is_cut():
            raise feeding.refused(stream, Said("it ends without its last line"))
        try:
            self._ask("SELECT 1", _SOON)
        except DrillError:
            # The dump brought users and grants, and had the server read them: ours is gone.
            self._is_system_loaded = True
            self._mode = None
        return counted.facts()

    def query(self, sql: str, database: str | None, limit: timedelta) -> Sequence[Sequence[str]]:
        """Run one statement; return its rows, each value as text (`NULL` for none).

        Raises:
            DrillError: the server refused it, or it took longer.
        """
        self._be(_Mode.ASKED)
        return self._ask(sql, limit, database)

    def databases(self) -> Sequence[str]:
        """Return the names of the databases that were loaded, sorted."""
        self._be(_Mode.ASKED)
        rows = self._ask("SELECT HEX(schema_name) FROM information_schema.schemata", _SOON)
        names = (bytes.fromhex(row[0]).decode(errors="surrogateescape") for row in rows)
        hidden = _NOT_LOADED if self._is_system_loaded else {*_NOT_LOADED, _SYSTEM}
        return sorted(name for name in names if name not in hidden)

    def tables(self, database: str) -> Mapping[str, TableFacts]:
        """Return the facts of all tables that a database has now, by the same rule as `load`."""
        self._be(_Mode.ASKED)
        ((history,),) = self._ask(_VERSIONED, _SOON)
        argv = [
            *(*self._place.prefix, str(self._programs["dump"]), "--no-defaults"),
            *(f"--socket={self._socket}", f"--user={_ACCOUNT}", *_DUMP),
            *(["--dump-history"] if history == "1" else []),
            *("--databases", "--", database),
        ]
        counted = DumpTables(MARIADB)
        for piece in feeding.ask(argv, self._limit, _find):
            counted.feed(piece)
        found = counted.facts()
        if found is None:
            raise DrillError(
                f'program "{self._programs["dump"]}" writes tables in a way that is not counted',
                hint="Install MariaDB's own client programs.",
            )
        return found.get(database, {})

    def close(self) -> None:
        """End the server and remove its folder. Repeatable."""
        self._scratch.close()

    @property
    def _socket(self) -> Path:
        return self._place.folder / "s"

    def _common(self) -> list[str]:
        return [f"--datadir={self._place.folder}/data", f"--tmpdir={self._place.folder}", *_SERVER]

    def _client(self) -> list[str]:
        return [
            *(*self._place.prefix, str(self._programs["client"]), "--no-defaults"),
            *(f"--socket={self._socket}", f"--user={_ACCOUNT}", "--skip-reconnect"),
            *("--default-character-set=utf8mb4", "--max-allowed-packet=1G"),
        ]

    def _ask(self, sql: str, limit: timedelta, database: str | None = None) -> list[list[str]]:
        argv = [
            *(*self._client(), "--batch", "--skip-column-names"),
            f"--init-command=SET SESSION max_statement_time={limit.total_seconds():.3f}",
            *([f"--database={database}"] if database is not None else []),
            f"--execute={sql}",
        ]
        lines = b"".join(feeding.ask(argv, limit, _find)).split(b"\n")[:-1]
        return [[_unescape(field) for field in line.split(b"\t")] for line in lines]

    def _be(self, mode: _Mode) -> None:
        """Start the server in the other mode, unless it runs in this one."""
        if mode is self._mode:
            return
        self._scratch.stop(signal.SIGTERM)
        argv = [
            *(*self._place.prefix, str(self._programs["server"]), "--no-defaults"),
            *(*self._common(), f"--socket={self._socket}", f"--pid-file={self._place.folder}/pid"),
            f"--secure-file-priv={self._place.folder}",
            *(mode.value.format(folder=self._place.folder).split()),
        ]
        self._scratch.start(argv, _READY, _START_SECONDS, _why)
        self._mode = mode


def _find_programs() -> dict[str, Path]:
    return {use: cages.require(*names, package=_PACKAGE) for use, names in _PROGRAMS.items()}


def _find(stderr: bytes) -> Said | None:
    found = [*_CLIENT_ERROR.finditer(stderr), *_DUMP_ERROR.finditer(stderr)]
    if not found:
        return None
    last = max(found, key=lambda match: match.start())
    code = int(last[1])
    hint = next((remedy for codes, remedy in _REMEDIES if code in codes), None)
    text = f"{one_line(last[3])} (error {code})"
    return Said(text, int(last[2]) if last[2] else None, hint)


def _why(said: bytes) -> str:
    """Return why a server ended, as far as it told."""
    errors = _SERVER_ERROR.findall(said)
    return one_line(errors[0] if errors else said[-1000:])


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"


def _unescape(field: bytes) -> str:
    plain = re.sub(rb"\\[nt0\\]", lambda match: _ESCAPES[match[0]], field)
    return plain.decode(errors="replace")
