# SPDX-License-Identifier: Apache-2.0
"""Messages, events and progress, all on stderr."""

import os
import sys
import threading
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from snapvault import clock
from snapvault.adapters.event_log import EventLog, Field, logfmt
from snapvault.units import format_duration, format_size

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

LOG_VARIABLE: Final = "SNAPVAULT_LOG"

_PATIENCE: Final = 1.0  # seconds; shorter work shows no progress
_BAR_EVERY: Final = 0.1  # seconds
_LINE_EVERY: Final = 10.0  # seconds
_LINE_SHARE: Final = 10  # percent


class LogFormat(StrEnum):
    """How messages are written on stderr."""

    TEXT = "text"
    JSON = "json"


class Console:
    """The ear of the engines (`Events`), and the voice of the commands.

    `notes` and `progress` say what is going on, `events` prints every event; warnings are
    always shown. Progress is a bar on a terminal, and lines elsewhere. Safe from several threads.
    Where logs are wanted as JSON, every line is an object: `at`, `level`, `event`, `message`, and
    the event's fields.
    """

    def __init__(self, *, progress: bool, notes: bool, events: bool) -> None:
        self.subject = ""
        self._progress = progress
        self._notes = notes
        self._events = events
        self._lock = threading.RLock()
        self._bars: Bars | None = None
        self._shown = 0

    def note(self, text: str) -> None:
        """Say what is being done."""
        if self._notes:
            self._say("info", "note", text)

    def warning(self, text: str) -> None:
        """Say what an operator should know."""
        self._say("warning", "warning", text)

    def emit(self, event: str, /, **fields: Field) -> None:
        """Print an event in logfmt, if events are wanted."""
        if self._events:
            printer = json_log()
            if printer is not None:
                printer.emit(event, **fields)
            else:
                self._print(logfmt({"event": event, **fields}))

    def warn(self, event: str, message: str, /, **fields: Field) -> None:
        """Print a warning, and its event if events are wanted."""
        printer = json_log()
        if printer is not None:
            printer.warn(event, message, **fields)
        else:
            self.warning(message)
            self.emit(event, **fields)

    def progress(self, label: str, *, total: int | None) -> "_Work":
        """Start to count bytes."""
        subject = f"{self.subject}: {label}" if self.subject else label
        return _Work(self, subject, total, wanted=self._progress)

    def line(self, text: str) -> None:
        """Print a line of progress, where no bar shows it."""
        self._say("info", "progress", text)

    def start_bar(self, label: str, total: int | None, done: int) -> "TaskID | None":
        """Show a bar; None where stderr is no terminal."""
        if not sys.stderr.isatty() or json_log() is not None:
            return None
        with self._lock:
            if self._bars is None:
                self._bars = _bars()
                self._bars.start()
            self._shown += 1
            return self._bars.add_task(label, total=total, completed=done)

    def move_bar(self, task: "TaskID", done: int) -> None:
        """Let a bar grow."""
        with self._lock:
            if self._bars is not None:
                self._bars.update(task, completed=done)

    def end_bar(self, task: "TaskID") -> None:
        """Take a bar away."""
        with self._lock:
            if self._bars is None:
                return
            self._bars.remove_task(task)
            self._shown -= 1
            if self._shown == 0:
                self._bars.stop()
                self._bars = None

    def _say(self, level: str, event: str, text: str) -> None:
        printer = json_log()
        if printer is None:
            self._print(f"warning: {text}" if level == "warning" else text)
        elif level == "warning":
            printer.warn(event, text)
        else:
            printer.emit(event, message=text)

    def _print(self, text: str) -> None:
        line = one_line(text)
        with self._lock:
            if self._bars is not None:
                self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
            else:
                print(line, file=sys.stderr, flush=True)


class _Work:
    """One long piece of work; `Progress` of the port."""

    def __init__(self, console: Console, label: str, total: int | None, *, wanted: bool) -> None:
        self._console = console
        self._label = label
        self._total = total
        self._wanted = wanted
        self._lock = threading.Lock()
        self._done = 0
        self._started = clock.monotonic()
        self._line_at = self._started
        self._line_done = 0
        self._bar: TaskID | None = None
        self._tried = False

    def advance(self, amount: int) -> None:
        """Count bytes, and show them if it is time."""
        with self._lock:
            self._done += amount
            if not self._wanted:
                return
            now = clock.monotonic()
            if now - self._started < _PATIENCE:
                return
            if not self._tried:
                self._tried = True
                self._bar = self._console.start_bar(self._label, self._total, self._done)
            if self._bar is not None:
                if now - self._line_at >= _BAR_EVERY:
                    self._line_at = now
                    self._console.move_bar(self._bar, self._done)
            elif self._is_due(now):
                self._line_at, self._line_done = now, self._done
                self._console.line(self._text(now))

    def close(self) -> None:
        """Take the bar away."""
        with self._lock:
            self._wanted = False
            bar, self._bar = self._bar, None
        if bar is not None:
            self._console.end_bar(bar)

    def _is_due(self, now: float) -> bool:
        if now - self._line_at >= _LINE_EVERY:
            return True
        step = (self._done - self._line_done) * 100
        return (
            bool(self._total)
            and now - self._line_at >= _PATIENCE
            and step >= _LINE_SHARE * (self._total or 0)
        )

    def _text(self, now: float) -> str:
        elapsed = now - self._started
        rate = f"{format_size(int(self._done / elapsed))}/s"
        if not self._total:
            return f"{self._label}: {format_size(self._done)}, {rate}"
        share = min(100, self._done * 100 // self._total)
        text = f"{self._label}: {share} %, {format_size(self._done)} of {format_size(self._total)}"
        left = max(0, self._total - self._done) * elapsed / max(1, self._done)
        return f"{text}, {rate}, {format_duration(left)} left"


def _bars() -> "Bars":
    from rich.console import Console as Terminal
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Terminal(stderr=True),
        transient=True,
    )


def json_log() -> EventLog | None:
    """Return where messages go if they are wanted as JSON: for this process and its children."""
    wanted = os.environ.get(LOG_VARIABLE) == LogFormat.JSON
    return EventLog(sys.stderr, as_json=True) if wanted else None


def one_line(text: str) -> str:
    """Return a text as one line that cannot steer a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
