# SPDX-License-Identifier: Apache-2.0
"""The logs of runs as files: one JSON object a line, and beside it what the run is doing.

`<YYYY-MM>/<run id>.jsonl` and `<YYYY-MM>/<run id>.progress`; the month is in the id.
"""

import json
import os
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from snapvault import clock
from snapvault.model.runs import Progress

# The month, and nothing that could lead out of the folder.
_ID: Final = re.compile(r"([0-9]{4})(0[1-9]|1[0-2])[0-9]{2}T[0-9]{6}Z-[0-9A-Za-z-]{1,64}")
_MONTH: Final = re.compile(r"[0-9]{4}-[0-9]{2}")
_LOG: Final = ".jsonl"
_PROGRESS: Final = ".progress"
_PROGRESS_EVERY: Final = 1.0  # seconds
# LIMIT: bytes of one log. A night's log has kilobytes; this keeps a loop from filling the disk.
_LOG_BYTES: Final = 64 << 20


class FolderRunLogs:
    """Logs below a folder, which is made with the first of them. Private to its user."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, run: str) -> "FileRunLog":
        """Start the log of a run, or go on with it.

        Raises:
            ValueError: that is not the id of a run.
        """
        path = self._place(run)
        if path is None:
            raise ValueError(f"not the id of a run: {run!r}")
        return FileRunLog(path, run)

    def path(self, run: str) -> str | None:
        """Return where the log of a run is; None if there is none."""
        path = self._place(run)
        log = path and path.with_name(run + _LOG)
        return str(log) if log is not None and log.is_file() else None

    def read(self, run: str) -> Sequence[Mapping[str, object]]:
        """Return the events of a run, oldest first."""
        path = self.path(run)
        if path is None:
            return ()
        try:
            lines = Path(path).read_bytes().splitlines()
        except OSError:
            return ()
        return [event for line in lines if (event := _object(line)) is not None]

    def progress(self, run: str) -> Progress | None:
        """Return what a run is doing."""
        path = self._place(run)
        if path is None:
            return None
        try:
            found = _object(path.with_name(run + _PROGRESS).read_bytes()) or {}
            label, done, total = str(found["label"]), found["done"], found["total"]
            at = clock.from_text(str(found["at"]))
        except (OSError, ValueError, KeyError):
            return None
        if not isinstance(done, int) or not (total is None or isinstance(total, int)):
            return None
        return Progress(run, label, done, total, at)

    def expire(self, before: datetime) -> int:
        """Remove the logs of runs that started before then; return how many."""
        oldest = clock.to_name(before)
        count = 0
        for month in _listed(self._folder):
            if not _MONTH.fullmatch(month.name) or month.name.replace("-", "") > oldest[:6]:
                continue
            for path in _listed(month):
                if path.name[: len(oldest)] < oldest:
                    with suppress(OSError):
                        path.unlink()
                        count += path.suffix == _LOG
            with suppress(OSError):  # it is not empty
                month.rmdir()
        return count

    def _place(self, run: str) -> Path | None:
        """Return where a run's files are, without their endings; None for what is no id."""
        match = _ID.fullmatch(run)
        return self._folder / f"{match[1]}-{match[2]}" / run if match else None


class FileRunLog:
    """The log of one run. Safe from several threads; what the disk refuses is let go."""

    def __init__(self, path: Path, run: str) -> None:
        self._log = path.with_name(run + _LOG)
        self._progress = path.with_name(run + _PROGRESS)
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._closed = False
        self._is_torn = False
        self._progress_at: float | None = None
        self._written = 0

    def write(self, event: Mapping[str, object]) -> None:
        """Add an event."""
        line = json.dumps(event, ensure_ascii=False, default=str).encode(errors="replace") + b"\n"
        with self._lock, suppress(OSError):
            if self._closed or self._written > _LOG_BYTES:
                return
            if self._descriptor is None:
                self._descriptor = _open_private(self._log, os.O_APPEND)
            # A line that a full disk cut off must not swallow the next.
            data = b"\n" + line if self._is_torn else line
            self._is_torn = True
            self._is_torn = os.write(self._descriptor, data) != len(data)
            self._written += len(data)

    def progress(self, progress: Progress) -> None:
        """Replace what is shown, at most once a second."""
        with self._lock, suppress(OSError):
            now = clock.monotonic()
            is_early = self._progress_at is not None and now - self._progress_at < _PROGRESS_EVERY
            if self._closed or is_early:
                return
            self._progress_at = now
            document = {
                "label": progress.label,
                "done": progress.done,
                "total": progress.total,
                "at": clock.to_text(progress.at),
            }
            new = self._progress.with_name(self._progress.name + ".new")
            descriptor = _open_private(new, os.O_TRUNC)
            try:
                os.write(descriptor, json.dumps(document).encode())
            finally:
                os.close(descriptor)
            new.replace(self._progress)

    def close(self) -> None:
        """Close the log, and take the progress away. Safe to repeat."""
        with self._lock:
            self._closed = True
            descriptor, self._descriptor = self._descriptor, None
            with suppress(OSError):
                if descriptor is not None:
                    os.close(descriptor)
            for path in (self._progress, self._progress.with_name(self._progress.name + ".new")):
                with suppress(OSError):
                    path.unlink(missing_ok=True)


def _open_private(path: Path, how: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | how
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        for folder in (path.parent.parent, path.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, flags, 0o600)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _object(line: bytes) -> dict[str, object] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
