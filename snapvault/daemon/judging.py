# SPDX-License-Identifier: Apache-2.0
"""Holds sources to their objectives, by their committed restore points and nothing else."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

from snapvault.daemon.alarms import JUDGED, OF_RUNS, Alarms
from snapvault.daemon.roster import Followed
from snapvault.daemon.shelf import Shelf
from snapvault.model import objectives
from snapvault.model.objectives import Finding, Verdict, judge
from snapvault.model.runs import SourceKey

_EVERY: Final = timedelta(minutes=5)  # though nothing happened; drills get overdue by themselves
_STEP: Final = 30  # seconds; sources are judged in groups, lest each wakes us, or all are at once
_GROUPS: Final = 10
_READ_WHEN_ALARMING: Final = timedelta(minutes=5)  # somebody may be backing up by hand
_FRESH: Final = timedelta(minutes=1)
_FIRST_RUN: Final = timedelta(days=1)  # that the first backup may take before it is missed
_MOMENT: Final = timedelta(seconds=1)


class Judging:
    """Raises and ends the alarms that objectives ask for."""

    def __init__(
        self, shelf: Shelf, alarms: Alarms, drilled: Callable[[SourceKey], datetime | None]
    ) -> None:
        self._shelf = shelf
        self._alarms = alarms
        self._drilled = drilled

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
                moments = [verdict.breach_at]
                if source.first is not None:
                    moments += [source.first.start, source.first.start + _FIRST_RUN]
                for moment in moments:
                    if moment is not None and moment >= now:
                        source.judge_at = min(source.judge_at, moment + _MOMENT)

    def recover(self, source: Followed, now: datetime) -> None:
        """End the alarms that a success ends."""
        for kind in sorted(OF_RUNS):
            self._recover(source, kind, now)

    def _judge(self, source: Followed, now: datetime, *, at_work: bool) -> Verdict:
        verdict = self._verdict(source, now)
        if self._may_be_old(source, verdict, now):
            # Somebody may have backed it up by hand since the catalog was read.
            self._shelf.read({source.key.vault}, now)
            verdict = self._verdict(source, now)
        self._alarms.settle(
            source.subject,
            [
                each
                for each in verdict.findings
                # Once it is up, only a restore point ends it.
                if self._alarms.get(source.subject, each.kind) is not None
                or not _is_premature(source, each, now, at_work)
            ],
            now,
            source=source.key,
            policy=source.policy.name,
        )
        newest = self._shelf.newest(source.key, now)
        for kind in sorted(OF_RUNS):
            alarm = self._alarms.get(source.subject, kind)
            if alarm is not None and newest is not None and alarm.raised < newest:
                self._recover(source, kind, now)
        return verdict

    def _verdict(self, source: Followed, now: datetime) -> Verdict:
        return judge(
            source.policy.objectives,
            self._shelf.of(source.key),
            now=now,
            seen=source.seen,
            first_due=source.first.start if source.first is not None else None,
            last_drill=self._drilled(source.key),
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
