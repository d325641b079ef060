# SPDX-License-Identifier: Apache-2.0
"""Recording a run while it is at work: in the history, in its log, and how far it has come."""

import os
import secrets
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from snapvault import clock
from snapvault.adapters.event_log import Field
from snapvault.errors import EXIT_BUG, SnapVaultError
from snapvault.model.point import Point
from snapvault.model.runs import Failure, Progress, Run, RunState
from snapvault.ports.events import Events
from snapvault.ports.events import Progress as Counting
from snapvault.ports.history import History, RunLog, RunLogs

_STATUS_OF_SIGNAL: Final = 128
_SIGKILL: Final = 9
_SIGTERM: Final = 15
_OVER: Final = (b"Z", b"X")
_STARTTIME: Final = 22 - 3  # it is field 22, the state is 3


def new_run_id(at: datetime) -> str:
    """Return an id for a run that starts then: `20261121T013000Z-1a2b3c4d`."""
    return f"{clock.to_name(at)}-{secrets.token_hex(4)}"


def is_at_work(run: Run) -> bool:
    """Tell whether the process of a run is still there, and is not another of its number."""
    if run.pid is None:
        return False
    if run.born is not None:
        return born(run.pid) == run.born
    try:
        return b"snapvault" in Path(f"/proc/{run.pid}/cmdline").read_bytes()
    except OSError:
        return False


def born(pid: int) -> int | None:
    """Return when a process was started, in ticks since the host was; None: it is over."""
    try:
        # proc_pid_stat(5): the name, in parentheses, may hold anything; the state comes after it.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in _OVER else int(fields[_STARTTIME])


