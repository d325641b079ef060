# SPDX-License-Identifier: Apache-2.0
"""Hooks: the operator's own programs around a source, and around the taking of its snapshots."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial

from snapvault.adapters.sources.hooked_program import HookProgram
from snapvault.errors import QuiesceError, SourceError
from snapvault.model.policy import HookSpec, HooksSpec
from snapvault.ports.events import Events, Progress
from snapvault.ports.source import (
    NO_MARKS,
    ByteStream,
    Consistency,
    DiskStream,
    Finding,
    Outcome,
    Source,
    View,
)


def hook_environment(*, source: str, vault: str, policy: str) -> dict[str, str]:
    """Return what every hook is told by its environment."""
    return {
        "SNAPVAULT_SOURCE": source,
        "SNAPVAULT_VAULT": vault,
        "SNAPVAULT_POLICY": policy,
    }


class HookedSource:
    """A source with a hook before it is opened, and one after it was closed.

    `after` runs exactly once when `before` was started (or, without `before`, when the source was
    to be opened): at the end of `close`, or of an `open` that failed. It is told
    SNAPVAULT_RESULT, `committed` or `failed`, and SNAPVAULT_POINT if there is one. Where our
    process is killed, a guard runs it, as `failed`. Its failure is a warning.
    """

    def __init__(
        self, inner: Source, hooks: HooksSpec, environment: Mapping[str, str], events: Events
    ) -> None:
        """`environment` is that of `hook_environment`."""
        self._inner = inner
        self._hooks = hooks
        self._environment = environment
        self._events = events

    @property
    def name(self) -> str:
        """The source's name, unique in its vault."""
        return self._inner.name

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> View:
        """Run `before`, then open the source.

        Raises:
            SourceError: `before` failed and is not one that only warns, or a program is missing.
            and all that the source raises.
        """
        before, after = self._program("before"), self._program("after")
        if before is not None and not before.only_warns:
            before.require()
        ending = _Ending(after)
        try:
            # ORDER: the guard is up before anything that `after` undoes is done.
            ending.begin()
            if before is not None:
                before.run_as_asked("the backup goes on without it")
            return _View(self._inner.open(marks), ending)
        except BaseException:
            ending.end()
            raise

    def check(self) -> Iterator[Finding]:
        """See that the hooks' programs are there, without running them, and look at the source."""
        for kind in ("before", "freeze", "thaw", "after"):
            program = self._program(kind)
            if program is None:
                continue
            what = f'hook "{kind}"'
            try:
                program.require()
            except SourceError as error:
                yield Finding(what, str(error), error)
            else:
                yield Finding(what, f'{what} can be started: "{program.spec.run[0]}" is there')
        yield from self._inner.check()

    def _program(self, kind: str) -> HookProgram | None:
        spec: HookSpec | None = getattr(self._hooks, kind)
        if spec is None:
            return None
        return HookProgram(kind, spec, self._inner.name, self._environment, self._events)


class _Ending:
    """The hook `after`: once begun, it runs exactly once."""

    def __init__(self, after: HookProgram | None) -> None:
        self._after = after
        self._guard = ExitStack()
        self._is_due = False
        self.point: str | None = None

    def begin(self) -> None:
        if self._after is not None:
            self._guard.enter_context(self._after.guard({"SNAPVAULT_RESULT": "failed"}))
            self._is_due = True

    def end(self) -> None:
        if self._after is None or not self._is_due:
            return
        self._is_due = False
        result = {"SNAPVAULT_RESULT": "failed"}
        if self.point is not None:
            result = {"SNAPVAULT_RESULT": "committed", "SNAPVAULT_POINT": self.point}
        # ORDER: the guard stays until it has run: half an `after` is none.
        with self._guard:
            self._after.run_surely("what it was to undo may be left as it is", result)


class _View:
    """A view, and what is run after it."""

    def __init__(self, inner: View, ending: _Ending) -> None:
        self._inner = inner
        self._ending = ending

    @property
    def taken_at(self) -> datetime:
        return self._inner.taken_at

    @property
    def streams(self) -> tuple[DiskStream | ByteStream, ...]:
        return self._inner.streams

    def finish(self) -> Outcome:
        return self._inner.finish()

    def committed(self, point: str) -> None:
        self._ending.point = point
        self._inner.committed(point)

    def close(self) -> None:
        try:
            self._inner.close()
        finally:
            self._ending.end()


class HookQuiesce:
    """The hooks `freeze` and `thaw` around the taking of a snapshot.

    A freeze that succeeds is the application's own word: what is taken then is
    application-consistent. With one that only warns, and failed, it is as after a power cut.
    `thaw` runs once `freeze` was started: also when it failed, ran out of time or was
    interrupted, and by a guard when our process is killed. Its failure is a warning. What the
    hooks say is told after the thaw: the log may lie on what is frozen.
    """

    def __init__(self, hooks: HooksSpec, environment: Mapping[str, str], events: Events) -> None:
        """`environment` is that of `hook_environment`."""
        self._hooks = hooks
        self._environment = environment
        self._events = events

    @contextmanager
    def __call__(self) -> Iterator[Consistency]:
        """Freeze, and thaw when the context is left.

        Raises:
            QuiesceError: `freeze` failed and is not one that only warns, or `thaw` is missing.
        """
        if self._hooks.freeze is None:
            yield Consistency.CRASH
            return
        held = _HeldEvents(self._events)
        with ExitStack() as stack:
            stack.callback(held.tell)
            yield self._freeze(self._program("freeze", self._hooks.freeze, held), stack, held)

    def _freeze(self, freeze: HookProgram, stack: ExitStack, held: "_HeldEvents") -> Consistency:
        """Freeze, with all that thaws put on the stack before."""
        try:
            if not freeze.only_warns:
                freeze.require()
            if self._hooks.thaw is not None:
                thaw = self._program("thaw", self._hooks.thaw, held)
                # ORDER: the guard is up before the freeze, and stays until the thaw is done.
                stack.enter_context(thaw.guard())
                stack.callback(thaw.run_surely, "what was frozen may still be")
            succeeded = freeze.run_as_asked("the snapshot is as after a power cut")
        except SourceError as error:
            raise QuiesceError(str(error), hint=error.hint) from error
        return Consistency.APPLICATION if succeeded else Consistency.CRASH

    def _program(self, kind: str, spec: HookSpec, events: Events) -> HookProgram:
        source = self._environment["SNAPVAULT_SOURCE"]
        return HookProgram(kind, spec, source, self._environment, events)


class _HeldEvents:
    """Events that are kept until they may be told."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._held: list[Callable[[], None]] = []

    def emit(self, event: str, /, **fields: str | int | float | bool | None) -> None:
        self._held.append(partial(self._events.emit, event, **fields))

    def warn(self, event: str, message: str, /, **fields: str | int | float | bool | None) -> None:
        self._held.append(partial(self._events.warn, event, message, **fields))

    def progress(self, label: str, *, total: int | None) -> Progress:
        return self._events.progress(label, total=total)

    def tell(self) -> None:
        """Tell all of them, in their order."""
        held, self._held = self._held, []
        for tell in held:
            tell()
