# SPDX-License-Identifier: Apache-2.0
"""Holds sources to their objectives, by their committed restore points and nothing else."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from snapvault.daemon.alarms import OF_RUNS, Alarms
from snapvault.daemon.roster import Followed
from snapvault.daemon.shelf import Shelf
from snapvault.daemon.words import late_again
from snapvault.model import objectives
from snapvault.model.objectives import JUDGED, Drilled, Finding, RpoState, Verdict, judge
from snapvault.model.runs import SourceKey

_EVERY: Final = timedelta(minutes=5)  # though nothing happened; drills get overdue by themselves
_STEP: Final = 30  # seconds; sources are judged in groups, lest each wakes us, or all are at once
_GROUPS: Final = 10
_READ_WHEN_ALARMING: Final = timedelta(minutes=5)  # somebody may be backing up by hand
_FRESH: Final = timedelta(minutes=1)
_FIRST_RUN: Final = timedelta(days=1)  # that the first backup may take before it is missed
_CALM: Final = timedelta(days=1)  # that an RPO must be met for at the most
_IN_A_ROW: Final = 2  # breaches, each soon after the last, from which on an alarm stays up
_MOMENT: Final = timedelta(seconds=1)


class Judging:
    """Raises and ends the alarms that objectives ask for."""

    def __init__(self, shelf: Shelf, alarms: Alarms) -> None:
        self._shelf = shelf
        self._alarms = alarms
        self.drilled: Mapping[SourceKey, Drilled] = {}

    def judge(
        self, sources: Iterable[Followed], at_work: Callable[[Followed], bool], now: datetime
    ) -> None:
        """Judge those sources whose moment has come, and set the next one."""
        for number, source in enumerate(sources):
            if source.judge_at <= now:
                verdict = self._judge(source, now, at_work=at_work(source))
                source.judge_at = _on_step(now + _EVERY) + timedelta(
                    seconds=number % _GROUPS * _STEP
                )
                moments = [verdict.breach_at, _settled_at(source)]
                if source.first is not None:
                    moments += [source.first.start, source.first.start + _FIRST_RUN]
                for moment in moments:
                    if moment is not None and moment >= now:
                        source.judge_at = min(source.judge_at, moment + _MOMENT)

    def recover(self, source: Followed, now: datetime) -> None:
        """End the alarms that a success ends."""
        for kind in _ended_by_success(source):
            self._recover(source, kind, now)

    def _judge(self, source: Followed, now: datetime, *, at_work: bool) -> Verdict:
        verdict = self._verdict(source, now)
        if self._may_be_old(source, verdict, now):
            # Somebody may have backed it up by hand since the catalog was read.
            self._shelf.read({source.key.vault}, now)
            verdict = self._verdict(source, now)
        findings = [
            each
            for each in verdict.findings
            # Once it is up, only a restore point ends it.
            if self._alarms.get(source.subject, each.kind) is not None
            or not _is_premature(source, each, now, at_work)
        ]
        self._alarms.settle(
            source.subject,
            [*findings, *self._calming(source, verdict, now)],
            now,
            source=source.key,
            policy=source.policy.name,
        )
        newest = self._shelf.newest(source.key, now)
        for kind in _ended_by_success(source):
            alarm = self._alarms.get(source.subject, kind)
            if alarm is not None and newest is not None and alarm.raised < newest:
                self._recover(source, kind, now)
        return verdict

    def _calming(self, source: Followed, verdict: Verdict, now: datetime) -> list[Finding]:
        """Return what keeps the alarm of an RPO up that is met just now: it is not for long.

        Where each restore point comes too late, the RPO is met and breached in turns. From the
        third breach in a row on, the alarm ends when it was met for the RPO's own length, or a day.
        """
        rpo = source.policy.objectives.rpo
        if rpo is None:
            source.rpo_over = source.rpo_met = None
            return []
        is_up = self._alarms.get(source.subject, objectives.RPO) is not None
        if verdict.rpo is RpoState.BREACHED:
            source.rpo_met = None
            if not is_up:
                soon = source.rpo_over is not None and now - source.rpo_over - rpo < rpo
                source.rpo_breaches = source.rpo_breaches + 1 if soon else 0
            return []
        if not is_up:
            return []
        source.rpo_met = min(source.rpo_met or now, now)
        if source.rpo_breaches >= _IN_A_ROW and now - source.rpo_met < min(rpo, _CALM):
            return [late_again(source.rpo_met)]
        source.rpo_over, source.rpo_met = now, None
        return []

    def _verdict(self, source: Followed, now: datetime) -> Verdict:
        return judge(
            source.policy.objectives,
            self._shelf.of(source.key),
            now=now,
            seen=source.seen,
            first_due=source.first.start if source.first is not None else None,
            drilled=self.drilled.get(source.key, Drilled()),
        )

    def _may_be_old(self, source: Followed, verdict: Verdict, now: datetime) -> bool:
        age = self._shelf.age(source.key.vault, now)
        if self._alarms.any_up(source.subject, JUDGED | OF_RUNS):
            return age >= _READ_WHEN_ALARMING
        return bool(verdict.findings) and age >= _FRESH

    def _recover(self, source: Followed, kind: str, now: datetime) -> None:
        self._alarms.recover(
            source.subject, kind, now, source=source.key, policy=source.policy.name
        )


def _ended_by_success(source: Followed) -> list[str]:
    """Return the kinds that a success ends; not that runs were missed while runs take too long."""
    kept = {objectives.MISSED} if source.held_up is not None else set()
    return sorted(OF_RUNS - kept)


def _settled_at(source: Followed) -> datetime | None:
    """Return when an RPO that was breached again and again has been met for long enough."""
    rpo = source.policy.objectives.rpo
    if source.rpo_met is None or rpo is None:
        return None
    return source.rpo_met + min(rpo, _CALM)


def _on_step(moment: datetime) -> datetime:
    return moment - timedelta(seconds=moment.second % _STEP, microseconds=moment.microsecond)


def _is_premature(
    source: Followed,
    finding: Finding,
    now: datetime,
    at_work: bool,  # noqa: FBT001 - a fact among others
) -> bool:
    """Tell whether the first backup is at work or waits for its turn, and not for too long."""
    if finding.kind != objectives.NEVER or source.first is None:
        return False
    return at_work and now < source.first.start + _FIRST_RUN
