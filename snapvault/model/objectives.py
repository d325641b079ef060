# SPDX-License-Identifier: Apache-2.0
"""Objectives: whether what is kept in the vaults is what the policies promise."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from snapvault.model.copies import CopyNote
from snapvault.model.drills import DrillSummary
from snapvault.model.policy import Objectives
from snapvault.model.prunes import PruneState, PruneSummary
from snapvault.model.runs import PointSummary
from snapvault.model.verifies import VerifySummary
from snapvault.units import format_count, format_duration, format_size

RPO = "rpo"
NEVER = "never-backed-up"
SMALL = "suspiciously-small"
DRILL = "drill-overdue"
DRILL_FAILED = "drill-failed"
RTO = "rto"
FUTURE = "dated-in-the-future"
FAILED = "failing"
MISSED = "missed"
DAMAGED = "verify-findings"
UNPRUNED = "not-pruned"
TROUBLED = "vault-troubled"
UNCOPIED = "not-copied"
POLICY = "broken-policy"
EMPTY = "policy-without-sources"
DAEMON = "daemon"

KINDS = (
    *(RPO, NEVER, SMALL, DRILL, DRILL_FAILED, RTO, FUTURE),
    *(FAILED, MISSED, DAMAGED, UNPRUNED, TROUBLED, UNCOPIED, POLICY, EMPTY, DAEMON),
)

JUDGED: Final = frozenset((RPO, NEVER, SMALL, DRILL, DRILL_FAILED, RTO, FUTURE))
"""The kinds that `judge` finds; whether they are over is its finding too."""

OF_VAULTS: Final = frozenset((DAMAGED, UNPRUNED, TROUBLED, UNCOPIED))
"""The kinds that are about a vault: a verify, a prune, a copy, or a look at it ends them."""

CLOCK_TOLERANCE: Final = timedelta(minutes=5)
"""How far the clocks of two hosts may differ before a point counts as one of the future."""


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
class Drilled:
    """What drills showed of a source: the last that passed, and the last that failed."""

    passed: DrillSummary | None = None
    failed: DrillSummary | None = None


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
    drilled: Drilled = Drilled(),
) -> Verdict:
    """Judge a source by its committed restore points (oldest first), and what drills made of them.

    `seen` is when the source was first in a policy, `first_due` the first moment after it at which
    its schedule asks for a run (None: no schedule). One that has never been backed up is
    alarming once `first_due` and, with an RPO, `seen` plus the RPO have gone by. A point of the
    future proves nothing about age and size as long as there is another one.
    """
    latest = now + CLOCK_TOLERANCE
    future = [point for point in points if point.taken_at > latest]
    past = [point for point in points if point.taken_at <= latest]
    findings = [_future(future)] if future else []

    newest = max(past, key=lambda point: point.taken_at) if past else None
    if newest is not None:
        breach_at = _later(newest.taken_at, objectives.rpo)
    elif points:
        breach_at = _later(seen, objectives.rpo)
    else:
        breach_at = _overdue_at(objectives, seen, first_due)
    if breach_at is not None and now > breach_at:
        state = RpoState.BREACHED
        findings.append(_unprotected(points, newest, breach_at))
    else:
        state = RpoState.MET if newest else RpoState.WAITING
    if objectives.rpo is None:
        state, breach_at = RpoState.NONE, None

    findings += _small(objectives, past or points)
    last_good = drilled.passed.ended if drilled.passed is not None else None
    findings += _drill(objectives, points, now=now, seen=seen, last_drill=last_good)
    findings += _failed_drill(drilled) + _slow_drill(objectives, drilled.passed)
    age = max((now - newest.taken_at).total_seconds(), 0.0) if newest else None
    return Verdict(state, age, breach_at, tuple(findings))


def _later(moment: datetime, span: timedelta | None) -> datetime | None:
    """Return a moment that much later; None: never, or after the year 9999."""
    try:
        return None if span is None else moment + span
    except OverflowError:
        return None


def _overdue_at(
    objectives: Objectives, seen: datetime, first_due: datetime | None
) -> datetime | None:
    """Return until when nobody is to blame that there is no restore point; None: for ever."""
    promised = _later(seen, objectives.rpo)
    if objectives.rpo is not None and promised is None:
        return None
    return max((moment for moment in (promised, first_due) if moment), default=None)


def _unprotected(
    points: Sequence[PointSummary], newest: PointSummary | None, breach_at: datetime
) -> Finding:
    if not points:
        return Finding(
            NEVER,
            f"never backed up, expected by {_shown(breach_at)}",
            'Mend what its last run failed at, if one did; "snapvault backup" backs up now.',
        )
    if newest is None:
        reason = "all restore points are dated in the future"
    else:
        reason = f'the newest restore point, "{newest.point}", is of {_shown(newest.taken_at)}'
    return Finding(
        RPO,
        f"RPO breached at {_shown(breach_at)}: {reason}",
        "Mend what its last run failed at, if one did; "
        f'"snapvault backup {points[-1].key.source}" backs up now.',
    )


def _future(future: Sequence[PointSummary]) -> Finding:
    point = max(future, key=lambda point: point.taken_at)
    return Finding(
        FUTURE,
        f'restore point "{point.point}" is dated in the future: {_shown(point.taken_at)}',
        "Correct the clock of this host, or of the one that made it; until then the RPO is judged"
        " by the other restore points.",
    )


def _small(objectives: Objectives, points: Sequence[PointSummary]) -> list[Finding]:
    ordered = sorted(points, key=lambda point: point.taken_at)[-2:]
    if not ordered:
        return []
    newest, before = ordered[-1], ordered[0]
    least, percent = objectives.min_size, objectives.min_size_percent
    if least is not None and newest.size < least:
        expected = f"expected at least {format_size(least)}"
    elif percent is not None and newest.size * 100 < before.size * percent:
        expected = f"expected at least {percent:g} % of the {format_size(before.size)} before it"
    else:
        return []
    return [
        Finding(
            SMALL,
            f'restore point "{newest.point}" is suspiciously small: {format_size(newest.size)},'
            f" {expected}",
            f'Run "snapvault show {newest.point}" and look at what the source holds; if it is'
            " right, lower the least size in the policy.",
        )
    ]


def _drill(
    objectives: Objectives,
    points: Sequence[PointSummary],
    *,
    now: datetime,
    seen: datetime,
    last_drill: datetime | None,
) -> list[Finding]:
    if objectives.drill is None or now - (last_drill or seen) <= objectives.drill:
        return []
    since = f"since {_shown(last_drill)}" if last_drill else "yet"
    if points:
        hint = f'Run "snapvault drill run {points[-1].key.source}".'
    else:
        hint = "There is nothing to restore: back the source up first."
    every = format_duration(objectives.drill)
    return [Finding(DRILL, f"no good drill {since}, expected every {every}", hint)]


def _failed_drill(drilled: Drilled) -> list[Finding]:
    failed, passed = drilled.failed, drilled.passed
    if failed is None or (passed is not None and passed.ended > failed.ended):
        return []
    of_point = f' of restore point "{failed.point}"' if failed.point else ""
    return [
        Finding(
            DRILL_FAILED,
            f'{failed.kind} drill "{failed.id}"{of_point} failed: {failed.reason}',
            f'"snapvault drill report {failed.id}" shows what it saw; it is over when a later drill'
            " of the source passes.",
        )
    ]


def _slow_drill(objectives: Objectives, passed: DrillSummary | None) -> list[Finding]:
    """Judge the measured recovery time by the last drill that passed."""
    if objectives.rto is None or passed is None or passed.seconds_to_ready is None:
        return []
    took, promised = passed.seconds_to_ready, objectives.rto.total_seconds()
    if took <= promised:
        return []
    return [
        Finding(
            RTO,
            f'RTO exceeded: recovery took {format_duration(took)} in drill "{passed.id}",'
            f" promised are {format_duration(promised)}",
            f'"snapvault drill report {passed.id}" shows where the time went; it is over when a'
            " later drill is quick enough.",
        )
    ]


def damaged(verify: VerifySummary) -> Finding:
    """Return the alarm of a verify that found something."""
    part = "" if verify.source is None else f' for source "{verify.source}"'
    first = "" if verify.message is None else f": {verify.message}"
    again = "" if verify.level == "objects" else f" --level {verify.level}"
    return Finding(
        DAMAGED,
        f'verify of vault "{verify.vault}"{part} at level {verify.level} came to'
        f" {format_count(verify.findings, 'finding')} at {_shown(verify.ended)}{first}",
        f'It is over when "snapvault verify{again}", without a sample, finds nothing.',
    )


def uncopied(vault: str, to: str, note: CopyNote) -> Finding:
    """Return the alarm of a copy that does not get what its vault has."""
    hint = f'Mend that; "snapvault copy {vault} --to {to}" tries it again now.'
    return Finding(
        UNCOPIED,
        f'copy of vault "{vault}" to vault "{to}" is behind: {note.message}',
        note.hint or hint,
    )


def unpruned(prune: PruneSummary) -> Finding:
    """Return the alarm of a prune that refused or failed."""
    if prune.state is PruneState.REFUSED:
        told, hint = "refuses", 'Run "snapvault verify"; docs/retention.md says what to do.'
    else:
        told, hint = "failed", 'Mend that; "snapvault prune" tries it again now.'
    more = len(prune.reasons) - 1
    others = f", and {format_count(more, 'more reason')}" if more > 0 else ""
    reason = prune.reasons[0] if prune.reasons else "nobody knows why"
    return Finding(
        UNPRUNED, f'prune of vault "{prune.vault}" {told}: {reason}{others}', prune.hint or hint
    )


def troubled(vault: str, messages: Sequence[str]) -> Finding:
    """Return the alarm of a vault that a host found not as it was left, or that has no locks."""
    more = len(messages) - 1
    others = f", and {format_count(more, 'more problem')}" if more > 0 else ""
    return Finding(
        TROUBLED,
        f'vault "{vault}": {messages[0]}{others}',
        'Run "snapvault verify"; "snapvault repair" brings back what still lies underneath. '
        "docs/immutability.md says what else there is to do.",
    )


def _shown(moment: datetime) -> str:
    """Write a moment. Messages hold no ages: an alarm that stays up says the same each time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
