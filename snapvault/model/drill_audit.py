# SPDX-License-Identifier: Apache-2.0
"""What drills showed over a time, source by source: what an auditor asks for."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Final

from snapvault.model.drills import DrillReport, DrillSummary, Result, StepReport, Verdict
from snapvault.model.runs import SourceKey

_WORST_FIRST: Final = (Verdict.FAILED, Verdict.SKIPPED, Verdict.PASSED)


@dataclass(frozen=True, slots=True)
class SignedReport:
    """A report that may be believed, and the fingerprint of who signed it."""

    report: DrillReport
    signer: str


@dataclass(frozen=True, slots=True)
class Promise:
    """What a policy promises of a source now.

    `interval` is the age that the newest good drill may reach; `since` is when the source was
    first seen in a policy, None: nobody knows.
    """

    key: SourceKey
    policy: str
    rto: timedelta | None
    rpo: timedelta | None
    interval: timedelta | None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """One source in one drill."""

    drill: str
    signer: str
    step: StepReport

    @property
    def ended(self) -> datetime:
        """When the step was over."""
        return self.step.started + timedelta(seconds=self.step.seconds)

    @property
    def rto_missed(self) -> bool:
        """Whether the recovery took longer than was promised at that time."""
        step = self.step
        ready = step.seconds_to_ready
        return ready is not None and step.rto is not None and ready > step.rto

    @property
    def rpo_missed(self) -> bool:
        """Whether the newest point that could be used was older than was promised at that time."""
        step = self.step
        return step.age is not None and step.rpo is not None and step.age > step.rpo


@dataclass(frozen=True, slots=True)
class SourceAudit:
    """The drills of one source in a period, oldest first. Durations are in seconds.

    `promise` None: no policy names it now. `longest_gap` is the longest time of the period that
    went by without a good drill, the drill before the period counted; nobody is to blame for
    the time before the source was there. `kept` tells whether it
    was within the policy's interval; None: there is no interval, or it is too early to say.
    """

    key: SourceKey
    promise: Promise | None
    rehearsals: tuple[Rehearsal, ...]
    longest_gap: float
    last_good: datetime | None
    kept: bool | None

    @property
    def counts(self) -> Mapping[Verdict, int]:
        """How many drills ended in each way."""
        return Counter(each.step.verdict for each in self.rehearsals)

    @property
    def recovery_times(self) -> tuple[float, ...]:
        """The recovery times of the drills that passed, sorted."""
        return tuple(
            sorted(
                each.step.seconds_to_ready
                for each in self.rehearsals
                if each.step.verdict is Verdict.PASSED and each.step.seconds_to_ready is not None
            )
        )

    @property
    def worst(self) -> float | None:
        """The longest recovery time."""
        return max(self.recovery_times, default=None)

    @property
    def median(self) -> float | None:
        """The recovery time that half of the drills stayed below."""
        return median(self.recovery_times) if self.recovery_times else None

    @property
    def missed(self) -> int:
        """How many drills took longer than the RTO of their day."""
        return sum(each.rto_missed for each in self.rehearsals)

    @property
    def points(self) -> tuple[str, ...]:
        """The restore points that were rehearsed, without duplicates."""
        return tuple(dict.fromkeys(e.step.point for e in self.rehearsals if e.step.point))


@dataclass(frozen=True, slots=True)
class Audit:
    """The drills of a period. `until` is its end, or the moment of asking if that is earlier.

    `sources` are by vault and name: those that policies name, and others that were rehearsed.
    """

    start: datetime
    until: datetime
    reports: tuple[SignedReport, ...]
    sources: tuple[SourceAudit, ...]

    @property
    def never(self) -> tuple[SourceAudit, ...]:
        """The sources that policies name and none of whose drills was in the period."""
        return tuple(each for each in self.sources if each.promise and not each.rehearsals)

    @property
    def signers(self) -> Mapping[str, int]:
        """How many of the period's reports each key signed."""
        return Counter(each.signer for each in self.reports)


def audit(
    reports: Iterable[SignedReport],
    promises: Iterable[Promise],
    *,
    start: datetime,
    end: datetime,
    now: datetime,
) -> Audit:
    """Sum up the drills that started in [start, end); earlier ones tell when the last good was."""
    until = min(end, now)
    all_of: dict[SourceKey, list[Rehearsal]] = {}
    within: list[SignedReport] = []
    for each in sorted(reports, key=lambda each: (each.report.started, each.report.id)):
        if each.report.started >= end:
            continue
        if each.report.started >= start:
            within.append(each)
        for step in each.report.steps:
            rehearsal = Rehearsal(each.report.id, each.signer, step)
            all_of.setdefault(step.key, []).append(rehearsal)
    promised = {each.key: each for each in promises}
    drilled = {step.key for each in within for step in each.report.steps}
    of_period = {each.report.id for each in within}
    sources = []
    for key in sorted({*promised, *drilled}):
        known = all_of.get(key, ())
        sources.append(
            _source(
                key,
                promised.get(key),
                [each for each in known if each.drill in of_period],
                [each.ended for each in known if each.step.verdict is Verdict.PASSED],
                (start, until),
            )
        )
    return Audit(start, until, tuple(within), tuple(sources))


def _source(
    key: SourceKey,
    promise: Promise | None,
    rehearsals: Sequence[Rehearsal],
    good: Sequence[datetime],
    span: tuple[datetime, datetime],
) -> SourceAudit:
    start, until = span
    before = max((moment for moment in good if moment < start), default=None)
    inside = sorted(moment for moment in good if start <= moment <= until)
    since = promise.since if promise and promise.since else start
    marks = [max(start, since) if before is None else before, *inside, until]
    gap = max((later - earlier).total_seconds() for earlier, later in pairwise(marks))
    gap = max(gap, 0.0)
    interval = promise.interval if promise else None
    if interval is None:
        kept = None
    elif gap > interval.total_seconds():
        kept = False
    else:
        kept = True if good else None
    last = max((moment for moment in good if moment <= until), default=None)
    return SourceAudit(key, promise, tuple(rehearsals), gap, last, kept)


def summaries(report: DrillReport) -> tuple[DrillSummary, ...]:
    """Return what a status shows of a report: one summary for each source."""
    by_source: dict[SourceKey, StepReport] = {}
    for step in report.steps:
        other = by_source.get(step.key)
        if other is None or _rank(step) < _rank(other):
            by_source[step.key] = step
    return tuple(
        DrillSummary(
            id=report.id,
            key=step.key,
            kind=step.kind,
            point=step.point,
            ended=step.started + timedelta(seconds=step.seconds),
            verdict=step.verdict,
            seconds_to_ready=step.seconds_to_ready,
            age=step.age,
            reason=reason_of(step),
        )
        for step in by_source.values()
    )


def _rank(step: StepReport) -> int:
    return _WORST_FIRST.index(step.verdict)


def reason_of(step: StepReport) -> str:
    """Return why a step ended as it did, in one line: the fact or check that decided it."""
    decided = deciding(step)
    if decided is step.validated and step.verdict is not Verdict.PASSED:
        check = next((each for each in step.checks if each.verdict is step.verdict), None)
        if check is not None and check.reason not in decided.reason:
            return f"{decided.reason}: {check.name}: {check.reason}"
    return decided.reason


def deciding(step: StepReport) -> Result:
    """Return the fact that decided how a step ended."""
    for each in (step.restored, step.validated):
        if each.verdict is step.verdict and step.verdict is not Verdict.PASSED:
            return each
    return step.validated
