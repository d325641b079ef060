# SPDX-License-Identifier: Apache-2.0
"""Counting the rows of a dump's tables while it passes by, and digesting them.

The rule: of each table, the number of rows and the first 16 bytes of the BLAKE3 of their text as
the dump has it. Each row comes with the newline before it; in MariaDB's dialect rows are
parted by commas, wherever the dump starts a new statement. Two dumps of equal tables by programs
of one dialect have equal facts, because both write rows in the order of the primary key, or else
in the order in which they were loaded.

Both dialects have a row on a line of its own, and no other line ends within rows: what a value has
of them is escaped. So all there is to do is to find where rows begin and end.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

from snapvault.model.tables import TableFacts

DIGEST_SIZE: Final = 16

# LIMIT: lines outside of rows are definitions; what is longer is a dialect that we do not read.
_LONGEST_LINE: Final = 4 << 20

_MARIADB = re.compile(
    rb"\n(?:USE `(?P<database>(?:[^`\n]|``)+)`;(?=\n)"
    rb"|-- Dumping data for table `(?P<table>(?:[^`\n]|``)+)`(?=\n)"
    rb"|UNLOCK TABLES;(?=\n)"
    rb"|INSERT INTO `(?:[^`\n]|``)+`(?P<columns> \([^\n]*?\))? VALUES(?P<first>[\n ])"
    rb"|(?P<mysql>-- MySQL dump ))"
)
_IDENTIFIER = rb'(?:"(?:[^"\n]|"")+"|[^"\s.]+)'
# Definitions may hold anything, so rows are looked for below this line only.
_ANCHOR: Final = b"\n-- Data for Name: "
_ANCHOR_LINE = re.compile(rb"\n-- Data for Name: [^\n]*(?=\n)")
_COPY = re.compile(
    rb"\nCOPY (?P<table>" + _IDENTIFIER + rb"\." + _IDENTIFIER + rb") [^\n]*FROM stdin;(?=\n)"
)


@dataclass(frozen=True, slots=True)
class _Mark:
    """A line that means something; `end` is where its newline is.

    It may begin a database, a table or rows (`starts_here`: in this line), or nothing but what is
    near to a table.
    """

    end: int
    database: bytes | None = None
    table: bytes | None = None
    has_rows: bool = False
    starts_here: bool = False
    is_near: bool = False
    is_foreign: bool = False


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a program writes tables.

    `find` returns the next mark, told whether the one before was near to a table. Rows last until
    `last`, the first `kept` bytes of which are the last row's; `joint` is what a new statement
    stands for. Databases that are `hidden` change by themselves.
    """

    find: Callable[[bytes, int, bool], _Mark | None]
    last: bytes
    kept: int
    joint: bytes
    hidden: frozenset[bytes] = frozenset()


def _find_mariadb(data: bytes, start: int, _is_near: bool) -> _Mark | None:  # noqa: FBT001 - see Dialect
    found = _MARIADB.search(data, start)
    if found is None:
        return None
    if found["first"] is None:
        database, table = (_unquoted(found[each]) for each in ("database", "table"))
        return _Mark(found.end(), database, table, is_foreign=found["mysql"] is not None)
    # With columns named, the first row is on the line of the statement. MySQL's program writes
    # all rows on that line, always.
    starts_here = found["first"] == b" "
    is_foreign = starts_here and found["columns"] is None
    return _Mark(
        found.start("first"), has_rows=True, starts_here=starts_here, is_foreign=is_foreign
    )


def _find_postgresql(data: bytes, start: int, is_near: bool) -> _Mark | None:  # noqa: FBT001 - see Dialect
    if is_near:
        found = _COPY.search(data, start)
        return found and _Mark(found.end(), table=found["table"], has_rows=True)
    anchor = data.find(_ANCHOR, start)
    found = _ANCHOR_LINE.match(data, anchor) if anchor >= 0 else None
    return found and _Mark(found.end(), is_near=b"; Type: TABLE DATA; " in found[0])


MARIADB: Final = Dialect(_find_mariadb, b");\n", 1, b",", frozenset({b"mysql"}))
"""mariadb-dump; dumps by MySQL's mysqldump are not counted."""

POSTGRESQL: Final = Dialect(_find_postgresql, b"\n\\.\n", 0, b"")
"""pg_dump in plain text."""


@dataclass(slots=True)
class _Table:
    rows: int = 0
    digest: blake3 = field(default_factory=blake3)
    is_begun: bool = False


class DumpTables:
    """What is known of the tables of one dump, piece by piece.

    A dialect that names no databases counts all tables as those of the `database` given.
    """

    def __init__(self, dialect: Dialect, database: str | None = None) -> None:
        self._dialect = dialect
        self._database = None if database is None else database.encode(errors="surrogateescape")
        self._found: dict[bytes, dict[bytes, _Table]] = {}
        self._table: _Table | None = None
        self._in_rows = False
        self._is_near = False
        self._rest = b"\n"  # what may belong to a line that is not whole yet
        self._is_foreign = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the dump."""
        if self._is_foreign:
            return
        data = self._rest + data
        start: int | None = 0
        while start is not None:
            start = self._take_rows(data, start) if self._in_rows else self._take_text(data, start)
        if len(self._rest) > _LONGEST_LINE:
            self._is_foreign = True

    def facts(self) -> Mapping[str, Mapping[str, TableFacts]] | None:
        """Return all tables by database and name; None: the dump is of a dialect not read."""
        if self._is_foreign:
            return None
        return {
            _text(database): {
                _text(name): TableFacts(table.rows, table.digest.hexdigest(length=DIGEST_SIZE))
                for name, table in tables.items()
            }
            for database, tables in self._found.items()
            if database not in self._dialect.hidden
        }

    def _take_text(self, data: bytes, start: int) -> int | None:
        """Look for rows; return where to go on, or None if there is no more."""
        mark = self._dialect.find(data, start, self._is_near)
        if mark is None:
            self._rest = data[max(data.rfind(b"\n"), start) :]
            return None
        self._is_near = mark.is_near
        if mark.database is not None:
            self._database = mark.database
        if mark.table is not None:
            tables = self._found.setdefault(self._database or b"", {})
            self._table = tables.setdefault(mark.table, _Table())
        elif not mark.has_rows:
            self._table = None
        self._is_foreign = mark.is_foreign
        if self._is_foreign:
            return None
        if not mark.has_rows or self._table is None:
            return mark.end
        return self._begin_rows(self._table, mark)

    def _begin_rows(self, table: _Table, mark: _Mark) -> int:
        """Enter rows; return where they begin."""
        if table.is_begun:
            table.digest.update(self._dialect.joint)
        table.is_begun = True
        self._in_rows = True
        if not mark.starts_here:
            return mark.end
        table.digest.update(b"\n")
        table.rows += 1
        return mark.end + 1

    def _take_rows(self, data: bytes, start: int) -> int | None:
        """Count rows; return where they end, or None if they do not here."""
        dialect = self._dialect
        end = data.find(dialect.last, start)
        until = end + dialect.kept if end >= 0 else max(start, len(data) - len(dialect.last) + 1)
        table = self._table
        if table is None:
            raise ValueError("rows of no table")
        table.rows += data.count(b"\n", start, until)
        table.digest.update(memoryview(data)[start:until])
        if end < 0:
            self._rest = data[until:]
            return None
        self._in_rows = False
        return end + len(dialect.last) - 1


def _unquoted(name: bytes | None) -> bytes | None:
    return name and name.replace(b"``", b"`")


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")
