# SPDX-License-Identifier: Apache-2.0
"""The stdout of a program as a source: a dump, an archive, anything that is written once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path

from snapvault import clock
from snapvault.adapters import command
from snapvault.errors import SourceError
from snapvault.ports.source import NO_MARKS, Consistency, Finding, Outcome
from snapvault.ports.store import Readable


class CommandSource:
    """One stream: what a program writes.

    The program vouches for it with exit status 0, which counts as application-consistent:
    only the program knows, and one that does not (an archiver over files in use, say)
    should end with another status.
    """

    def __init__(
        self,
        name: str,
        stream: str,
        argv: Sequence[str],
        *,
        allow_empty: bool = False,
        environment: Mapping[str, str] | None = None,
        working_directory: Path | None = None,
        timeout: float | None = None,
    ) -> None:
        """`environment` is added to ours; `timeout` is in seconds, for the whole run."""
        if not argv:
            raise ValueError("a command has at least a program")
        self._name = name
        self._stream = stream
        self._argv = tuple(argv)
        self._allow_empty = allow_empty
        self._environment = environment
        self._working_directory = working_directory
        self._timeout = timeout

    @property
    def name(self) -> str:
        """The source's name, unique in its vault."""
        return self._name

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> "_View":
        """Check that the program is there. It starts when its stream is opened."""
        self._require()
        run = command.stream(
            self._argv,
            environment=self._environment,
            working_directory=self._working_directory,
            timeout=self._timeout,
        )
        stream = _Stream(self._stream, self._argv[0], run, allow_empty=self._allow_empty)
        return _View(clock.now(), stream)

    def check(self) -> Iterator[Finding]:
        """See that the program is there, without running it."""
        try:
            self._require()
        except SourceError as error:
            yield Finding(self._stream, str(error), error)
        else:
            yield Finding(self._stream, f'program "{self._argv[0]}" is there')

    def _require(self) -> None:
        command.require(
            self._argv, environment=self._environment, working_directory=self._working_directory
        )


class _Stream:
    """The program's stdout; `whole` once its end was read."""

    def __init__(
        self,
        name: str,
        program: str,
        run: AbstractContextManager[command.Program],
        *,
        allow_empty: bool,
    ) -> None:
        self._name = name
        self._program = program
        self._run = run
        self._allow_empty = allow_empty
        self._running: command.Program | None = None
        self._any = False
        self.whole = False

    @property
    def name(self) -> str:
        return self._name

    @contextmanager
    def open(self) -> Iterator[Readable]:
        with self._run as self._running:
            yield self

    def read(self, size: int, /) -> bytes:
        if self._running is None:
            raise ValueError("the stream is not open")
        data = self._running.read(size)
        if data:
            self._any = True
            return data
        if not self._any and not self._allow_empty:
            raise SourceError(
                f'program "{self._program}" succeeded but wrote nothing',
                hint="If that can be right, set allow_empty for this command.",
            )
        self.whole = True
        return b""

    def stop(self) -> None:
        """End the program if it runs; safe to repeat."""
        if self._running is not None:
            self._running.kill()


class _View:
    """The moment a command was about to start, and its stream."""

    def __init__(self, taken_at: datetime, stream: _Stream) -> None:
        self._taken_at = taken_at
        self._stream = stream

    @property
    def taken_at(self) -> datetime:
        return self._taken_at

    @property
    def streams(self) -> tuple[_Stream]:
        return (self._stream,)

    def finish(self) -> Outcome:
        if not self._stream.whole:
            raise SourceError(f'stream "{self._stream.name}" was not read to its end')
        return Outcome(Consistency.APPLICATION)

    def committed(self, point: str) -> None:
        pass

    def close(self) -> None:
        self._stream.stop()
