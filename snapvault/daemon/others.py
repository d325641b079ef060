# SPDX-License-Identifier: Apache-2.0
"""Runs that are not the scheduler's own: a person's, or those of a scheduler before it."""

from collections.abc import Callable, Container
from datetime import datetime

from snapvault.daemon.ledger import Ledger
from snapvault.daemon.resuming import ending
from snapvault.daemon.shelf import Shelf
from snapvault.model.runs import Run, RunState, SourceKey


class Others:
    """Those at work hold their sources; `key in others` tells."""

    def __init__(self, ledger: Ledger, shelf: Shelf, alive: Callable[[Run], bool]) -> None:
        self._ledger = ledger
        self._shelf = shelf
        self._alive = alive
        self._at_work: dict[SourceKey, Run] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._at_work

    def find(self, own: Container[str], now: datetime) -> list[Run]:
        """Look for them in the history; return those whose process is gone, as they ended."""
        gone = []
        for run in self._ledger.running():
            if run.id in own:
                continue
            if self._alive(run):
                self._at_work[run.key] = run
            else:
                gone.append(ending(run, self._shelf.of(run.key), now))
        return gone

    def look(self, vaults: set[str], now: datetime) -> list[Run]:
        """Return those that have ended since the last look. Only these vaults can be read."""
        over = []
        for key, known in list(self._at_work.items()):
            run = self._ledger.get(known)
            if run.state is RunState.RUNNING:
                if self._alive(run):
                    continue
                self._shelf.read({key.vault} & vaults, now)
                run = ending(run, self._shelf.of(key), now)
            del self._at_work[key]
            over.append(run)
        return over
