# SPDX-License-Identifier: Apache-2.0
"""Talking to a MariaDB or MySQL server through its command-line client.

Credentials are read by the programs themselves from an option file; they are never in argv, in
the environment or in our memory.
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from snapvault.adapters import command
from snapvault.adapters.command import Program
from snapvault.adapters.sources import mysql_errors
from snapvault.errors import SourceError

CLIENTS: Final = ("mariadb", "mysql")
VIRTUAL_SCHEMAS: Final = ("information_schema", "performance_schema", "sys")
# The folder for what fsck finds looks like one, where the data is a file system of its own.
_NO_DATABASES: Final = (*VIRTUAL_SCHEMAS, "#mysql50#lost+found")

_CONNECT_TIMEOUT = 15  # seconds
_QUERY_TIMEOUT = 120.0  # seconds
_ESCAPES = {"\\n": "\n", "\\t": "\t", "\\0": "\0", "\\\\": "\\"}


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself. `account` is the one that the grants are for."""

    version: str
    account: str
    binary_log: bool

    @property
    def is_mariadb(self) -> bool:
        """Whether it is MariaDB; otherwise it is MySQL or one of its kin."""
        return "mariadb" in self.version.lower()

    @property
    def label(self) -> str:
        """Flavor and version, for people."""
        number = re.match(r"[\d.]+", self.version)
        return f"{'MariaDB' if self.is_mariadb else 'MySQL'} {number[0] if number else '?'}"

    def at_least(self, *numbers: int) -> bool:
        """Tell whether its version is that one or newer."""
        return version_numbers(self.version) >= numbers


def version_numbers(text: str) -> tuple[int, ...]:
    """Return the first dotted number in a text."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


@dataclass(frozen=True, slots=True)
class MysqlClient:
    """How a server is reached: by an option file, or as the client does by itself if None."""

    defaults_file: Path | None
    lock_timeout: float

    @property
    def settings(self) -> str:
        """What an operator changes when the server cannot be reached."""
        if self.defaults_file is None:
            return "the client's option files"
        return f'option file "{self.defaults_file}"'

    def argv(self, program: str) -> list[str]:
        """Return the beginning of a command line; LIMIT: --defaults-file works in first place."""
        return [program, *([f"--defaults-file={self.defaults_file}"] if self.defaults_file else [])]

    def require_settings(self) -> None:
        """See to it that the option file will be read.

        Raises:
            SourceError: it is missing, may not be read, or is ignored because anyone can write it.
        """
        path = self.defaults_file
        if path is None:
            return
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise SourceError(
                f"could not read {self.settings}: {(error.strerror or str(error)).lower()}",
                hint='Write one with the lines "[client]", "user=…" and "password=…".',
            ) from error
        if not os.access(path, os.R_OK):
            raise SourceError(f"could not read {self.settings}: permission denied")
        if mode & stat.S_IWOTH:
            raise SourceError(
                f"{self.settings} is ignored by the programs, because everybody may write it",
                hint=f'Run "chmod 600 {path}".',
            )

    def is_exposed(self) -> bool:
        """Tell whether others than the owner may read the option file."""
        path = self.defaults_file
        return path is not None and bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))

    def rows(self, sql: str, *, doing: str = "ask the server") -> list[list[str]]:
        """Run statements in a session of their own and return all rows, fields as text.

        Raises:
            SourceError: the client is missing, or the server cannot be reached or refuses.
        """
        self.require_settings()
        with command.stream(
            [*self._client(), "--skip-reconnect"],
            stdin=sql.encode(),
            timeout=_QUERY_TIMEOUT + self.lock_timeout,
            parsed=True,
        ) as program:
            pieces = list(iter(lambda: program.read_unchecked(1 << 20), b""))
            if program.status:
                raise mysql_errors.explain(program, doing, self.settings)
        lines = b"".join(pieces).decode(errors="surrogateescape").split("\n")[:-1]
        return [[_unescape(field) for field in line.split("\t")] for line in lines]

    @contextmanager
    def session(self) -> Iterator[Program]:
        """Start a client that is fed statements and answers each at once; leaving ends it."""
        self.require_settings()
        argv = [*self._client(), "--unbuffered", "--skip-reconnect"]
        with command.stream(argv, live_input=True, parsed=True) as program:
            yield program

    def server(self) -> Server:
        """Ask the server who it is and who we are.

        Raises:
            SourceError: as `rows`.
        """
        sql = "SELECT HEX(VERSION()), HEX(CURRENT_USER()), @@log_bin"
        ((version, account, log_bin),) = self.rows(sql, doing="connect to the server")
        return Server(_from_hex(version), _from_hex(account), log_bin == "1")

    def databases(self) -> list[str]:
        """Return the databases that the account can see, sorted, without those that hold nothing.

        Raises:
            SourceError: as `rows`.
        """
        sql = "SELECT HEX(schema_name) FROM information_schema.schemata"
        names = (_from_hex(row[0]) for row in self.rows(sql, doing="list the databases"))
        return sorted(name for name in names if name.lower() not in _NO_DATABASES)

    def grants(self) -> list[str]:
        """Return the account's grants as statements. They hold hashes of passwords: never shown.

        Raises:
            SourceError: as `rows`.
        """
        return [row[0] for row in self.rows("SHOW GRANTS", doing="list the account's grants")]

    def _client(self) -> list[str]:
        settings = (
            f"lock_wait_timeout={max(1, round(self.lock_timeout))}",
            # However the server is set, it quotes the names in grants in one way.
            "sql_mode=''",
            "sql_quote_show_create=1",
        )
        return [
            *self.argv(first_there(CLIENTS)),
            "--batch",
            "--skip-column-names",
            "--default-character-set=utf8mb4",
            f"--connect-timeout={_CONNECT_TIMEOUT}",
            f"--init-command=SET SESSION {', '.join(settings)}",
        ]


def first_there(programs: Sequence[str]) -> str:
    """Return the first program that is installed.

    Raises:
        SourceError: none is.
    """
    failures = []
    for name in programs:
        try:
            command.require([name])
        except SourceError as error:
            failures.append(error)
        else:
            return name
    raise SourceError(
        str(failures[0]), hint='Install "mariadb-client", or the client programs of MySQL.'
    )


def _unescape(field: str) -> str:
    return re.sub(r"\\[nt0\\]", lambda match: _ESCAPES[match[0]], field)


def _from_hex(text: str) -> str:
    return bytes.fromhex(text).decode(errors="surrogateescape")
