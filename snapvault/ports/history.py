# SPDX-License-Identifier: Apache-2.0
"""The history of a host: runs, drills, verifies, prunes, alarms, how far schedules were followed.

It can be lost: what was backed up is in the vaults. Then only what happened is forgotten.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from snapvault.model.drills import DrillSummary, Verdict
from snapvault.model.notices import NotifierStanding
from snapvault.model.prunes import PruneSummary
from snapvault.model.runs import Alarm, Progress, Run, SourceKey
from snapvault.model.status import Following
from snapvault.model.usage import Usage
from snapvault.model.verifies import VerifySummary


class History(Protocol):
    """Safe from several threads and processes; each call is atomic and durable.

    Every call raises StateError when the state folder cannot be used (full, read-only), and
    ConfigError when it is somebody else's; callers who must go on, do.
    """

    def put(self, run: Run) -> None:
        """Insert a run, or replace what is known of it by its id."""
        ...

    def get(self, run: str) -> Run | None:
        """Return the run of that id."""
        ...

    def of_point(self, point: str) -> Run | None:
        """Return the run that made a restore point."""
        ...

    def runs(
        self,
        key: SourceKey | None = None,
        *,
        since: datetime | None = None,
        running: bool = False,
        limit: int = 1000,
    ) -> list[Run]:
        """Return runs, newest start first: of one source, started since then, still running."""
        ...

    def latest(self) -> Mapping[SourceKey, Run]:
        """Return each source's run that started last; missed ones do not count."""
        ...

    def handled(self) -> Mapping[SourceKey, datetime]:
        """Return up to when each source's schedule was followed: run, or reported as missed."""
        ...

    def set_handled(self, key: SourceKey, until: datetime) -> None:
        """Remember up to when a source's schedule was followed."""
        ...

    def schedules(self) -> Mapping[SourceKey, str]:
        """Return by which schedule each source was followed, as `set_schedule` was told."""
        ...

    def set_schedule(self, key: SourceKey, schedule: str) -> None:
        """Remember by which schedule a source is followed; empty: by none."""
        ...

    def seen(self) -> Mapping[SourceKey, datetime]:
        """Return when each source was first seen in a policy."""
        ...

    def set_seen(self, key: SourceKey, at: datetime) -> None:
        """Remember when a source was first seen; an earlier moment that is known stays."""
        ...

    def alarms(self, *, up: bool = True, since: datetime | None = None) -> list[Alarm]:
        """Return alarms, newest first: those that are up, or all raised since then."""
        ...

    def raise_alarm(self, alarm: Alarm) -> bool:
        """Record an alarm; False (and only its text is replaced) if the same one is up."""
        ...

    def clear_alarm(self, subject: str, kind: str, at: datetime) -> Alarm | None:
        """End an alarm and return it; None if it was not up."""
        ...

    def add_drill(self, summary: DrillSummary) -> None:
        """Remember what a drill showed of a source. Safe to repeat.

        Of several for one source under one drill's id, the worst stays: failed, then skipped.
        """
        ...

    def drills(self, key: SourceKey | None = None, *, limit: int = 100) -> list[DrillSummary]:
        """Return drills, newest end first: of one source, or of all."""
        ...

    def last_drills(self, verdict: Verdict | None = None) -> Mapping[SourceKey, DrillSummary]:
        """Return each source's newest drill, or the newest that ended so; without one: left out."""
        ...

    def add_verify(self, summary: VerifySummary) -> None:
        """Remember a verify, and count its requests. Safe to repeat."""
        ...

    def verifies(self) -> list[VerifySummary]:
        """Return what counts of all verifies, newest first.

        That is of each vault, level and choice of sources the newest that found something, the
        newest that was clean, and the newest that was a clean sample.
        """
        ...

    def add_prune(self, summary: PruneSummary) -> None:
        """Remember a prune. Safe to repeat."""
        ...

    def prunes(self) -> list[PruneSummary]:
        """Return of each vault the newest prune of each way to end, newest first."""
        ...

    def count_usage(self, vault: str, verb: str, usage: Usage, at: datetime) -> None:
        """Count what something else than a run or a verify asked of a vault's store then."""
        ...

    def usage(self, since: datetime | None = None) -> Mapping[str, Mapping[str, Usage]]:
        """Return what was asked of each vault's store, by verb: from that day on, or ever.

        Runs count as `backup`, verifies as `verify`; what was asked before this was kept in such
        detail is left out. A day is one of UTC.
        """
        ...

    def requests(self) -> Mapping[str, int]:
        """Return what was ever asked of each vault's store, by what is forgotten too."""
        ...

    def set_notifiers(self, standings: Sequence[NotifierStanding]) -> None:
        """Remember how the notifiers stand, in place of what was known."""
        ...

    def notifiers(self) -> list[NotifierStanding]:
        """Return how the notifiers stood, as `set_notifiers` was told."""
        ...

    def set_following(self, following: Following | None) -> None:
        """Leave what a scheduler goes by for other processes; None: it goes by nothing more."""
        ...

    def following(self) -> Following | None:
        """Return what a scheduler left; it may be dead."""
        ...

    def started_by(self, share: float, *, at_least: int) -> datetime | None:
        """Return when the first run started that is not among the oldest; None: there is none.

        The oldest are this share of all runs, and at least so many.
        """
        ...

    def expired(self) -> datetime | None:
        """Return when `expire` was called last, by its own `now`."""
        ...

    def expire(self, before: datetime, *, now: datetime) -> int:
        """Forget runs, drills, verifies, prunes and alarms that ended before then, and runs' logs.

        The newest successful run of each source stays, its newest drill of each verdict, and what
        `verifies` and `prunes` return.

        Returns:
            How many runs are forgotten.
        """
        ...

    def close(self) -> None:
        """Close it; no call may follow."""
        ...


class RunLog(Protocol):
    """Where one run writes what happens, for whoever looks at it from outside."""

    def write(self, event: Mapping[str, object]) -> None:
        """Add an event, a flat mapping of names to texts, numbers, booleans and None."""
        ...

    def progress(self, progress: Progress) -> None:
        """Replace what is shown as this run's progress; may be left out when called too often."""
        ...

    def close(self) -> None:
        """No more will come; the progress is gone, the log stays."""
        ...


class RunLogs(Protocol):
    """The logs of the runs, by id. Nothing here raises for a disk that is full: logs are let go."""

    def open(self, run: str) -> RunLog:
        """Start the log of a run."""
        ...

    def path(self, run: str) -> str | None:
        """Return where the log of a run is, as a path; None if there is none."""
        ...

    def read(self, run: str) -> Sequence[Mapping[str, object]]:
        """Return the events of a run, oldest first; lines that are damaged are left out."""
        ...

    def progress(self, run: str) -> Progress | None:
        """Return what a run is doing."""
        ...
