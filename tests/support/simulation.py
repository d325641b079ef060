# SPDX-License-Identifier: Apache-2.0
"""A world for schedulers: a clock that is moved, jobs that take no time, a history in memory.

Nothing in it waits, and all of it is the same each time.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from snapvault.config.problems import Problem
from snapvault.config.zones import zone_named
from snapvault.daemon.scheduler import Scheduler
from snapvault.errors import SnapVaultError
from snapvault.model.drills import DrillSummary, Verdict
from snapvault.model.notices import Notice, NoticeKind, NotifierStanding
from snapvault.model.policy import CommandSpec, Policy, Schedule, SourceSpec, StreamSpec
from snapvault.model.prunes import PruneSummary
from snapvault.model.runs import Alarm, Failure, PointSummary, Run, RunState, SourceKey
from snapvault.model.settings import DaemonSettings, Settings
from snapvault.model.status import Following
from snapvault.model.usage import NOTHING, Usage
from snapvault.model.verifies import VerifySummary
from snapvault.ports.events import Progress
from snapvault.ports.jobs import Order

START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)  # a Monday
VAULT = "offsite"
UNREACHABLE = Failure('could not reach store "s3://offsite"', None, 14, True)
BROKEN = Failure('could not read volume "vg0/web01"', "Look at the disk.", 15, False)
HELD = Failure('source "web01" is being backed up', None, 11, True)


class Killed(BaseException):
    """The power is cut. No handler of errors takes it for one."""


class MemoryHistory:
    """A history (`ports.history.History`) in memory.

    `fault` is raised by every call while it is set. `before_write` and `after_write` are called
    around each write, and may raise.
    """

    def __init__(self) -> None:
        self.by_id: dict[str, Run] = {}
        self.marks: dict[tuple[str, SourceKey], datetime] = {}
        self.schedule_of: dict[SourceKey, str] = {}
        self.all_alarms: list[Alarm] = []
        self.drills_by_id: dict[tuple[str, SourceKey], DrillSummary] = {}
        self.verifies_by_id: dict[str, VerifySummary] = {}
        self.more_usage: list[tuple[str, str, Usage, datetime]] = []
        self.prunes_by_id: dict[str, PruneSummary] = {}
        self.standings: list[NotifierStanding] = []
        self.left: Following | None = None
        self.fault: SnapVaultError | None = None
        self.after_write: Callable[[str], None] = lambda _: None
        self.calls = 0

    def put(self, run: Run) -> None:
        self._check()
        self.by_id[run.id] = run
        self.after_write(f"run {run.state}")

    def get(self, run: str) -> Run | None:
        self._check()
        return self.by_id.get(run)

    def of_point(self, point: str) -> Run | None:
        self._check()
        return next((run for run in self.by_id.values() if run.point == point), None)

    def runs(
        self,
        key: SourceKey | None = None,
        *,
        since: datetime | None = None,
        running: bool = False,
        limit: int = 1000,
    ) -> list[Run]:
        self._check()
        found = [
            run
            for run in self.by_id.values()
            if (key is None or run.key == key)
            and (since is None or run.started >= since)
            and (not running or run.state is RunState.RUNNING)
        ]
        return sorted(found, key=lambda run: (run.started, run.id), reverse=True)[:limit]

    def latest(self) -> Mapping[SourceKey, Run]:
        runs = [run for run in self.runs(limit=10**9) if run.state is not RunState.MISSED]
        return {run.key: run for run in reversed(runs)}

    def handled(self) -> Mapping[SourceKey, datetime]:
        return self._marks("handled")

    def set_handled(self, key: SourceKey, until: datetime) -> None:
        self._check()
        self.marks["handled", key] = until
        self.after_write("handled")

    def schedules(self) -> Mapping[SourceKey, str]:
        self._check()
        return dict(self.schedule_of)

    def set_schedule(self, key: SourceKey, schedule: str) -> None:
        self._check()
        self.schedule_of[key] = schedule
        self.after_write("schedule")

    def seen(self) -> Mapping[SourceKey, datetime]:
        return self._marks("seen")

    def set_seen(self, key: SourceKey, at: datetime) -> None:
        self._check()
        self.marks["seen", key] = min(at, self.marks.get(("seen", key), at))
        self.after_write("seen")

    def alarms(self, *, up: bool = True, since: datetime | None = None) -> list[Alarm]:
        self._check()
        found = [
            alarm
            for alarm in self.all_alarms
            if (not up or alarm.cleared is None) and (since is None or alarm.raised >= since)
        ]
        return sorted(found, key=lambda alarm: alarm.raised, reverse=True)

    def raise_alarm(self, alarm: Alarm) -> bool:
        self._check()
        number = self._up(alarm.subject, alarm.kind)
        if number is None:
            self.all_alarms.append(alarm)
        else:
            known = self.all_alarms[number]
            self.all_alarms[number] = replace(known, message=alarm.message, hint=alarm.hint)
        self.after_write(f"alarm {alarm.kind}")
        return number is None

    def clear_alarm(self, subject: str, kind: str, at: datetime) -> Alarm | None:
        self._check()
        number = self._up(subject, kind)
        if number is None:
            return None
        self.all_alarms[number] = replace(self.all_alarms[number], cleared=at)
        self.after_write(f"cleared {kind}")
        return self.all_alarms[number]

    def add_drill(self, summary: DrillSummary) -> None:
        self._check()
        known = self.drills_by_id.get((summary.id, summary.key))
        worst_first = [Verdict.FAILED, Verdict.SKIPPED, Verdict.PASSED]
        if known is None or worst_first.index(known.verdict) >= worst_first.index(summary.verdict):
            self.drills_by_id[summary.id, summary.key] = summary
        self.after_write("drill")

    def drills(self, key: SourceKey | None = None, *, limit: int = 100) -> list[DrillSummary]:
        self._check()
        found = [each for each in self.drills_by_id.values() if key in {None, each.key}]
        return sorted(found, key=lambda each: (each.ended, each.id), reverse=True)[:limit]

    def last_drills(self, verdict: Verdict | None = None) -> Mapping[SourceKey, DrillSummary]:
        found = [each for each in self.drills(limit=10**9) if verdict in {None, each.verdict}]
        return {each.key: each for each in reversed(found)}

    def add_verify(self, summary: VerifySummary) -> None:
        self._check()
        self.verifies_by_id[summary.id] = summary
        self.after_write("verify")

    def verifies(self) -> list[VerifySummary]:
        self._check()
        oldest_first = sorted(self.verifies_by_id.values(), key=lambda each: (each.ended, each.id))
        newest = {
            (each.vault, each.level, each.source, bool(each.findings), each.is_clean): each
            for each in oldest_first
        }
        return sorted(newest.values(), key=lambda each: (each.ended, each.id), reverse=True)

    def add_prune(self, summary: PruneSummary) -> None:
        self._check()
        self.prunes_by_id[summary.id] = summary
        self.after_write("prune")

    def prunes(self) -> list[PruneSummary]:
        self._check()
        oldest_first = sorted(self.prunes_by_id.values(), key=lambda each: (each.ended, each.id))
        newest = {(each.vault, each.state): each for each in oldest_first}
        return sorted(newest.values(), key=lambda each: (each.ended, each.id), reverse=True)

    def count_usage(self, vault: str, verb: str, usage: Usage, at: datetime) -> None:
        self._check()
        self.more_usage.append((vault, verb, usage, at))
        self.after_write("requests")

    def usage(self, since: datetime | None = None) -> Mapping[str, Mapping[str, Usage]]:
        self._check()
        every = [
            *self.more_usage,
            *(
                (run.key.vault, "backup", Usage.of_counters(run.counters), run.started)
                for run in self.by_id.values()
            ),
            *(
                (each.vault, "verify", each.usage, each.ended)
                for each in self.verifies_by_id.values()
            ),
        ]
        found: dict[str, dict[str, Usage]] = {}
        for vault, verb, usage, at in every:
            if usage != NOTHING and (since is None or at.date() >= since.date()):
                by_verb = found.setdefault(vault, {})
                by_verb[verb] = by_verb.get(verb, NOTHING) + usage
        return found

    def requests(self) -> Mapping[str, int]:
        self._check()
        counts: Counter[str] = Counter()
        for vault, _, usage, _ in self.more_usage:
            counts[vault] += usage.requests
        for run in self.by_id.values():
            counts[run.key.vault] += run.counters.get("requests", 0)
        for verify in self.verifies_by_id.values():
            counts[verify.vault] += verify.requests
        return +counts

    def set_notifiers(self, standings: Sequence[NotifierStanding]) -> None:
        self._check()
        self.standings = sorted(standings, key=lambda each: each.name)

    def notifiers(self) -> list[NotifierStanding]:
        self._check()
        return list(self.standings)

    def set_following(self, following: Following | None) -> None:
        self._check()
        self.left = following

    def following(self) -> Following | None:
        self._check()
        return self.left

    def started_by(self, share: float, *, at_least: int) -> datetime | None:
        moments = sorted(run.started for run in self.runs(limit=10**9))
        skipped = max(int(len(moments) * share), at_least)
        return moments[skipped] if skipped < len(moments) else None

    def expired(self) -> datetime | None:
        raise NotImplementedError

    def expire(self, before: datetime, *, now: datetime) -> int:
        raise NotImplementedError

    def close(self) -> None:
        pass

    def _marks(self, kind: str) -> Mapping[SourceKey, datetime]:
        self._check()
        return {key: at for (each, key), at in self.marks.items() if each == kind}

    def _up(self, subject: str, kind: str) -> int | None:
        for number, alarm in enumerate(self.all_alarms):
            if (alarm.subject, alarm.kind, alarm.cleared) == (subject, kind, None):
                return number
        return None

    def _check(self) -> None:
        self.calls += 1
        if self.fault is not None:
            raise self.fault


class RecordingEvents:
    """Ears (`ports.events.Events`) that remember warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def emit(self, event: str, /, **fields: object) -> None:
        pass

    def warn(self, event: str, message: str, /, **fields: object) -> None:
        self.warnings.append(event)

    def progress(self, label: str, *, total: int | None) -> Progress:
        raise NotImplementedError


