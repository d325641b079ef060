# SPDX-License-Identifier: Apache-2.0
"""Runs: attempts to make a restore point of a source, and what is remembered of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple


class SourceKey(NamedTuple):
    """What is unique about a source on one host: its vault's name and its own."""

    vault: str
    source: str

    def __str__(self) -> str:
        """Return `vault/source`."""
        return f"{self.vault}/{self.source}"


class RunState(StrEnum):
    """Where a run stands. `MISSED` never started; `INTERRUPTED` ended without saying how."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    MISSED = "missed"


class Trigger(StrEnum):
    """Why a run was started."""

    SCHEDULE = "schedule"
    CATCH_UP = "catch-up"
    RETRY = "retry"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run failed, as told to people: one line, a hint, and whether trying again can help."""

    message: str
    hint: str | None
    exit_status: int
    retryable: bool


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt. Times are UTC.

    `due` is the moment the schedule asked for it, the same for all attempts at it; None: asked for
    by hand. `attempt` counts from 1. Of a missed one, `missed` is how many moments in a row
    nothing ran at, `due` the last of them, `started` and `ended` are when that was noticed, and
    `reason` is why, one line.
    `point` is the restore point made, `taken_at` its time, `size` its bytes. Counters are the
    point's: whole numbers with their unit in the name. `pid` is of the process at work, `born` when
    the kernel started it, in ticks since the host's start: numbers of processes are used again.
    `stopped`: it was ended along with the daemon, so it was no attempt.
    """

    id: str
    key: SourceKey
    policy: str
    state: RunState
    trigger: Trigger
    started: datetime
    due: datetime | None = None
    ended: datetime | None = None
    attempt: int = 1
    missed: int = 0
    reason: str | None = None
    pid: int | None = None
    born: int | None = None
    stopped: bool = False
    point: str | None = None
    taken_at: datetime | None = None
    size: int | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    failure: Failure | None = None

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it runs."""
        return (self.ended - self.started).total_seconds() if self.ended else None


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run is doing: the step's label, bytes done, and of how many if anybody knows."""

    run: str
    label: str
    done: int
    total: int | None
    at: datetime


@dataclass(frozen=True, slots=True)
class PointSummary:
    """What a status shows of one restore point; `stored` is what it added, in bytes."""

    key: SourceKey
    point: str
    taken_at: datetime
    size: int
    stored: int
    consistency: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something an operator must know of, until it is over.

    `subject` is what it is about (a source's key, a policy's name, `daemon`), `kind` one of
    `model.objectives.KINDS`; both together are unique among the alarms that are up. `message`
    is one line, `cleared` None while it is up.
    """

    subject: str
    kind: str
    message: str
    hint: str | None
    raised: datetime
    cleared: datetime | None = None
