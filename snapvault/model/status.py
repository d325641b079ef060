# SPDX-License-Identifier: Apache-2.0
"""The status of a host: what its page, its metrics and `snapvault status` show."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from snapvault.model.drills import DrillSummary
from snapvault.model.notices import NotifierStanding
from snapvault.model.policy import Objectives
from snapvault.model.prunes import PruneSummary
from snapvault.model.runs import Alarm, PointSummary, Progress, Run, SourceKey
from snapvault.model.usage import Usage
from snapvault.model.verifies import VerifySummary

if TYPE_CHECKING:
    # Histories name what is here, and backups have one: they judge nothing.
    from snapvault.model.copies import CopyStatus
    from snapvault.model.objectives import Verdict


@dataclass(frozen=True, slots=True)
class Watched:
    """A source as whoever follows its policy has it.

    `first_due` is the first start after it was first seen that its schedule asks for; None: no
    schedule. `next_start` and `retry_at` are as in `SourceStatus`.
    """

    key: SourceKey
    policy: str
    kinds: tuple[str, ...]
    enabled: bool
    objectives: Objectives
    first_due: datetime | None = None
    next_start: datetime | None = None
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Following:
    """What a scheduler goes by, left for other processes that look; `pid` is of its process.

    `is_round`: it ended after one round, and the next one goes on from there.
    """

    pid: int
    is_round: bool
    sources: tuple[Watched, ...]


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """One source. `points` are oldest first, and of the last `Status.days` only.

    `last` is the run that started last and is over; `success` the last that succeeded. `next_start`
    is when it is backed up next, None: by hand only, or the daemon is not asked. `drill` is the
    last drill, `good_drill` the last that passed.
    """

    key: SourceKey
    policy: str
    kinds: tuple[str, ...]
    enabled: bool
    rpo: timedelta | None
    verdict: "Verdict"
    newest: PointSummary | None
    points: tuple[PointSummary, ...]
    last: Run | None
    success: Run | None
    running: Run | None
    progress: Progress | None
    retry_at: datetime | None
    next_start: datetime | None
    alarms: tuple[Alarm, ...]
    rto: timedelta | None = None
    drill: DrillSummary | None = None
    good_drill: DrillSummary | None = None


@dataclass(frozen=True, slots=True)
class VaultStatus:
    """One vault: where it is, its points, and the bytes they added together.

    `requests` counts what runs, verifies, restores, drills and prunes ever asked of its store,
    `usage` the same in detail, by verb, as far as it was kept. `verifies` are the last of each
    level, `pruned_at` is when it was pruned last. `prune` is the last prune that this host
    remembers, however it ended; `copy` how it stands as a copy that policies ask for.
    """

    name: str
    store: str
    points: int
    stored: int
    problem: str | None
    requests: int = 0
    usage: Mapping[str, Usage] = field(default_factory=dict)
    verifies: tuple[VerifySummary, ...] = ()
    pruned_at: datetime | None = None
    prune: PruneSummary | None = None
    copy: "CopyStatus | None" = None


@dataclass(frozen=True, slots=True)
class Status:
    """All of a host. `sources` by policy and name; `failures` the last failed runs, newest first.

    `drills` are the last drills of any source, newest first. `alarms` are those that are up, newest
    first, those of sources included. `daemon_pid` None: no daemon is at work.
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
    drills: tuple[DrillSummary, ...] = ()
    notifiers: tuple[NotifierStanding, ...] = ()
