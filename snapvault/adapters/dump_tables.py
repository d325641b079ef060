# SPDX-License-Identifier: Apache-2.0
"""Counting the rows of a dump's tables while it passes by, and digesting them.

The rule: of each table, the number of rows and the first 16 bytes of the BLAKE3 of their text as
the dump has it. Each row comes with the newline before it; in MariaDB's dialect rows are
parted by commas, wherever the dump starts a new statement. Two dumps of equal tables by programs
of one dialect have equal facts, because both write rows in the order of the primary key, or else
in the order in which they were loaded. A change of the rule is a new one in
formats/table_facts.py.

Both dialects have a row on a line of its own, and no other line ends within rows: what a value has
of them is escaped. So all there is to do is to find where rows begin and end.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from snapvault.model.tables import TableFacts, Tables

DIGEST_SIZE: Final = 16

# LIMIT: memory blocks of 128 KiB and more are fetched from the kernel, and given back, each time
# (mallopt(3), M_MMAP_THRESHOLD), which costs more than all that is done with them.
_BUFFER: Final = 96 << 10
# LIMIT: lines outside of rows are definitions; what is longer is a dialect that we do not read.
_LONGEST_LINE: Final = 8 << 20

_NEWLINE, _SEMICOLON, _BACKSLASH, _DOT = b"\n;\\."

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

    `find` returns the next mark in a part of a buffer, told whether the one before was near to a
    table. Rows are followed by `last`, which `find_last` finds in some bytes, or returns -1;
    `joint` is what a new statement stands for. Databases that are `hidden` change by themselves.
    """

    find: Callable[[bytearray, int, int, bool], _Mark | None]
    last: bytes
    find_last: Callable[[NDArray[np.uint8]], int]
    joint: bytes
    hidden: frozenset[bytes] = frozenset()


def _find_mariadb(data: bytearray, start: int, end: int, _is_near: bool) -> _Mark | None:  # noqa: FBT001 - see Dialect
    found = _MARIADB.search(data, start, end)
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


def _find_postgresql(data: bytearray, start: int, end: int, is_near: bool) -> _Mark | None:  # noqa: FBT001 - see Dialect
    if is_near:
        found = _COPY.search(data, start, end)
        return found and _Mark(found.end(), table=found["table"], has_rows=True)
    anchor = data.find(_ANCHOR, start, end)
    found = _ANCHOR_LINE.match(data, anchor, end) if anchor >= 0 else None
    return found and _Mark(found.end(), is_near=b"; Type: TABLE DATA; " in found[0])


def _find_last_of_mariadb(text: NDArray[np.uint8]) -> int:
    # All rows but the last of a statement end with a comma.
    ends = (text[1:] == _NEWLINE) & (text[:-1] == _SEMICOLON)
    return int(ends.argmax()) if ends.any() else -1


def _find_last_of_postgresql(text: NDArray[np.uint8]) -> int:
    newlines = text == _NEWLINE
    lines = newlines[:-3] & newlines[3:]  # of two bytes
    if not lines.any():
        return -1
    starts = np.flatnonzero(lines)
    found = starts[(text[starts + 1] == _BACKSLASH) & (text[starts + 2] == _DOT)]
    return int(found[0]) if len(found) else -1


MARIADB: Final = Dialect(_find_mariadb, b";\n", _find_last_of_mariadb, b",", frozenset({b"mysql"}))
"""mariadb-dump; dumps by MySQL's mysqldump are not counted."""

POSTGRESQL: Final = Dialect(_find_postgresql, b"\n\\.\n", _find_last_of_postgresql, b"")
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
        self._is_foreign = False
        self._buffer = bytearray(_BUFFER)
        self._buffer[:1] = b"\n"  # every line that means something comes after one
        self._size = 1

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the dump."""
        rest = memoryview(data)
        while rest and not self._is_foreign:
            count = min(len(rest), len(self._buffer) - self._size)
            self._buffer[self._size : self._size + count] = rest[:count]
            self._size += count
            rest = rest[count:]
            if self._size == len(self._buffer):
                self._scan()

    def passing(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces of the dump as they come, counted."""
        for piece in pieces:
            self.feed(piece)
            yield piece

    def facts(self) -> Tables | None:
        """Return the facts of all tables; None: the dump is of a dialect that is not read."""
        self._scan()
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

    def _scan(self) -> None:
        """Look at what is in the buffer, and keep what may go on."""
        start, is_done = 0, False
        while not is_done and not self._is_foreign:
            start, is_done = self._take_rows(start) if self._in_rows else self._take_text(start)
        rest = self._buffer[start : self._size]
        if len(rest) > _LONGEST_LINE:
            self._is_foreign = True
        if len(rest) * 2 > len(self._buffer):
            self._buffer = bytearray(len(self._buffer) * 2)
        self._buffer[: len(rest)] = rest
        self._size = len(rest)

    def _take_text(self, start: int) -> tuple[int, bool]:
        """Look for rows; return where to go on, and whether that needs more of the dump."""
        mark = self._dialect.find(self._buffer, start, self._size, self._is_near)
        if mark is None:
            return max(self._buffer.rfind(b"\n", start, self._size), start), True
        self._is_near = mark.is_near
        self._is_foreign = mark.is_foreign
        if mark.database is not None:
            self._database = mark.database
        if mark.table is not None:
            tables = self._found.setdefault(self._database or b"", {})
            self._table = tables.setdefault(mark.table, _Table())
        elif not mark.has_rows:
            self._table = None
        if not mark.has_rows or self._table is None:
            return mark.end, False
        return self._begin_rows(self._table, mark), False

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

    def _take_rows(self, start: int) -> tuple[int, bool]:
        """Count rows; return as `_take_text`."""
        table, last = self._table, self._dialect.last
        if table is None:
            raise ValueError("rows of no table")
        text = np.frombuffer(self._buffer, np.uint8, self._size - start, start)
        if len(text) < len(last):
            return start, True
        end = self._dialect.find_last(text)
        rows = text[: end if end >= 0 else len(text) - len(last) + 1]
        table.rows += int(np.count_nonzero(rows == _NEWLINE))
        table.digest.update(rows.data)
        if end < 0:
            return start + len(rows), True
        self._in_rows = False
        # The newline that ends all rows may begin a line that means something.
        return start + end + len(last) - 1, False


def _unquoted(name: bytes | None) -> bytes | None:
    return name and name.replace(b"``", b"`")


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")
