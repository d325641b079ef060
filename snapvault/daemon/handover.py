# SPDX-License-Identifier: Apache-2.0
"""What a daemon leaves in the history for other processes: what it goes by, and who can be told."""

import os
from collections.abc import Sequence
from contextlib import suppress

from snapvault.daemon.scheduler import Scheduler
from snapvault.daemon.telling import Telling
from snapvault.engine.status import watch
from snapvault.errors import SnapVaultError
from snapvault.model.notices import NotifierStanding
from snapvault.model.policy import Policy
from snapvault.model.status import Following, Watched
from snapvault.ports.history import History


class Handover:
    """Writes what has changed, and nothing else; a history that cannot be written is no failure."""

    def __init__(self, history: History, scheduler: Scheduler, telling: Telling) -> None:
        self._history = history
        self._scheduler = scheduler
        self._telling = telling
        self._left: tuple[object, Sequence[NotifierStanding] | None] = (None, None)

    def watched(self, policies: Sequence[Policy]) -> tuple[Watched, ...]:
        """Return the sources of policies as the scheduler has them. Safe from any thread."""
        return watch(
            policies,
            first_dues=self._scheduler.first_dues(),
            next_starts=self._scheduler.next_starts(),
            retries=self._scheduler.retries(),
        )

    def leave(self, policies: Sequence[Policy]) -> None:
        """Leave what we know now. Cheap if it is what was left last."""
        goes_by = (policies, self._scheduler.next_starts(), self._scheduler.retries())
        standings = self._telling.standings()
        try:
            if goes_by != self._left[0]:
                self._history.set_following(
                    Following(os.getpid(), is_round=False, sources=self.watched(policies))
                )
            if standings != self._left[1]:
                self._history.set_notifiers(standings)
        except SnapVaultError:
            return  # the scheduler tells of a history that cannot be written; it is tried again
        self._left = goes_by, standings

    def forget(self) -> None:
        """Leave everything again the next time: the history has lost it."""
        self._left = (None, None)

    def close(self, policies: Sequence[Policy], *, is_round: bool) -> None:
        """Leave what counts until the next round, or that nobody is at work any more."""
        following = Following(os.getpid(), is_round=True, sources=self.watched(policies))
        with suppress(SnapVaultError):
            self._history.set_notifiers(self._telling.standings())
            self._history.set_following(following if is_round else None)
