# SPDX-License-Identifier: Apache-2.0
"""Drills: what came out of a rehearsal."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from snapvault.model.runs import SourceKey
from snapvault.units import format_duration


class Verdict(StrEnum):
    """How something ended. `SKIPPED` is not passed."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class Phase(StrEnum):
    """Where the time of a drill goes, in order.

    `LOAD` is of databases, `BOOT` until the system shows a sign of life, `READY` until its checks
    are over. What works side by side shares the time that passed in proportion to its work,
    so that all phases add up to the whole. `REST` is what belongs to none.
    """

    LOCATE = "locate"
    FETCH = "fetch"
    DECRYPT = "decrypt"
    WRITE = "write"
    VERIFY = "verify"
    LOAD = "load"
    BOOT = "boot"
    READY = "ready"
    CLEAN_UP = "clean-up"
    REST = "rest"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: what was asked, how it ended, in how many seconds, and why (one line)."""

    name: str
    verdict: Verdict
    reason: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """One of three separate facts of a step: restored, validated, cleaned up."""

    verdict: Verdict
    reason: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class StepReport:
    """What came of one step. Times are UTC, durations in seconds.

    `point` and `taken_at` are None if none was found. `seconds_to_ready` is the measured recovery
    time: from the step's start until its last check passed; None: never. `age` is the measured
    recovery point: from `taken_at` to the drill's start. `rto` and `rpo` are the policy's at that
    time; `rpo` is None where an older point was rehearsed than the newest. `hits` are other restore
    points of the source that need an object found damaged. `commands` repeat the step by hand.
    `console` is the end of the serial console, `screenshot` a PNG.
    """

    key: SourceKey
    kind: str
    point: str | None
    taken_at: datetime | None
    size: int | None
    started: datetime
    seconds: float
    phases: Mapping[Phase, float]
    restored: Result
    validated: Result
    cleaned: Result
    checks: tuple[CheckResult, ...] = ()
    seconds_to_ready: float | None = None
    age: float | None = None
    rto: float | None = None
    rpo: float | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    hits: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    console: str = ""
    screenshot: bytes | None = None

    @property
    def findings(self) -> tuple[str, ...]:
        """What took longer, or is older, than the policy's objectives allow; a line each."""
        measured = (
            ("recovery time", self.seconds_to_ready, "RTO", self.rto),
            ("recovery point", self.age, "RPO", self.rpo),
        )
        return tuple(
            f"the {what} of {format_duration(value)} exceeds the {name} of {format_duration(limit)}"
            for what, value, name, limit in measured
            if value is not None and limit is not None and value > limit
        )

    @property
    def verdict(self) -> Verdict:
        """Passed only if it was restored and validated; clean-up is a fact of its own."""
        verdicts = {self.restored.verdict, self.validated.verdict}
        if Verdict.FAILED in verdicts:
            return Verdict.FAILED
        return Verdict.SKIPPED if Verdict.SKIPPED in verdicts else Verdict.PASSED


@dataclass(frozen=True, slots=True)
class DrillReport:
    """One drill of one policy. `seed` decided what chance did: a random point, and samples.

    `trigger` is `schedule` or `manual`; `problem` says why it ended before its steps did.
    """

    id: str
    policy: str
    vault: str
    host: str
    version: str
    trigger: str
    started: datetime
    ended: datetime
    choice: str
    seed: int | None
    steps: tuple[StepReport, ...]
    problem: str | None = None

    @property
    def verdict(self) -> Verdict:
        """Passed only if every step passed."""
        if self.problem or any(step.verdict is Verdict.FAILED for step in self.steps):
            return Verdict.FAILED
        passed = bool(self.steps) and all(step.verdict is Verdict.PASSED for step in self.steps)
        return Verdict.PASSED if passed else Verdict.SKIPPED


@dataclass(frozen=True, slots=True)
class DrillSummary:
    """What a status shows of one source's last drill, and what its objective is judged by."""

    id: str
    key: SourceKey
    kind: str
    point: str | None
    ended: datetime
    verdict: Verdict
    seconds_to_ready: float | None
    age: float | None
    reason: str
