# SPDX-License-Identifier: Apache-2.0
"""The timeline of one process, and how any of them is booked."""

import threading
from typing import Final

from snapvault import clock

_CREDIT: Final = 0.25  # seconds that went by unused, and may be made up for
_FARTHEST: Final = 60.0  # seconds ahead; nobody books so far


def start_of(free_from: float, now: float) -> float:
    """Return when the next stretch begins on a timeline that is free from some moment on.

    A moment that cannot be is nobody's booking, but damage.
    """
    if not now - _CREDIT <= free_from <= now + _FARTHEST:
        return now - _CREDIT
    return free_from


class OwnTimeline:
    """The timeline of one process. Safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free_from = 0.0

    def book(self, seconds: float) -> float:
        """Book a stretch behind all that is booked; return when it begins."""
        with self._lock:
            start = start_of(self._free_from, clock.monotonic())
            self._free_from = start + seconds
            return start
