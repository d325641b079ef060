# SPDX-License-Identifier: Apache-2.0
"""One hook's program: started with what it is to know, its words in the log, its time limited."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from snapvault import clock
from snapvault.adapters import command
from snapvault.errors import SourceError
from snapvault.model.policy import HookSpec
from snapvault.ports.events import Events

LINES_LOGGED: Final = 200  # of one run
LINE_LENGTH: Final = 500  # characters

_READ = 64 << 10  # bytes


@dataclass(frozen=True, slots=True)
class HookProgram:
    """A hook of a source, `kind` being `before`, `freeze`, `thaw` or `after`.

    What it leaves running in its process group is ended with it.
    """

    kind: str
    spec: HookSpec
    source: str
    environment: Mapping[str, str]
    events: Events

    @property
    def only_warns(self) -> bool:
        """Whether its failure is a warning."""
        return self.spec.on_failure == "warn"

    def require(self) -> None:
        """Check, without starting it, that the program is there.

        Raises:
            SourceError: it is not.
        """
        try:
            command.require(self.spec.run, environment=self.spec.environment)
        except SourceError as error:
            raise self._failed(error) from error

    def guard(self, more: Mapping[str, str] | None = None) -> AbstractContextManager[None]:
        """Have it run if our process dies in this context; see `command.guard`.

        Raises:
            SourceError: the program is not there.
        """
        self.require()
        return command.guard(self.spec.run, environment=self._variables(more))

    def run(self, more: Mapping[str, str] | None = None) -> None:
        """Run it to its end; `more` is added to its environment.

        Raises:
            SourceError: it could not be started, ran out of time or failed.
        """
        started = clock.monotonic()
        self.events.emit("hook.started", hook=self.kind, source=self.source)
        try:
            with command.merged(
                self.spec.run,
                environment=self._variables(more),
                timeout=self.spec.timeout.total_seconds(),
            ) as program:
                self._log(program)
        except SourceError as error:
            raise self._failed(error) from error
        seconds = round(clock.monotonic() - started, 3)
        self.events.emit("hook.ended", hook=self.kind, source=self.source, seconds=seconds)

    def run_as_asked(self, consequence: str) -> bool:
        """Run it; return whether it succeeded. `consequence` is told if it only warns.

        Raises:
            SourceError: it failed, and its failure is to stop the backup.
        """
        try:
            self.run()
        except SourceError as error:
            if not self.only_warns:
                raise
            self._warn(error, consequence)
            return False
        return True

    def run_surely(self, consequence: str, more: Mapping[str, str] | None = None) -> None:
        """Run it to undo something: a failure is a warning, and a signal only makes it begin anew.

        The next signal kills us, and then it is up to the guard.
        """
        try:
            self._run_or_warn(consequence, more)
        except BaseException:
            self._run_or_warn(consequence, more)
            raise

    def _run_or_warn(self, consequence: str, more: Mapping[str, str] | None) -> None:
        try:
            self.run(more)
        except SourceError as error:
            self._warn(error, consequence)

    def _warn(self, error: SourceError, consequence: str) -> None:
        self.events.warn(
            "hook.failed", f"{error}; {consequence}", hook=self.kind, source=self.source
        )

    def _log(self, program: command.Program) -> None:
        left_out = 0
        for number, line in enumerate(_lines(program)):
            if number < LINES_LOGGED:
                self.events.emit("hook.output", hook=self.kind, source=self.source, line=line)
            else:
                left_out += 1
        if left_out:
            self.events.emit(
                "hook.output_cut", hook=self.kind, source=self.source, lines_left_out=left_out
            )

    def _variables(self, more: Mapping[str, str] | None) -> dict[str, str]:
        # What a hook is told must be true, whatever the policy sets.
        return {
            **self.spec.environment,
            **self.environment,
            "SNAPVAULT_HOOK": self.kind,
            **(more or {}),
        }

    def _failed(self, error: SourceError) -> SourceError:
        return SourceError(
            f'hook "{self.kind}" of source "{self.source}" failed: {error}', hint=error.hint
        )


def _lines(program: command.Program) -> Iterator[str]:
    """Yield the lines of what a program says; of a very long one only the beginning."""
    begun = b""
    while data := program.read_until_exit(_READ):
        *whole, begun = (begun + data).split(b"\n")
        yield from map(_text, whole)
        begun = begun[: LINE_LENGTH * 4 + 4]
    if begun:
        yield _text(begun)


def _text(line: bytes) -> str:
    text = line.decode(errors="replace").rstrip()
    return text if len(text) <= LINE_LENGTH else f"{text[:LINE_LENGTH]}…"