@dataclass(frozen=True)
class Outcome:
    """How a job goes: how long it takes, and why it fails; None: it does not."""

    minutes: float = 5.0
    failure: Failure | None = None


@dataclass
class _Job:
    order: Order
    ends: datetime
    outcome: Outcome


class SimulatedJobs:
    """Jobs (`ports.jobs.Jobs`) that end when the world's clock says so, and make points."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._jobs: list[_Job] = []

    def start(self, order: Order) -> None:
        assert order.run.key not in [each.order.run.key for each in self._jobs], "overlap"
        outcome = self._world.outcome(order)
        ends = self._world.now + timedelta(minutes=outcome.minutes)
        self._jobs.append(_Job(order, ends, outcome))
        self._world.most = max(self._world.most, len(self._jobs))
        name, most_of = order.policy.name, self._world.most_of
        of_policy = sum(each.order.policy.name == name for each in self._jobs)
        most_of[name] = max(most_of.get(name, 0), of_policy)
        self._world.started.append(order.run)

    def ended(self) -> Sequence[Run]:
        over = sorted(
            (each for each in self._jobs if each.ends <= self._world.now), key=lambda job: job.ends
        )
        self._jobs = [each for each in self._jobs if each not in over]
        return [self._finish(each) for each in over]

    def running(self) -> Sequence[Order]:
        return [each.order for each in self._jobs]

    def wait(self, seconds: float) -> None:
        raise NotImplementedError

    def wake(self) -> None:
        raise NotImplementedError

    def stop(self, seconds: float) -> Sequence[Run]:
        runs = list(self.ended())
        runs += [
            replace(each.order.run, state=RunState.INTERRUPTED, ended=self._world.now)
            for each in self._jobs
        ]
        self._jobs = []
        return runs

    def clock_was_set(self, by: timedelta) -> None:
        """Have jobs take as long as they would have."""
        for job in self._jobs:
            job.ends += by

    @property
    def next_end(self) -> datetime | None:
        """When the next job ends."""
        return min((each.ends for each in self._jobs), default=None)

    def _finish(self, job: _Job) -> Run:
        run = job.order.run
        ended = max(job.ends, run.started)
        if job.outcome.failure is not None:
            return replace(run, state=RunState.FAILED, ended=ended, failure=job.outcome.failure)
        point = self._world.add_point(run.key, self._world.now)
        return replace(
            run,
            state=RunState.SUCCEEDED,
            ended=ended,
            point=point.point,
            taken_at=point.taken_at,
            size=point.size,
        )


@dataclass
class World:
    """A host: its clock, its vaults, and the scheduler that is at work on it, if one is."""

    policies: Sequence[Policy] = ()
    now: datetime = START
    max_jobs: int = 100
    outcome: Callable[[Order], Outcome] = lambda _: Outcome()
    problems: Sequence[Problem] = ()
    history: MemoryHistory = field(default_factory=MemoryHistory)
    points: dict[str, list[PointSummary]] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)
    started: list[Run] = field(default_factory=list)
    alive: Callable[[Run], bool] = lambda _: False
    extra: dict[str, Any] = field(default_factory=dict)
    kept: int = 100  # restore points of each source
    longest_step: timedelta = timedelta(minutes=1)  # over ticks that would have nothing to do

    def __post_init__(self) -> None:
        self._ids = count(1)
        self.events = RecordingEvents()
        self.unreadable: SnapVaultError | None = None
        self.reads = 0
        self.most = 0  # jobs at work at one time, ever
        self.most_of: dict[str, int] = {}  # the same, by policy
        self.boot()

    def boot(self) -> None:
        """Have a new scheduler, as after a start of the daemon; jobs of the old one are gone."""
        self.jobs = SimulatedJobs(self)
        self.scheduler = Scheduler(
            settings=self.settings(),
            policies=self.policies,
            problems=self.problems,
            history=self.history,
            jobs=self.jobs,
            points=self.read_points,
            tell=self.notices.append,
            zone_of=zone_named,
            new_id=lambda: f"run-{next(self._ids):06d}",
            host="host1",
            log=self.events,
            alive=self._is_alive,
            **self.extra,
        )

    def _is_alive(self, run: Run) -> bool:
        return self.alive(run)

    def settings(self) -> Settings:
        return Settings(
            path=Path("/etc/snapvault/snapvault.yaml"),
            state_dir=Path("/var/lib/snapvault"),
            policies_dir=Path("/etc/snapvault/policies"),
            vaults={},
            daemon=DaemonSettings(max_jobs=self.max_jobs),
        )

    def run(self, **span: float) -> None:
        """Let time go by, with the scheduler at work."""
        self.run_until(self.now + timedelta(**span))

    def run_until(self, end: datetime) -> None:
        while True:
            pause = self.scheduler.tick(self.now)
            assert 0 <= pause <= 5
            following = self.now + max(timedelta(seconds=pause), timedelta(milliseconds=1))
            idle_until = min(self.scheduler._next, self.now + self.longest_step)
            following = max(following, idle_until)
            if (next_end := self.jobs.next_end) is not None and next_end > self.now:
                following = min(following, next_end)
            if following > end:
                break
            self.now = following
        self.now = end
        self.scheduler.tick(self.now)

    def off(self, **span: float) -> None:
        """Cut the power for a while, and start again."""
        self.now += timedelta(**span)
        self.boot()
        self.scheduler.tick(self.now)

    def set_clock(self, **by: float) -> None:
        """Set the clock forward, or back."""
        self.now += timedelta(**by)
        self.jobs.clock_was_set(timedelta(**by))

    def reload(self, *policies: Policy, problems: Sequence[Problem] = ()) -> None:
        self.policies, self.problems = policies, problems
        self.scheduler.reload(self.settings(), policies, problems, now=self.now)

    def add_point(self, key: SourceKey, taken_at: datetime) -> PointSummary:
        point = PointSummary(key, f"p-{next(self._ids):06d}", taken_at, 1000, 10, "crash")
        points = self.points.setdefault(key.vault, [])
        points.append(point)
        own = [each for each in points if each.key == key]
        if len(own) > self.kept:
            points.remove(own[0])
        return point

    def read_points(self, vault: str) -> Sequence[PointSummary]:
        self.reads += 1
        if self.unreadable is not None:
            raise self.unreadable
        return sorted(self.points.get(vault, []), key=lambda point: point.taken_at)

    def told(self, *kinds: NoticeKind, source: str | None = None) -> list[str]:
        """Return the titles of what was told."""
        return [
            notice.title
            for notice in self.notices
            if (not kinds or notice.kind in kinds) and (source is None or notice.source == source)
        ]

    def up(self) -> set[tuple[str, str]]:
        """Return the alarms that are up, by subject and kind."""
        return {(alarm.subject, alarm.kind) for alarm in self.history.alarms()}

    def runs(self, source: str = "web01", vault: str = VAULT) -> list[Run]:
        """Return the runs of a source, oldest first."""
        return self.history.runs(SourceKey(vault, source), limit=10**9)[::-1]


def a_source(name: str) -> SourceSpec:
    return SourceSpec(name, (StreamSpec("command", CommandSpec(("true",))),), single=True)


def a_policy(
    name: str = "nightly",
    *sources: str,
    cron: str | None = None,
    every: timedelta | None = None,
    vault: str = VAULT,
    schedule: dict[str, Any] | None = None,
    **values: Any,
) -> Policy:
    """Build a policy, nightly at two in UTC unless told otherwise, of one source `web01`."""
    if cron is None and every is None:
        cron = "0 2 * * *"
    timing: dict[str, Any] = {"timezone": "UTC"} | (schedule or {})
    base = Policy(
        name=name,
        path=Path(f"/etc/snapvault/policies/{name}.yaml"),
        vault=vault,
        sources=tuple(a_source(each) for each in sources or ("web01",)),
        schedule=Schedule(cron=cron, every=every, **timing),
    )
    return replace(base, **values)
