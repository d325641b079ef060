# SPDX-License-Identifier: Apache-2.0
"""The status of a host, put together from its restore points, its history and its policies."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, tzinfo
from typing import Final

from snapvault.model import objectives
from snapvault.model.objectives import Verdict, judge
from snapvault.model.policy import Objectives, Policy, SourceSpec
from snapvault.model.runs import Alarm, PointSummary, Progress, Run, RunState, SourceKey
from snapvault.model.schedule import next_due, starts_at
from snapvault.model.status import SourceStatus, Status, VaultStatus
from snapvault.ports.history import History, RunLogs

DAYS: Final = 35
"""Days of which restore points are shown: five weeks."""

_RUNS_SHOWN: Final = 200
_RUNS_READ: Final = 1000
_FAILURES_SHOWN: Final = 20
_FAILED: Final = (RunState.FAILED, RunState.INTERRUPTED, RunState.MISSED)
_JUDGED: Final = frozenset(
    (objectives.RPO, objectives.NEVER, objectives.SMALL, objectives.DRILL, objectives.FUTURE)
)
_AGES: Final = (objectives.RPO, objectives.NEVER)
_OVER: Final = frozenset((RunState.SUCCEEDED, RunState.FAILED, RunState.INTERRUPTED))


@dataclass(frozen=True, slots=True)
class VaultPoints:
    """What is known of a vault on this host: its points, by source and time, and what is wrong.

    `is_known` is False until the vault has been opened here.
    """

    store: str
    points: tuple[PointSummary, ...]
    is_known: bool = True
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What the history says, read at one moment. Without a history it is empty.

    `runs` are newest first. `last` and `succeeded` are each source's last run that is over,
    and the last that succeeded; `progress` is by a run's id.
    """

    runs: tuple[Run, ...] = ()
    running: Mapping[SourceKey, Run] = field(default_factory=dict)
    progress: Mapping[str, Progress] = field(default_factory=dict)
    last: Mapping[SourceKey, Run] = field(default_factory=dict)
    succeeded: Mapping[SourceKey, Run] = field(default_factory=dict)
    seen: Mapping[SourceKey, datetime] = field(default_factory=dict)
    alarms: tuple[Alarm, ...] = ()


