# SPDX-License-Identifier: Apache-2.0
"""Events as lines on a stream: for journald, for a file, or for a program that reads JSON."""

import json
import os
import threading
from typing import Final, TextIO

from snapvault import clock
from snapvault.adapters.log_stream import LogStream
from snapvault.ports.events import Progress

Field = str | int | float | bool | None

# syslog(3): the numbers that sd-daemon(3) has before a line; a higher one is less urgent.
_PRIORITIES: Final = {"error": 3, "warning": 4, "info": 6}


class EventLog:
    """The ear of an unattended process (`Events`): one line per event, with its fields.

    `bound` fields come with every line. Lines go out whole, from any thread. A stream that is
    full or gone loses lines, and never fails or holds up who writes them; how many were lost is
    said as soon as it takes lines again.
    """

    def __init__(
        self, stream: TextIO | None, *, as_json: bool = False, bound: dict[str, Field] | None = None
    ) -> None:
        self._stream = LogStream(stream)
        self._lost = 0
        self._as_json = as_json
        self._bound = bound or {}
        self._lock = threading.Lock()
        self._priorities = is_journal(stream)

    def emit(self, event: str, /, **fields: Field) -> None:
        """Write an event."""
        self._write("info", event, None, fields)

    def warn(self, event: str, message: str, /, **fields: Field) -> None:
        """Write what an operator should read."""
        self._write("warning", event, message, fields)

    def error(self, event: str, message: str, /, **fields: Field) -> None:
        """Write what failed."""
        self._write("error", event, message, fields)

    def progress(self, label: str, *, total: int | None) -> Progress:
        """Take progress, and show none: it is seen in `snapvault status`."""
        del label, total
        return _Silent()

    def _write(self, level: str, event: str, message: str | None, fields: dict[str, Field]) -> None:
        record: dict[str, Field] = {"level": level, "event": event}
        if message is not None:
            record["message"] = message
        line = self._line(record | self._bound | fields)
        with self._lock:
            if self._lost and self._stream.write(self._line(_loss(self._lost))):
                self._lost = 0
            self._lost += not self._stream.write(line)

    def _line(self, record: dict[str, Field]) -> str:
        if self._as_json:
            text = json.dumps({"at": clock.to_text(clock.now())} | record, ensure_ascii=False)
        else:
            prefix = "" if self._priorities else f"{clock.to_text(clock.now())} "
            text = prefix + logfmt(record)
        if self._priorities:
            text = f"<{_PRIORITIES[str(record['level'])]}>{text}"
        return text + "\n"


def _loss(lines: int) -> dict[str, Field]:
    message = "nobody read the log for a while, and lines were lost"
    return {"level": "warning", "event": "log.lost", "message": message, "lines": lines}


class _Silent:
    """Progress that nobody sees here."""

    def advance(self, amount: int) -> None:
        """Count nothing."""

    def close(self) -> None:
        """End nothing."""


def is_journal(stream: TextIO | None) -> bool:
    """Tell whether a stream goes to journald: systemd.exec(5), JOURNAL_STREAM."""
    if stream is None:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def logfmt(fields: dict[str, Field]) -> str:
    """Write fields as `key=value`, quoted where a value would not read as one word."""
    return " ".join(f"{key}={_value(value)}" for key, value in fields.items())


def _value(value: Field) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            if value and value.isprintable() and not set(value) & set(' "='):
                return value
            return json.dumps(value, ensure_ascii=not value.isprintable())
        case _:
            return str(value)
