# SPDX-License-Identifier: Apache-2.0
"""The scheduler's hand on the history: what cannot be written now is written later."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

from snapvault.errors import SnapVaultError
from snapvault.model.drills import Verdict
from snapvault.model.objectives import Drilled
from snapvault.model.prunes import PruneSummary
from snapvault.model.runs import Alarm, Run, SourceKey
from snapvault.model.verifies import VerifySummary
from snapvault.ports.history import History

_T = TypeVar("_T")

_MOST_UNSAVED: Final = 10_000  # what a history that is never mended may take of memory
_RUNS_LOOKED_AT: Final = 30


@dataclass(frozen=True, slots=True)
class Memory:
    """What the history knew when the scheduler began; empty of what it could not tell."""

    handled: Mapping[SourceKey, datetime] = field(default_factory=dict)
    schedules: Mapping[SourceKey, str] = field(default_factory=dict)
    seen: Mapping[SourceKey, datetime] = field(default_factory=dict)
    alarms: Sequence[Alarm] = ()


class Ledger:
    """Writes a history, and never raises for one that cannot be used.

    From the first failure on, writes wait in memory, the last one for each thing, until `mend`
    succeeds. `error` is that failure; None: all is written.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._unsaved: dict[tuple[str, ...], Callable[[], object]] = {}
        self.error: SnapVaultError | None = None

    def load(self) -> Memory:
        """Return what is known."""
        return Memory(
            handled=self._read(self._history.handled, {}),
            schedules=self._read(self._history.schedules, {}),
            seen=self._read(self._history.seen, {}),
            alarms=self._read(self._history.alarms, []),
        )

    def recent(self, key: SourceKey) -> Sequence[Run]:
        """Return the last runs of a source, newest start first."""
        return self._read(lambda: self._history.runs(key, limit=_RUNS_LOOKED_AT), [])

    def running(self) -> Sequence[Run]:
        """Return the runs that are not known to have ended."""
        return self._read(lambda: self._history.runs(running=True), [])

    def get(self, run: Run) -> Run:
        """Return a run as it is known now; as given, if nothing is."""
        return self._read(lambda: self._history.get(run.id), None) or run

    def drilled(self, known: Mapping[SourceKey, Drilled]) -> Mapping[SourceKey, Drilled]:
        """Return what drills showed of each source; what is known, if the history cannot tell."""

        def read() -> Mapping[SourceKey, Drilled]:
            passed = self._history.last_drills(Verdict.PASSED)
            failed = self._history.last_drills(Verdict.FAILED)
            return {
                key: Drilled(passed.get(key), failed.get(key))
                for key in {*passed.keys(), *failed.keys()}
            }

        return self._read(read, known)

    def verifies(self) -> Sequence[VerifySummary] | None:
        """Return what counts of all verifies; None: the history cannot tell."""
        return self._read(self._history.verifies, None)

    def prunes(self) -> Sequence[PruneSummary] | None:
        """Return what counts of all prunes; None: the history cannot tell."""
        return self._read(self._history.prunes, None)

    def put(self, run: Run) -> None:
        """Remember a run."""
        self._write(("run", run.id), lambda: self._history.put(run))

    def set_handled(self, key: SourceKey, until: datetime) -> None:
        """Remember up to when a source's schedule was followed."""
        self._write(("handled", *key), lambda: self._history.set_handled(key, until))

    def set_schedule(self, key: SourceKey, schedule: str) -> None:
        """Remember by which schedule a source is followed; empty: by none."""
        self._write(("schedule", *key), lambda: self._history.set_schedule(key, schedule))

    def set_seen(self, key: SourceKey, at: datetime) -> None:
        """Remember when a source was first seen."""
        self._write(("seen", *key), lambda: self._history.set_seen(key, at))

    def raise_alarm(self, alarm: Alarm) -> None:
        """Remember that an alarm is up."""
        key = ("alarm", alarm.subject, alarm.kind, str(alarm.raised))
        self._write(key, lambda: self._history.raise_alarm(alarm))

    def clear_alarm(self, alarm: Alarm, at: datetime) -> None:
        """Remember that an alarm is over."""
        key = ("cleared", alarm.subject, alarm.kind, str(alarm.raised))
        self._write(key, lambda: self._history.clear_alarm(alarm.subject, alarm.kind, at))

    def mend(self) -> None:
        """Write what was not written; `error` says whether that went well."""
        self.error = None
        while self._unsaved and self.error is None:
            key = next(iter(self._unsaved))
            if self._attempt(self._unsaved[key]):
                del self._unsaved[key]

    def _write(self, key: tuple[str, ...], write: Callable[[], object]) -> None:
        # Later writes must not overtake earlier ones, so one that fails holds back all.
        if self.error is None and self._attempt(write):
            return
        self._unsaved.pop(key, None)
        self._unsaved[key] = write
        if len(self._unsaved) > _MOST_UNSAVED:
            del self._unsaved[next(iter(self._unsaved))]

    def _attempt(self, write: Callable[[], object]) -> bool:
        try:
            write()
        except SnapVaultError as error:
            self.error = error
            return False
        return True

    def _read(self, read: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return read()
        except SnapVaultError as error:
            self.error = self.error or error
            return otherwise
