# SPDX-License-Identifier: Apache-2.0
"""Where the time of a drill's step goes: every moment belongs to one phase.

While a restore fetches, decrypts and writes side by side, the time that passes is shared among
these in proportion to the seconds that each was at work, summed over all threads.
"""

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from snapvault import clock
from snapvault.model.drills import Phase


def _tell_nobody(phase: Phase) -> None:
    del phase


class PhaseClock:
    """The phases of one step, from now on. For one thread; `Meters` take what others do.

    `told` is called whenever a phase begins that is not `REST`.
    """

    def __init__(self, told: Callable[[Phase], None] = _tell_nobody) -> None:
        self._told = told
        self._seconds: dict[Phase, float] = defaultdict(float)
        self._phase = self._last = Phase.REST
        self._begun = self._turned = clock.monotonic()

    @property
    def last(self) -> Phase:
        """The phase that time goes to now, or went to last; cleaning up does not count."""
        return self._last

    @property
    def elapsed(self) -> float:
        """Seconds since the step began."""
        return clock.monotonic() - self._begun

    @contextmanager
    def at(self, phase: Phase) -> Iterator[None]:
        """Let the time in this context go to a phase, but for what an inner one takes."""
        outer = self._phase
        self._turn(phase)
        try:
            yield
        finally:
            self._turn(outer)

    @contextmanager
    def restoring(self, meters: "Meters") -> Iterator[None]:
        """Share the time of a restore among what its meters measured.

        From the last byte written to the first commit everything is proven, and nothing else.
        """
        outer = self._phase
        self._turn(Phase.FETCH)
        begun, work = self._turned, meters.work()
        try:
            yield
        finally:
            ended = clock.monotonic()
            after = meters.work()
            done = {phase: after[phase] - work[phase] for phase in after}
            written, proven = meters.written_at, meters.proven_at
            if proven is None:
                self._share(ended - begun, done)
            else:
                last = begun if written is None else max(begun, written)
                self._share(last - begun, done)
                self._seconds[Phase.VERIFY] += proven - last
                self._seconds[Phase.WRITE] += ended - proven
            self._phase, self._turned = outer, ended

    def phases(self) -> Mapping[Phase, float]:
        """Return the seconds of every phase that took some, in the phases' order, up to now."""
        self._turn(self._phase)
        return {phase: self._seconds[phase] for phase in Phase if self._seconds[phase] > 0}

    def _turn(self, phase: Phase) -> None:
        now = clock.monotonic()
        self._seconds[self._phase] += now - self._turned
        if phase is not self._phase and phase is not Phase.REST:
            self._told(phase)
        if phase not in (Phase.REST, Phase.CLEAN_UP):
            self._last = phase
        self._phase, self._turned = phase, now

    def _share(self, seconds: float, done: Mapping[Phase, float]) -> None:
        whole = math.fsum(done.values())
        if whole <= 0:
            self._seconds[Phase.REST] += seconds
            return
        for phase, worked in done.items():
            self._seconds[phase] += seconds * worked / whole


class Meters:
    """Seconds that the stages of a restore were at work; safe from all its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._work = dict.fromkeys((Phase.FETCH, Phase.DECRYPT, Phase.WRITE), 0.0)
        self._counters: dict[str, int] = defaultdict(int)
        self.written_at: float | None = None
        self.proven_at: float | None = None

    def work(self) -> dict[Phase, float]:
        """Return the seconds of each stage so far."""
        with self._lock:
            return dict(self._work)

    def counters(self) -> dict[str, int]:
        """Return what was counted so far; whole numbers with their unit in the name."""
        with self._lock:
            return dict(self._counters)

    def count(self, name: str, amount: int) -> None:
        """Add to a counter."""
        with self._lock:
            self._counters[name] += amount

    def add(self, phase: Phase, seconds: float) -> None:
        """Add to what a stage worked."""
        with self._lock:
            self._work[phase] += max(0.0, seconds)

    @contextmanager
    def measure(self, phase: Phase) -> Iterator[None]:
        """Add the time in this context to what a stage worked."""
        begun = clock.monotonic()
        try:
            yield
        finally:
            self.add(phase, clock.monotonic() - begun)

    def begin_restore(self) -> None:
        """Forget when things were written and proven: another restore begins."""
        self.written_at = self.proven_at = None
