# SPDX-License-Identifier: Apache-2.0
"""What the scheduler says: notices about runs and alarms, one line each."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from snapvault.model import objectives
from snapvault.model.agenda import Missed
from snapvault.model.notices import Notice, NoticeKind
from snapvault.model.objectives import Finding
from snapvault.model.runs import Alarm, Run, SourceKey
from snapvault.units import format_duration

# By kind of alarm: when it is raised, and when it is over.
_TITLES: Final[Mapping[str, tuple[str, str]]] = {
    objectives.RPO: ("{} is not backed up as often as promised", "{} is backed up in time again"),
    objectives.NEVER: ("{} has never been backed up", "{} has been backed up"),
    objectives.SMALL: (
        "backup of {} is suspiciously small",
        "backup of {} is as large as expected",
    ),
    objectives.DRILL: ("drill of {} is overdue", "drill of {} is done"),
    objectives.DRILL_FAILED: ("drill of {} failed", "drill of {} passes again"),
    objectives.RTO: (
        "recovery of {} takes longer than promised",
        "recovery of {} is as quick as promised again",
    ),
    objectives.FUTURE: (
        "a restore point of {} is dated in the future",
        "no restore point of {} is dated in the future any more",
    ),
    objectives.FAILED: ("backup of {} fails", "backup of {} works again"),
    objectives.MISSED: ("backup of {} was missed", "backup of {} happens again"),
    objectives.DAMAGED: ("a verify of vault {} found damage", "vault {} verifies clean again"),
    objectives.UNCOPIED: ("copy {} is behind", "copy {} is complete again"),
    objectives.UNPRUNED: ("vault {} is not pruned", "vault {} is pruned again"),
    objectives.TROUBLED: (
        "vault {} is not as it was left",
        "vault {} is as it should be again",
    ),
    objectives.POLICY: ("{} cannot be used", "{} can be used again"),
    objectives.EMPTY: ("{} backs up nothing", "{} backs up something again"),
    objectives.DAEMON: ("the daemon has a problem", "the daemon works again"),
}


@dataclass(frozen=True, slots=True)
class Words:
    """Builds notices on behalf of a host."""

    host: str

    def started(self, run: Run, now: datetime) -> Notice:
        """Say that a run has begun."""
        return self._of_run(NoticeKind.START, run, now, "started")

    def succeeded(self, run: Run, now: datetime) -> Notice:
        """Say that a run made its restore point."""
        notice = self._of_run(NoticeKind.SUCCESS, run, now, "succeeded")
        if run.point is None:
            return notice
        took = "" if run.seconds is None else f" in {format_duration(max(run.seconds, 0))}"
        return replace(notice, message=f'backup of "{run.key}" made "{run.point}"{took}')

    def failed(self, run: Run, now: datetime, retry_at: datetime | None) -> Notice:
        """Say that a run made none, and when it is tried again, if it is."""
        finding = failing(run)
        notice = self._of_run(NoticeKind.FAILURE, run, now, "failed")
        return replace(notice, message=finding.message, hint=finding.hint, retry_at=retry_at)

    def missed(self, run: Run, missed: Missed, now: datetime) -> Notice:
        """Say that runs did not happen."""
        finding = missing(missed, run.reason)
        title = f'backup of "{run.key.source}" was missed'
        if missed.count > 1:
            title = f'{_count(missed)} backups of "{run.key.source}" were missed'
        return Notice(
            kind=NoticeKind.MISSED,
            at=now,
            host=self.host,
            title=title,
            message=finding.message,
            hint=finding.hint,
            vault=run.key.vault,
            source=run.key.source,
            policy=run.policy,
            alarm=finding.kind,
            run=run,
        )

    def breach(
        self, alarm: Alarm, now: datetime, *, source: SourceKey | None, policy: str | None
    ) -> Notice:
        """Say that an alarm is up."""
        title = _title(alarm, source)[0]
        notice = self._of_alarm(NoticeKind.BREACH, alarm, now, source=source, policy=policy)
        return replace(notice, title=title, message=alarm.message, hint=alarm.hint)

    def recovery(
        self, alarm: Alarm, now: datetime, *, source: SourceKey | None, policy: str | None
    ) -> Notice:
        """Say that an alarm is over."""
        title = _title(alarm, source)[1]
        notice = self._of_alarm(NoticeKind.RECOVERY, alarm, now, source=source, policy=policy)
        since = f"{alarm.raised.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        return replace(
            notice, title=title, message=f"over, after this since {since}: {alarm.message}"
        )

    def _of_run(self, kind: NoticeKind, run: Run, now: datetime, verb: str) -> Notice:
        return Notice(
            kind=kind,
            at=now,
            host=self.host,
            title=f'backup of "{run.key.source}" {verb}',
            message=f'backup of "{run.key}" by policy "{run.policy}" {verb}',
            vault=run.key.vault,
            source=run.key.source,
            policy=run.policy,
            run=run,
        )

    def _of_alarm(
        self,
        kind: NoticeKind,
        alarm: Alarm,
        now: datetime,
        *,
        source: SourceKey | None,
        policy: str | None,
    ) -> Notice:
        return Notice(
            kind=kind,
            at=now,
            host=self.host,
            title="",
            message="",
            vault=source.vault if source else _vault_of(alarm),
            source=source.source if source else None,
            policy=policy,
            alarm=alarm.kind,
        )


def failing(run: Run) -> Finding:
    """Return the alarm of a run that failed for good."""
    if run.failure is None:
        return Finding(objectives.FAILED, f'backup of "{run.key}" ended without saying why')
    return Finding(objectives.FAILED, run.failure.message, run.failure.hint)


def missing(missed: Missed, reason: str | None = None) -> Finding:
    """Return the alarm of runs that did not happen; `reason` is what kept them, as of `held_up`."""
    last = f"{missed.last.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    if missed.count == 1:
        message = f"the run due at {last} did not happen"
    else:
        message = f"{_count(missed)} runs did not happen, the last one due at {last}"
    if reason is not None:
        hint = (
            "A run takes longer than its schedule leaves it: have it run less often, or let it"
            " read and upload faster."
        )
        return Finding(objectives.MISSED, f"{message}: {reason}", hint)
    hint = "Nothing could be started then: the host or the daemon was off, or others took too long."
    return Finding(objectives.MISSED, message, hint)


def held_up(by: Run) -> str:
    """Say that a source's own run kept others from happening."""
    began = (by.due or by.started).astimezone(UTC)
    return f"its run of {began:%H:%M} UTC was still at work"


def late_again(since: datetime) -> Finding:
    """Return the alarm of a source whose RPO is breached again each time that it is met."""
    return Finding(
        objectives.RPO,
        f"RPO breached again and again: met since {since.astimezone(UTC):%Y-%m-%d %H:%M} UTC, not"
        " for long enough yet",
        "Restore points come later than the RPO allows: have it backed up more often, look at how"
        " long its runs take, or allow a longer RPO.",
    )


def _vault_of(alarm: Alarm) -> str | None:
    return alarm.subject if alarm.kind in objectives.OF_VAULTS else None


def _count(missed: Missed) -> str:
    return str(missed.count) if missed.exact else f"at least {missed.count}"


def _title(alarm: Alarm, source: SourceKey | None) -> tuple[str, str]:
    named = f'"{source.source if source else alarm.subject}"'
    up, over = _TITLES[alarm.kind]
    return up.format(named), over.format(named)
