# SPDX-License-Identifier: Apache-2.0
"""mariadb-dump and mysqldump: how they are called, and what their dumps say of themselves."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from snapvault.adapters import command
from snapvault.adapters.sources.mysql_client import Server, first_there, version_numbers

_COMPLETE = re.compile(rb"(?:^|\n)-- Dump completed[^\n]*\n*\Z")
_BINARY_LOG = re.compile(
    rb"\n-- CHANGE (?:MASTER TO MASTER|REPLICATION SOURCE TO SOURCE)_LOG_FILE='([^'\n]+)', "
    rb"(?:MASTER|SOURCE)_LOG_POS=(\d+);"
)
_GTID_MARIADB = re.compile(rb"\n-- SET GLOBAL gtid_slave_pos='([^'\n]*)';")
_GTID_MYSQL = re.compile(rb"GTID_PURGED=(?:/\*!80000 '\+'\*/ ?)?'([^']*)'")

_COMMON: Final = (
    "--single-transaction",  # one state of all tables that know transactions
    "--skip-lock-tables",
    "--routines",
    "--events",
    "--triggers",
    "--hex-blob",
    "--tz-utc",
    "--default-character-set=utf8mb4",
    "--comments",  # the position and the last line are comments
    # LIMIT: a gigabyte is the most that a row can be. The programs take 24 MiB by themselves.
    "--max-allowed-packet=1G",
    "--skip-dump-date",
    # Without it, a table whose secondary index covers all columns comes in the order of that
    # index, and a changed value moves its row. Reading 400,000 rows takes 6 % longer with it.
    "--order-by-primary",
)


@dataclass(frozen=True, slots=True)
class DumpProgram:
    """A dump program that is there, and what it is."""

    name: str
    is_mariadb: bool
    version: tuple[int, ...]

    @property
    def keeps_history(self) -> bool:
        """Whether it can dump the history of tables that have versions by time."""
        return self.is_mariadb and self.version >= (10, 11)

    def arguments(
        self, databases: Sequence[str], *, position: bool, history: bool = False
    ) -> list[str]:
        """Return what follows the option file on the command line.

        `position` asks for the binary log's position as a comment; the server must have
        a binary log, or the dump fails. So must all tables with versions have them by time
        where `history` asks for it.
        """
        found = list(_COMMON)
        if self.is_mariadb:
            if position:
                found.append("--master-data=2")
        else:
            found += self._of_mysql(position=position)
        if history:
            found.append("--dump-history")
        if "mysql" in databases:
            found.append("--flush-privileges")
        # Never --all-databases: it takes what only looks like a database, too.
        return [*found, "--databases", "--", *databases]

    def _of_mysql(self, *, position: bool) -> list[str]:
        # Tablespaces need a right of their own (PROCESS), and MySQL makes them by itself.
        found = ["--no-tablespaces"]
        commented = self.version >= (8, 0, 17)
        found.append(f"--set-gtid-purged={'COMMENTED' if commented and position else 'OFF'}")
        if position:
            renamed = self.version >= (8, 0, 26)
            found.append("--source-data=2" if renamed else "--master-data=2")
        return found


def find_program(server: Server) -> DumpProgram:
    """Return the dump program for a server: of its own flavor if that is there.

    Raises:
        SourceError: none is there.
    """
    preferred = ("mariadb-dump", "mysqldump")
    name = first_there(preferred if server.is_mariadb else preferred[::-1])
    said = command.run([name, "--version"], timeout=60).stdout.decode(errors="replace")
    return identify(name, said)


def identify(name: str, said: str) -> DumpProgram:
    """Read what a program says of its version, which is not always the first number.

    mysqldump  Ver 8.4.2 for Linux on x86_64 (MySQL Community Server - GPL)
    mariadb-dump  Ver 10.19 Distrib 10.11.19-MariaDB, for debian-linux-gnu (x86_64)
    mariadb-dump from 11.8.3-MariaDB, client 10.19 for debian-linux-gnu (x86_64)
    """
    after = next(
        (said.partition(word)[2] for word in ("Distrib ", "from ", "Ver ") if word in said), ""
    )
    return DumpProgram(name, "mariadb" in said.lower(), version_numbers(after))


def is_complete(tail: bytes) -> bool:
    """Tell whether a dump ends with the line that its program writes last."""
    return _COMPLETE.search(tail) is not None


def read_position(head: bytes, tail: bytes) -> dict[str, str]:
    """Return `binlog_file`, `binlog_position` and `gtid`, as far as a dump tells them.

    What the program writes stands before the first database and after the last one. Between
    them the texts of procedures may say anything, hence the first at the head and the last
    at the tail.
    """
    facts = {}
    if found := _BINARY_LOG.search(head):
        facts["binlog_file"] = found[1].decode(errors="replace")
        facts["binlog_position"] = found[2].decode()
    before = head.partition(b"\n-- Current Database: ")[0]
    gtids = _GTID_MARIADB.findall(tail)[-1:] or _GTID_MYSQL.findall(before)[:1]
    if gtids and (gtid := b"".join(gtids[0].split())):
        facts["gtid"] = gtid.decode(errors="replace")
    return facts
