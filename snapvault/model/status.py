# SPDX-License-Identifier: Apache-2.0
"""The status of a host: what its page, its metrics and `snapvault status` show."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from snapvault.model.objectives import Verdict
from snapvault.model.runs import Alarm, PointSummary, Progress, Run, SourceKey


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """One source. `points` are oldest first, and of the last `Status.days` only.

    `last` is the run that started last and is over; `success` the last that succeeded. `next_start`
    is when it is backed up next, None: by hand only, or the daemon is not asked.
    """

    key: SourceKey
    policy: str
    kinds: tuple[str, ...]
    enabled: bool
    rpo: timedelta | None
    verdict: Verdict
    newest: PointSummary | None
    points: tuple[PointSummary, ...]
    last: Run | None
    success: Run | None
    running: Run | None
    progress: Progress | None
    retry_at: datetime | None
    next_start: datetime | None
    alarms: tuple[Alarm, ...]


@dataclass(frozen=True, slots=True)
class VaultStatus:
    """One vault: where it is, its points, and the bytes they added together."""

    name: str
    store: str
    points: int
    stored: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class Status:
    """All of a host. `sources` by policy and name; `failures` the last failed runs, newest first.

    `alarms` are those that are up, newest first, those of sources included. `daemon_pid` None: no
    daemon is at work.
    """

    at: datetime
    host: str
    version: str
    days: int
    daemon_pid: int | None
    daemon_since: datetime | None
    sources: tuple[SourceStatus, ...]
    vaults: tuple[VaultStatus, ...]
    runs: tuple[Run, ...]
    failures: tuple[Run, ...]
    alarms: tuple[Alarm, ...]
    problems: tuple[str, ...]
