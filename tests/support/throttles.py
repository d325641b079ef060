# SPDX-License-Identifier: Apache-2.0
"""Throttles that let everything pass and remember it, and a clock to try real ones by."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Self

import pytest

from snapvault import clock
from snapvault.ports.throttle import GivenUp


class RecordedThrottle:
    """Lets `piece` bytes pass at once, `limit` in all; then the process is asked to end."""

    def __init__(self, *, piece: int = 1 << 18, limit: int | None = None) -> None:
        self.taken: list[int] = []
        self.noted: list[object] = []
        self.on_take: Callable[[], object] = lambda: None
        self._piece = piece
        self._limit = limit

    @property
    def total(self) -> int:
        """Bytes that passed so far."""
        return sum(self.taken)

    def take(self, wanted: int) -> int:
        """Let bytes pass."""
        assert wanted > 0
        if self._limit is not None and self.total >= self._limit:
            raise GivenUp
        self.noted.append(self.on_take())
        self.taken.append(min(wanted, self._piece))
        return self.taken[-1]


class Time:
    """A clock that moves by sleeping alone."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.begun = datetime(2026, 11, 20, 7, 59, 50, tzinfo=UTC).astimezone()
        self.on_sleep: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return self.begun + timedelta(seconds=self.seconds - 1000)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.on_sleep()

    @property
    def passed(self) -> float:
        return self.seconds - 1000

    @classmethod
    def instead_of_ours(cls, monkeypatch: pytest.MonkeyPatch) -> Self:
        """Return one that everybody reads and sleeps by."""
        made = cls()
        for name in ("monotonic", "now", "sleep"):
            monkeypatch.setattr(clock, name, getattr(made, name))
        return made
