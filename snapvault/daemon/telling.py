# SPDX-License-Identifier: Apache-2.0
"""Telling: notices wait in queues of their own until each notifier has delivered them.

Nothing here ever holds up who has something to tell: a queue that is full loses its oldest.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from snapvault import clock
from snapvault.daemon.teller import Teller
from snapvault.model.notices import Notice, NotifierStanding
from snapvault.ports.events import Events
from snapvault.ports.notifier import Notifier

# Seconds before each further attempt: ten minutes without a network lose nothing.
PAUSES: Final = (5.0, 30.0, 120.0, 600.0)
QUEUE_LENGTH: Final = 500


class Telling:
    """Hands notices to notifiers, each with a thread of its own. Safe from several threads."""

    def __init__(
        self,
        notifiers: Mapping[str, Notifier],
        log: Events,
        *,
        unusable: Mapping[str, str] | None = None,
        known: Sequence[NotifierStanding] = (),
        pauses: Sequence[float] = PAUSES,
        queue_length: int = QUEUE_LENGTH,
    ) -> None:
        """Begin with these notifiers; `known` is how they stood before, `unusable` as `replace`."""
        self._log = log
        self._pauses = tuple(pauses)
        self._queue_length = queue_length
        self._known = {each.name: _begun(each) for each in known}
        self._lock = threading.Lock()
        self._is_closed = False
        self._leaving: list[Teller] = []
        self._tellers: dict[str, Teller] = {}
        self._unusable: dict[str, tuple[str, datetime]] = {}
        self.replace(notifiers, unusable)

    def tell(self, notice: Notice, names: Sequence[str] | None = None) -> None:
        """Have a notice delivered to those of these notifiers that want it; None: to all.

        Returns at once and never raises.
        """
        with self._lock:
            tellers = () if self._is_closed else tuple(self._tellers.items())
            wanted = [teller for name, teller in tellers if names is None or name in names]
        for teller in wanted:
            teller.add(notice)

    def replace(
        self, notifiers: Mapping[str, Notifier], unusable: Mapping[str, str] | None = None
    ) -> None:
        """Go on with other notifiers. What waits for one of the same name is delivered by it.

        What waits for one that is gone is tried once more by the old one. `unusable` are those
        that cannot tell anybody at all, with the reason in a line.
        """
        now = clock.now()
        with self._lock:
            before, self._tellers = self._tellers, {}
            for name, notifier in notifiers.items():
                teller = before.pop(name, None)
                if teller is None:
                    standing = self._known.get(name, NotifierStanding(name))
                    teller = Teller(notifier, self._log, self._pauses, self._queue_length, standing)
                else:
                    teller.exchange(notifier)
                self._tellers[name] = teller
            self._unusable = {name: (why, now) for name, why in (unusable or {}).items()}
            self._leaving = [teller for teller in self._leaving if teller.is_busy]
            self._leaving += before.values()
        for teller in before.values():
            teller.leave()

    def standings(self) -> list[NotifierStanding]:
        """Return how each notifier fares, by name."""
        with self._lock:
            tellers = list(self._tellers.values())
            unusable = dict(self._unusable)
        found = [teller.standing() for teller in tellers]
        for name, (problem, at) in unusable.items():
            standing = self._known.get(name, NotifierStanding(name))
            found.append(replace(standing, is_up=False, failed_at=at, problem=problem))
        return sorted(found, key=lambda each: each.name)

    def close(self, seconds: float) -> int:
        """Try each notice that still waits once more, within this time; safe to repeat.

        Returns:
            How many were not delivered for lack of time; they are logged.
        """
        ends = clock.monotonic() + seconds
        with self._lock:
            self._is_closed = True
            tellers = [*self._leaving, *self._tellers.values()]
        for teller in tellers:
            teller.leave()
        return sum(teller.stop(max(0.0, ends - clock.monotonic())) for teller in tellers)


def _begun(known: NotifierStanding) -> NotifierStanding:
    """Return how a notifier stood in an earlier process, with nothing counted in this one."""
    return replace(known, delivered=0, failures=0, lost=0, dropped=0, waiting=0)
