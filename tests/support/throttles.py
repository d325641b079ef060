# SPDX-License-Identifier: Apache-2.0
"""Throttles that let everything pass, and remember it."""

from collections.abc import Callable

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
