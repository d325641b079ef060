# SPDX-License-Identifier: Apache-2.0
"""Sending a dump through a pipe into a client program, and hearing what its server says."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Final

from snapvault.adapters import command
from snapvault.adapters.command import Program
from snapvault.errors import DrillError, SourceError

HEAD: Final = 1 << 20
"""Bytes of a dump's beginning that can be looked at before it is sent."""

_PIECE: Final = 256 << 10
_TAIL: Final = 4 << 10
_MORE: Final = timedelta(seconds=30)  # that a client may take longer than its server

# What each program writes first, and what it writes last.
_ENDS: Final = (
    (re.compile(rb"(?:/\*M?!999999.*\n)?-- (?:MariaDB|MySQL) dump "), b"\n-- Dump completed"),
    (re.compile(rb"--\n-- PostgreSQL database dump\n"), b"\n-- PostgreSQL database dump complete"),
    (
        re.compile(rb"--\n-- PostgreSQL database cluster dump\n"),
        b"\n-- PostgreSQL database cluster dump complete",
    ),
)


@dataclass(frozen=True, slots=True)
class Said:
    """An error in a server's own words, and where in its input."""

    text: str
    line: int | None = None
    hint: str | None = None


@dataclass(slots=True)
class Dump:
    """A dump that is read once. Its `head` is known before."""

    source: BinaryIO
    head: bytes = field(init=False)
    _tail: bytes = b""

    def __post_init__(self) -> None:
        pieces = bytearray()
        while len(pieces) < HEAD and (piece := self.source.read(HEAD - len(pieces))):
            pieces += piece
        self.head = bytes(pieces)

    def pieces(self) -> Iterator[bytes]:
        """Yield all of it."""
        piece = self.head
        while piece:
            self._tail = (self._tail + piece[-_TAIL:])[-_TAIL:]
            yield piece
            piece = self.source.read(_PIECE)

    def is_cut(self) -> bool:
        """Tell, once it was read, whether it lacks the line that its program writes last."""
        return any(form.match(self.head) and last not in self._tail for form, last in _ENDS)


def feed(
    argv: Sequence[str],
    pieces: Iterator[bytes],
    stream: str,
    limit: timedelta | None,
    find: Callable[[bytes], Said | None],
) -> None:
    """Send all pieces to a client, and see it end well. `find` reads its stderr.

    Raises:
        DrillError: the server refused something, or it took longer than `limit` (None: any time).
    """
    try:
        with _client(argv, limit) as program:
            try:
                for piece in pieces:
                    program.feed(piece)
                    while program.has_output(0) and program.read_unchecked(_PIECE):
                        pass
                program.end_input()
                while program.read(_PIECE):
                    pass
            except SourceError as error:
                said = find(program.stderr)
                if said is None:
                    raise
                raise refused(stream, said) from error
    except SourceError as error:
        raise DrillError(f'could not load stream "{stream}": {error}', hint=error.hint) from error


def refused(stream: str, said: Said) -> DrillError:
    """Return the error for a dump that a server does not take."""
    where = f" at line {said.line}" if said.line is not None else ""
    return DrillError(
        f'the scratch server refused stream "{stream}"{where}: {said.text}', hint=said.hint
    )


def ask(
    argv: Sequence[str], limit: timedelta | None, find: Callable[[bytes], Said | None]
) -> Iterator[bytes]:
    """Run a client and yield what it writes.

    Raises:
        DrillError: its server refused, or it took longer than `limit`.
    """
    try:
        with _client(argv, limit and limit + _MORE) as program:
            program.end_input()
            while piece := program.read_unchecked(_PIECE):
                yield piece
            if program.status:
                said = find(program.stderr)
                if said is None:
                    raise program.failure()
                raise DrillError(f"the scratch server said: {said.text}", hint=said.hint)
    except SourceError as error:
        raise DrillError(f"could not ask the scratch server: {error}", hint=error.hint) from error


def _client(argv: Sequence[str], limit: timedelta | None) -> AbstractContextManager[Program]:
    return command.stream(
        argv,
        live_input=True,
        working_directory=Path("/"),
        timeout=limit.total_seconds() if limit else None,
        parsed=True,
    )
