# SPDX-License-Identifier: Apache-2.0
"""Limits of what runs take: bytes per second, of one run, and of all runs of a host together.

Nobody hands the limit of a host out. Who wants to send or to read books a stretch of time on one
timeline, behind whoever came before, and waits until it begins. The timeline is a number in a
file, so runs of the daemon and those started by hand share the limit without knowing each other.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import time
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from snapvault import clock
from snapvault.adapters.ending import Ending
from snapvault.adapters.shared_timeline import SharedTimeline
from snapvault.adapters.timeline import OwnTimeline
from snapvault.model.policy import Limits, Window
from snapvault.model.settings import HostLimits
from snapvault.ports.events import Events
from snapvault.ports.throttle import Throttle

PIECE: Final = 1 << 18
"""Bytes that pass at once where there is a limit, at the most."""

_LEAST: Final = 1 << 10  # bytes; a rate is at least 1 kB/s
_SECONDS: Final = 0.25  # that a piece takes at the most: so soon another rate counts

Rate = Callable[[], int | None]
"""Bytes per second as they are now; None: any number."""


class Timeline(Protocol):
    """Time that is given away, once, in the order of asking."""

    def book(self, seconds: float) -> float:
        """Book a stretch behind all that is booked; return when it begins, on `clock.monotonic`."""
        ...


@dataclass(frozen=True, slots=True)
class Limit:
    """A rate that may change, and the timeline of those who share it."""

    rate: Rate
    timeline: Timeline


class Flow:
    """Lets bytes pass as fast as all of its limits allow; `Throttle` of the port.

    One thread waits at a time, the others behind it: however many a run has, among the runs of a
    host it counts once.
    """

    def __init__(self, ending: Ending, limits: Sequence[Limit] = ()) -> None:
        self._ending = ending
        self._limits = tuple(limits)
        self._own: Limit | None = None
        self._turn = threading.Lock()

    def take(self, wanted: int) -> int:
        """Wait until bytes may pass, and return how many."""
        self._ending.check()
        if not self._limits and self._own is None:
            return wanted
        with self._turn:
            # The run's own comes first: what it has to wait for there leaves the host to others.
            limits = [self._own, *self._limits] if self._own else self._limits
            rates = [(each.timeline, rate) for each in limits if (rate := each.rate()) is not None]
            amount = min([wanted, PIECE, *(max(_LEAST, int(rate * _SECONDS)) for _, rate in rates)])
            for timeline, rate in rates:
                self._ending.sleep(timeline.book(amount / rate) - clock.monotonic())
        return amount

    @contextmanager
    def at_most(self, rate: int | None) -> Iterator[None]:
        """Limit what passes in this context further: to so many bytes per second."""
        self._own = None if rate is None else Limit(lambda: rate, OwnTimeline())
        try:
            yield
        finally:
            self._own = None


def unlimited() -> Flow:
    """Return what lets everything pass at once."""
    return Flow(Ending())


def take_all(throttle: Throttle, amount: int) -> None:
    """Wait until so many bytes have passed."""
    while amount > 0:
        amount -= throttle.take(amount)


class Traffic:
    """What one process may send to stores and read from sources: as its host, and its run, may."""

    def __init__(self, limits: HostLimits, folder: Path, ending: Ending, events: Events) -> None:
        """`folder` is where the processes of this host meet."""
        self.ending = ending
        self._each = limits.each
        self._shared: list[SharedTimeline] = []

        def flow(name: str, rate: Rate, *, is_limited: bool) -> Flow:
            if not is_limited:
                return Flow(ending)
            self._shared.append(SharedTimeline(folder / name, events))
            return Flow(ending, [Limit(rate, self._shared[-1])])

        self.upload = flow(
            "upload",
            partial(_upload_now, limits),
            is_limited=limits.upload is not None or bool(limits.uploads),
        )
        self.read = flow("read", lambda: limits.read, is_limited=limits.read is not None)

    @contextmanager
    def of_run(self, own: Limits) -> Iterator[None]:
        """Keep to the limits of a run too, in this context."""
        upload = own.upload if own.upload is not None else self._each.upload
        read = own.read if own.read is not None else self._each.read
        with self.upload.at_most(upload), self.read.at_most(read):
            yield

    def close(self) -> None:
        """Let go of what is shared; safe to repeat."""
        for timeline in self._shared:
            timeline.close()


def upload_rate(limits: HostLimits, at: time) -> int | None:
    """Return a host's limit for uploads at a time of its day."""
    for span in limits.uploads:
        if _holds(span.window, at):
            return span.upload
    return limits.upload


def _upload_now(limits: HostLimits) -> int | None:
    if not limits.uploads:
        return limits.upload
    return upload_rate(limits, clock.now().astimezone().time())


def _holds(window: Window, at: time) -> bool:
    if window.start < window.end:
        return window.start <= at < window.end
    return at >= window.start or at < window.end
