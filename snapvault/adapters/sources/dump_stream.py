# SPDX-License-Identifier: Apache-2.0
"""Dumps: what a program writes, believed only when its last line is there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime

from snapvault.adapters.command import Program
from snapvault.adapters.dump_tables import DumpTables
from snapvault.errors import SourceError
from snapvault.formats import table_facts
from snapvault.ports.source import Consistency, Outcome
from snapvault.ports.store import Readable

_HEAD = 16 << 10  # bytes kept of a dump's beginning, where its position stands
_TAIL = 4 << 10  # and of its end


@dataclass(frozen=True, slots=True)
class Watch:
    """What to look at when a dump has said nothing for `patience` seconds.

    `look` raises an error if the dump is waiting for something that it should not wait for.
    """

    patience: float
    look: Callable[[], None]


class DumpStream:
    """The stdout of one dump program; started when the stream is opened.

    `is_complete` is given the end of the dump. `explain` turns what a failed program said into
    an error. `read_facts` is given the beginning and the end, once both were read. Where `tables`
    is given, tables are counted as they pass by, and their summary is among the facts.
    """

    def __init__(
        self,
        name: str,
        run: AbstractContextManager[Program],
        *,
        is_complete: Callable[[bytes], bool],
        explain: Callable[[Program], SourceError],
        read_facts: Callable[[bytes, bytes], Mapping[str, str]],
        watch: Watch | None = None,
        tables: DumpTables | None = None,
    ) -> None:
        self._name = name
        self._run = run
        self._is_complete = is_complete
        self._explain = explain
        self._read_facts = read_facts
        self._watch = watch
        self._tables = tables
        self._program: Program | None = None
        self._head = b""
        self._tail = b""
        self._whole = False

    @property
    def name(self) -> str:
        """The stream's name, unique in its source."""
        return self._name

    @contextmanager
    def open(self) -> Iterator[Readable]:
        """Start the program; leaving the context ends it."""
        with self._run as self._program:
            yield self

    def read(self, size: int, /) -> bytes:
        """Return the next bytes; empty only after a dump that is whole.

        Raises:
            SourceError: the program failed, or ended before the dump did.
        """
        program = self._program
        if program is None:
            raise ValueError("the stream is not open")
        if self._watch is not None:
            while not program.has_output(self._watch.patience):
                self._watch.look()
        data = program.read_unchecked(size)
        if data:
            if len(self._head) < _HEAD:
                self._head += data[: _HEAD - len(self._head)]
            self._tail = (self._tail + data[-_TAIL:])[-_TAIL:]
            if self._tables is not None:
                self._tables.feed(data)
            return data
        if program.status:
            raise self._explain(program)
        if not self._is_complete(self._tail):
            raise SourceError(
                f'the dump of stream "{self._name}" ended without its last line',
                hint="Run the program by hand, and see what it says.",
            )
        self._whole = True
        return b""

    def facts(self) -> Mapping[str, str]:
        """Return what the dump says of itself.

        Raises:
            SourceError: it was not read to its end.
        """
        if not self._whole:
            raise SourceError(f'stream "{self._name}" was not read to its end')
        facts = self._read_facts(self._head, self._tail)
        counted = self._tables.facts() if self._tables is not None else None
        if counted is None:
            return facts
        return {**facts, **table_facts.encode(table_facts.summarize(counted))}

    def stop(self) -> None:
        """End the program if it runs; safe to repeat."""
        if self._program is not None:
            self._program.kill()


class DumpView:
    """Dumps to be read one after the other; each shows the moment at which it is started."""

    def __init__(
        self, taken_at: datetime, streams: Sequence[DumpStream], consistency: Consistency
    ) -> None:
        self._taken_at = taken_at
        self._streams = tuple(streams)
        self._consistency = consistency

    @property
    def taken_at(self) -> datetime:
        """The moment before the first dump, in UTC."""
        return self._taken_at

    @property
    def streams(self) -> tuple[DumpStream, ...]:
        """The dumps."""
        return self._streams

    def finish(self) -> Outcome:
        """Return what is known of every dump.

        Raises:
            SourceError: one was not read to its end.
        """
        facts = {stream.name: stream.facts() for stream in self._streams}
        return Outcome(self._consistency, facts=facts)

    def committed(self, point: str) -> None:
        """Nothing was kept, so nothing is let go."""

    def close(self) -> None:
        """End the dump that runs, if one does."""
        for stream in self._streams:
            stream.stop()
