# SPDX-License-Identifier: Apache-2.0
"""Sources during whose reading something happens."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from snapvault.ports.source import (
    NO_MARKS,
    ByteStream,
    DiskStream,
    Finding,
    Outcome,
    Source,
    View,
)
from snapvault.ports.store import Readable


class InterruptedSource:
    """A source of byte streams; `action` runs once, after the first bytes of a stream were read.

    `outcome` is what the last view said of itself.
    """

    def __init__(self, inner: Source, action: Callable[[], object] = lambda: None) -> None:
        self._inner = inner
        self._action = action
        self.outcome: Outcome | None = None

    @property
    def name(self) -> str:
        return self._inner.name

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> "_View":
        return _View(self, self._inner.open(marks), self._action)

    def check(self) -> Iterator[Finding]:
        return self._inner.check()


class _View:
    def __init__(
        self, source: InterruptedSource, inner: View, action: Callable[[], object]
    ) -> None:
        self._source = source
        self._inner = inner
        self._action = action

    @property
    def taken_at(self) -> datetime:
        return self._inner.taken_at

    @property
    def streams(self) -> tuple[DiskStream | ByteStream, ...]:
        first, *others = self._inner.streams
        assert not isinstance(first, DiskStream)
        return (_Stream(first, self._action), *others)

    def finish(self) -> Outcome:
        self._source.outcome = self._inner.finish()
        return self._source.outcome

    def committed(self, point: str) -> None:
        self._inner.committed(point)

    def close(self) -> None:
        self._inner.close()


class _Stream:
    def __init__(self, inner: ByteStream, action: Callable[[], object]) -> None:
        self._inner = inner
        self._action = action

    @property
    def name(self) -> str:
        return self._inner.name

    @contextmanager
    def open(self) -> Iterator[Readable]:
        with self._inner.open() as readable:
            yield _Reader(readable, self._action)


class _Reader:
    def __init__(self, inner: Readable, action: Callable[[], object]) -> None:
        self._inner = inner
        self._action: Callable[[], object] | None = action

    def read(self, size: int, /) -> bytes:
        data = self._inner.read(min(size, 4096) if self._action else size)
        if self._action is not None:
            action, self._action = self._action, None
            action()
        return data


def kill_child(name: str) -> None:
    """Kill the one process of this name that this process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = stat.read_text(errors="replace").rpartition(")")
        except OSError:  # it has ended since
            continue
        if before.partition("(")[2] == name[:15] and int(after.split()[1]) == os.getpid():
            found.append(int(stat.parent.name))
    (pid,) = found
    os.kill(pid, signal.SIGKILL)