class Recording:
    """Records a run around what carries it out, as a context manager; errors pass through.

    It is recorded as this process's, and as at work since `run.started`. It has succeeded once
    `made` was called. An exception that is no Exception, as a signal's,
    interrupts it. `events` also go to the run's log. Nothing that fails here reaches the run: what
    cannot be recorded is told once, and let go.
    """

    def __init__(
        self, run: Run, *, history: Callable[[], History], logs: RunLogs, events: Events
    ) -> None:
        self._run = replace(run, state=RunState.RUNNING, pid=os.getpid(), born=born(os.getpid()))
        self._open_history = history
        self._log = logs.open(run.id)
        self._was_told = False
        self.events: Events = RecordingEvents(events, self._log, run.id)

    @property
    def run(self) -> Run:
        """The run as it stands."""
        return self._run

    def made(
        self, point: Point, *, stored_bytes: int, more: Mapping[str, int] | None = None
    ) -> None:
        """Say which restore point came of it, the bytes it added, and counters besides its own."""
        self._run = replace(
            self._run,
            state=RunState.SUCCEEDED,
            point=point.point,
            taken_at=point.taken_at,
            size=point.size,
            counters={**point.counters, **(more or {}), "stored_bytes": stored_bytes},
        )

    def count(self, counters: Mapping[str, int]) -> None:
        """Say what was counted although no restore point came of it."""
        self._run = replace(self._run, counters={**self._run.counters, **counters})

    def __enter__(self) -> Self:
        """Record that it is at work, and how runs of this source ended that nobody ended."""
        run = self._run
        self._log.write(_entry("info", "run.started", _named(run)))

        def act(history: History) -> None:
            for other in history.runs(run.key, running=True):
                if other.id != run.id and other.pid is not None and not is_at_work(other):
                    history.put(lost(other, clock.now()))
            history.put(run)

        self._with_history(act)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Record how it ended."""
        # A restore point that was committed stays, whatever went wrong after it.
        if error is not None and self._run.state is RunState.RUNNING:
            self._fail(error)
        self._end()

    def _fail(self, error: BaseException) -> None:
        is_failure = isinstance(error, Exception)
        failure = failure_of(error)
        state = RunState.FAILED if is_failure else RunState.INTERRUPTED
        self._run = replace(self._run, state=state, failure=failure)
        if is_failure and not isinstance(error, SnapVaultError):
            frames = traceback.extract_tb(error.__traceback__)
            trace = "; ".join(f"{each.filename}:{each.lineno} {each.name}" for each in frames)
            self.events.warn("run.bug", failure.message, trace=trace)
        for note in getattr(error, "__notes__", ()):
            self._log.write(_entry("error", "run.note", {}, message=str(note)))

    def _end(self) -> None:
        if self._run.state is RunState.RUNNING:
            failure = Failure("it ended without saying how", None, EXIT_BUG, retryable=True)
            self._run = replace(self._run, state=RunState.INTERRUPTED, failure=failure)
        run = self._run = replace(self._run, ended=clock.now())
        fields: dict[str, Field] = {**_named(run), "seconds": run.seconds}
        if run.failure is None:
            fields |= {"point": run.point, "size_bytes": run.size, **run.counters}
            self._log.write(_entry("info", "run.succeeded", fields))
        else:
            fields |= {"hint": run.failure.hint, "exit_status": run.failure.exit_status}
            event = f"run.{run.state.value}"
            self._log.write(_entry("error", event, fields, message=run.failure.message))
        self._with_history(lambda history: history.put(run))
        self._log.close()

    def _with_history(self, action: Callable[[History], None]) -> None:
        # Opened for the moment only: a run may last a night, and the file may be lost meanwhile.
        try:
            history = self._open_history()
            try:
                action(history)
            finally:
                history.close()
        except Exception as error:  # noqa: BLE001 - no fault of the history's may fail a backup
            if not self._was_told:
                self._was_told = True
                message = f"{failure_of(error).message}; the backup goes on unrecorded"
                self.events.warn("history.failed", message)


def lost(run: Run, at: datetime) -> Run:
    """Return a run whose process is gone as it ended: interrupted, and noticed then."""
    failure = Failure(
        f"process {run.pid} ended without saying how",
        "Nothing is lost: the next run uses what it had stored.",
        _STATUS_OF_SIGNAL + _SIGKILL,
        retryable=True,
    )
    return replace(run, state=RunState.INTERRUPTED, ended=at, failure=failure)


def failure_of(error: BaseException) -> Failure:
    """Return an error as it is told to people: in one line, and nothing of what we did not write.

    What another's error says is left out: nobody knows what it may hold.
    """
    if isinstance(error, SnapVaultError):
        text = " ".join(str(error).split("\n"))
        return Failure(text, error.hint, error.exit_status, retryable=error.retryable)
    if isinstance(error, Exception):
        last = traceback.extract_tb(error.__traceback__)[-1:]
        where = f' in "{Path(last[0].filename).name}", line {last[0].lineno}' if last else ""
        return Failure(
            f"unforeseen {type(error).__name__}{where}",
            "This is a bug; please report it with the run's log.",
            EXIT_BUG,
            retryable=False,
        )
    return Failure(
        "it was asked to end",
        "Nothing is lost: the next run uses what it had stored.",
        _STATUS_OF_SIGNAL + _SIGTERM,
        retryable=True,
    )


def _named(run: Run) -> dict[str, Field]:
    return {
        "run": run.id,
        "vault": run.key.vault,
        "source": run.key.source,
        "policy": run.policy,
        "trigger": run.trigger.value,
        "attempt": run.attempt,
        "pid": run.pid,
    }


def _entry(
    level: str, event: str, fields: Mapping[str, Field], *, message: str | None = None
) -> dict[str, Field]:
    """Return an event as logs hold it; a field does not replace what is ours."""
    ours: dict[str, Field] = {"at": clock.to_text(clock.now()), "level": level, "event": event}
    if message is not None:
        ours["message"] = message
    return {**fields, **ours} if ours.keys() & fields.keys() else {**ours, **fields}


class RecordingEvents:
    """Passes everything on, and writes it into a run's log."""

    def __init__(self, inner: Events, log: RunLog, run: str) -> None:
        self._inner = inner
        self._log = log
        self._run = run

    def emit(self, event: str, /, **fields: Field) -> None:
        """Pass an event on, and log it."""
        self._log.write(_entry("info", event, fields))
        self._inner.emit(event, **fields)

    def warn(self, event: str, message: str, /, **fields: Field) -> None:
        """Pass a warning on, and log it."""
        self._log.write(_entry("warning", event, fields, message=message))
        self._inner.warn(event, message, **fields)

    def progress(self, label: str, *, total: int | None) -> Counting:
        """Start to count bytes, for whoever looks from outside too."""
        inner = self._inner.progress(label, total=total)
        return _Work(inner, self._log, Progress(self._run, label, 0, total, clock.now()))


class _Work:
    """One long piece of work; of several at a time, the one that moved last is shown."""

    def __init__(self, inner: Counting, log: RunLog, start: Progress) -> None:
        self._inner = inner
        self._log = log
        self._lock = threading.Lock()
        self._shown = start
        log.progress(start)

    def advance(self, amount: int) -> None:
        """Pass it on, and count it."""
        self._inner.advance(amount)
        with self._lock:
            done = self._shown.done + amount
            shown = self._shown = replace(self._shown, done=done, at=clock.now())
        self._log.progress(shown)

    def close(self) -> None:
        """Pass it on."""
        self._inner.close()
