# SPDX-License-Identifier: Apache-2.0
"""Objectives: whether what is kept in the vaults is what the policies promise."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from snapvault.model.policy import Objectives
from snapvault.model.runs import PointSummary

RPO = "rpo"
NEVER = "never-backed-up"
SMALL = "suspiciously-small"
DRILL = "drill-overdue"
FUTURE = "dated-in-the-future"
FAILED = "failing"
MISSED = "missed"
POLICY = "broken-policy"
EMPTY = "policy-without-sources"
DAEMON = "daemon"

KINDS = (RPO, NEVER, SMALL, DRILL, FUTURE, FAILED, MISSED, POLICY, EMPTY, DAEMON)


class RpoState(StrEnum):
    """Whether the newest point is young enough; `NONE`: the policy names no RPO.

    `WAITING`: never backed up, and too new to blame anybody.
    """

    MET = "met"
    BREACHED = "breached"
    WAITING = "waiting"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Finding:
    """An alarm that should be up: its kind, one line, and what to do."""

    kind: str
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a source stands. `age` of the newest point, in seconds; None: there is none.

    `breach_at` is when the RPO is breached unless a newer point is made.
    """

    rpo: RpoState
    age: float | None
    breach_at: datetime | None
    findings: tuple[Finding, ...]


def judge(
    objectives: Objectives,
    points: tuple[PointSummary, ...],
    *,
    now: datetime,
    seen: datetime,
    first_due: datetime | None,
    last_drill: datetime | None,
) -> Verdict:
    """Judge a source by its committed restore points (oldest first), and nothing else.

    `seen` is when the source was first in a policy, `first_due` the first moment after it at which
    its schedule asks for a run (None: no schedule). One that has never been backed up is
    alarming once `first_due` and, with an RPO, `seen` plus the RPO have gone by.
    """
    raise NotImplementedError