def remember(history: History, logs: RunLogs, settled: Callable[[Run], Run]) -> Memory:
    """Read the history; `settled` returns a run at work as it ended, if its process is gone.

    Raises:
        ConfigError: it cannot be read.
    """
    runs = tuple(settled(run) for run in history.runs(limit=_RUNS_READ))
    running = {}
    for run in reversed(history.runs(running=True)):
        if settled(run).state is RunState.RUNNING:
            running[run.key] = run
    last: dict[SourceKey, Run] = {}
    succeeded: dict[SourceKey, Run] = {}
    for key, newest in history.latest().items():
        if newest.state is RunState.SUCCEEDED:
            last[key] = succeeded[key] = newest
            continue
        for run in map(settled, history.runs(key, limit=_RUNS_READ)):
            if run.state in _OVER:
                last.setdefault(key, run)
            if run.state is RunState.SUCCEEDED:
                succeeded[key] = run
                break
    found = {run.id: logs.progress(run.id) for run in running.values()}
    progress = {name: each for name, each in found.items() if each is not None}
    alarms = tuple(history.alarms())
    return Memory(runs, running, progress, last, succeeded, history.seen(), alarms)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What happens next. `next_starts` None: nobody who knows was asked, the schedules say it.

    `zone_of` returns the zone of a policy's name for it, and raises ValueError for one unknown.
    """

    zone_of: Callable[[str | None], tzinfo]
    next_starts: Mapping[SourceKey, datetime] | None = None
    retries: Mapping[SourceKey, datetime] = field(default_factory=dict)

    def next_start(self, policy: Policy, key: SourceKey, now: datetime) -> datetime | None:
        """Return when a source is backed up next; None: by hand only."""
        if self.next_starts is not None:
            return self.next_starts.get(key)
        return self.first_start(policy, key, now)

    def first_start(self, policy: Policy, key: SourceKey, after: datetime) -> datetime | None:
        """Return when the first run starts that the schedule asks for after a moment."""
        schedule = policy.schedule
        if schedule is None or not policy.enabled:
            return None
        try:
            zone = self.zone_of(schedule.timezone)
        except ValueError:
            return None
        due = next_due(schedule, after, zone=zone)
        return None if due is None else starts_at(schedule, due, zone=zone, salt=str(key))


@dataclass(frozen=True, slots=True)
class Host:
    """Whose status it is, and which daemon is at work on it, since when."""

    name: str
    version: str
    daemon_pid: int | None = None
    daemon_since: datetime | None = None


def assemble(
    host: Host,
    policies: Sequence[Policy],
    vaults: Mapping[str, VaultPoints],
    memory: Memory,
    outlook: Outlook,
    *,
    now: datetime,
    problems: Sequence[str],
) -> Status:
    """Return the status of a host."""
    points: dict[SourceKey, list[PointSummary]] = defaultdict(list)
    for vault in vaults.values():
        for point in vault.points:
            points[point.key].append(point)
    since = now - timedelta(days=DAYS)
    sources = []
    for policy in sorted(policies, key=lambda each: each.name):
        for spec in sorted(policy.sources, key=lambda each: each.name):
            key = SourceKey(policy.vault, spec.name)
            held = tuple(points.get(key, ()))
            verdict = _verdict(policy, key, held, memory, outlook, now=now)
            running = memory.running.get(key)
            sources.append(
                SourceStatus(
                    key=key,
                    policy=policy.name,
                    kinds=_kinds(spec),
                    enabled=policy.enabled,
                    rpo=policy.objectives.rpo,
                    verdict=verdict,
                    newest=held[-1] if held else None,
                    points=tuple(point for point in held if point.taken_at >= since),
                    last=memory.last.get(key),
                    success=memory.succeeded.get(key),
                    running=running,
                    progress=memory.progress.get(running.id) if running else None,
                    retry_at=outlook.retries.get(key),
                    next_start=outlook.next_start(policy, key, now),
                    alarms=(),
                )
            )
    alarms = memory.alarms if host.daemon_pid else _looked_after(memory.alarms, sources, now)
    alarms = tuple(sorted(alarms, key=lambda each: each.raised, reverse=True))
    return Status(
        at=now,
        host=host.name,
        version=host.version,
        days=DAYS,
        daemon_pid=host.daemon_pid,
        daemon_since=host.daemon_since,
        sources=tuple(_with_alarms(source, alarms) for source in sources),
        vaults=tuple(
            VaultStatus(
                name=name,
                store=vault.store,
                points=len(vault.points),
                stored=sum(point.stored for point in vault.points),
                problem=vault.problem or _forgotten(name, vault, memory),
            )
            for name, vault in vaults.items()
        ),
        runs=memory.runs[:_RUNS_SHOWN],
        failures=tuple(run for run in memory.runs if run.state in _FAILED)[:_FAILURES_SHOWN],
        alarms=alarms,
        problems=tuple(problems),
    )


def _verdict(
    policy: Policy,
    key: SourceKey,
    points: tuple[PointSummary, ...],
    memory: Memory,
    outlook: Outlook,
    *,
    now: datetime,
) -> Verdict:
    seen = memory.seen.get(key, now)
    return judge(
        # Nobody promises anything of a source that is not to be backed up.
        policy.objectives if policy.enabled else Objectives(),
        points,
        now=now,
        seen=seen,
        first_due=None if points else outlook.first_start(policy, key, seen),
        last_drill=None,
    )


def _looked_after(
    alarms: Sequence[Alarm], sources: Sequence[SourceStatus], now: datetime
) -> tuple[Alarm, ...]:
    """Return the alarms as a daemon would have them: without one, nobody raises or clears any.

    What the restore points say is up; what a success has ended since is not.
    """
    known = {(alarm.subject, alarm.kind): alarm for alarm in alarms}
    found = []
    ended = set()
    for source in sources:
        subject = str(source.key)
        for each in source.verdict.findings:
            before = known.get((subject, each.kind))
            since = source.verdict.breach_at if each.kind in _AGES else None
            raised = before.raised if before else min(now, since or now)
            found.append(Alarm(subject, each.kind, each.message, each.hint, raised))
        if source.last is not None and source.last.state is RunState.SUCCEEDED:
            ended |= {
                (subject, kind)
                for kind in (objectives.FAILED, objectives.MISSED)
                if (alarm := known.get((subject, kind))) and alarm.raised <= source.last.started
            }
    kept = [
        alarm for place, alarm in known.items() if alarm.kind not in _JUDGED and place not in ended
    ]
    return (*found, *kept)


def _forgotten(name: str, vault: VaultPoints, memory: Memory) -> str | None:
    """Say that what was known of a vault is lost; None if it is not, or was never known."""
    if vault.is_known or not any(key.vault == name for key in memory.succeeded):
        return None
    return "its catalog is lost on this host; the next backup, or a list, reads it from the vault"


def _with_alarms(source: SourceStatus, alarms: Sequence[Alarm]) -> SourceStatus:
    own = tuple(alarm for alarm in alarms if alarm.subject == str(source.key))
    return replace(source, alarms=own)


def _kinds(spec: SourceSpec) -> tuple[str, ...]:
    return tuple(dict.fromkeys(stream.kind for stream in spec.streams))
