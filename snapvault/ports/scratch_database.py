# SPDX-License-Identifier: Apache-2.0
"""Private database servers that dumps are loaded into, to see whether they can be."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Protocol

from snapvault.model.tables import TableFacts as TableFacts
from snapvault.model.tables import Tables


class ScratchDatabase(Protocol):
    """A server of nobody else, reached by a socket in its own folder only."""

    def load(self, dump: BinaryIO, stream: str, database: str | None) -> Tables | None:
        """Load one stream, read to its end; `database` where the dump does not name its own.

        Returns the facts of the tables that the dump has, counted on its way into the server;
        None: they cannot be counted in a dump like this one. What was recorded at the backup
        is their summary (formats/table_facts.py).

        Raises:
            DrillError: the server refused something; the message has its own words.
        """
        ...

    def query(self, sql: str, database: str | None, limit: timedelta) -> Sequence[Sequence[str]]:
        """Run one statement; return its rows, each value as text (`NULL` for none).

        Raises:
            DrillError: the server refused it, or it took longer.
        """
        ...

    def databases(self) -> Sequence[str]:
        """Return the names of the databases that were loaded, sorted."""
        ...

    def tables(self, database: str) -> Mapping[str, TableFacts]:
        """Return the facts of all tables that a database has now, by the same rule as `load`."""
        ...

    def close(self) -> None:
        """End the server and remove its folder. Repeatable."""
        ...


class ScratchDatabases(Protocol):
    """What starts such servers, of one product."""

    def check(self) -> None:
        """Make sure that it can be started here.

        Raises:
            DrillError: a program is missing; the hint is the command that installs it.
        """
        ...

    def start(self, folder: Path) -> ScratchDatabase:
        """Start a server in a private folder, that has room for it.

        Raises:
            DrillError: it did not start; the message has its own words.
        """
        ...
