# SPDX-License-Identifier: Apache-2.0
"""The status of a host, put together from its restore points, its history and its policies."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, tzinfo
from typing import Final

from snapvault.engine.troubles import Troubles
from snapvault.model import drills, objectives, prunes
from snapvault.model.copies import CopyStatus
from snapvault.model.drills import DrillSummary
from snapvault.model.notices import NotifierStanding
from snapvault.model.objectives import JUDGED, Drilled, Verdict, judge
from snapvault.model.policy import Objectives, Policy, SourceSpec
from snapvault.model.prunes import PruneSummary
from snapvault.model.runs import Alarm, PointSummary, Progress, Run, RunState, SourceKey
from snapvault.model.schedule import next_due, starts_at
from snapvault.model.status import Following, SourceStatus, Status, VaultStatus, Watched
from snapvault.model.usage import Usage
from snapvault.model.verifies import VerifySummary, last_of_levels, unmended
from snapvault.ports.history import History, RunLogs

DAYS: Final = 35
"""Days of which restore points are shown: five weeks."""

_RUNS_SHOWN: Final = 200
_RUNS_READ: Final = 1000
_FAILURES_SHOWN: Final = 20
_DRILLS_SHOWN: Final = 20
_FAILED: Final = (RunState.FAILED, RunState.INTERRUPTED, RunState.MISSED)
_AGES: Final = (objectives.RPO, objectives.NEVER)
_OVER: Final = frozenset((RunState.SUCCEEDED, RunState.FAILED, RunState.INTERRUPTED))


@dataclass(frozen=True, slots=True)
class VaultPoints:
    """What is known of a vault on this host: its points, by source and time, and what is wrong.

    `troubles` is what else was wrong with it. `is_known` is False until the vault has been
    opened here. `pruned_at` is when this host pruned it last. `copy` is how it
    stands as a copy that policies ask for.
    """

    store: str
    points: tuple[PointSummary, ...]
    is_known: bool = True
    problem: str | None = None
    pruned_at: datetime | None = None
    troubles: Troubles = field(default_factory=Troubles)
    copy: CopyStatus | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What the history says, read at one moment. Without a history it is empty.

    `runs` are newest first. `last` and `succeeded` are each source's last run that is over,
    and the last that succeeded; `progress` is by a run's id. `drills` are the last of all, newest
    first, `last_drills` each source's.
    """

    runs: tuple[Run, ...] = ()
    running: Mapping[SourceKey, Run] = field(default_factory=dict)
    progress: Mapping[str, Progress] = field(default_factory=dict)
    last: Mapping[SourceKey, Run] = field(default_factory=dict)
    succeeded: Mapping[SourceKey, Run] = field(default_factory=dict)
    seen: Mapping[SourceKey, datetime] = field(default_factory=dict)
    alarms: tuple[Alarm, ...] = ()
    drills: tuple[DrillSummary, ...] = ()
    last_drills: Mapping[SourceKey, DrillSummary] = field(default_factory=dict)
    drilled: Mapping[SourceKey, Drilled] = field(default_factory=dict)
    verifies: tuple[VerifySummary, ...] = ()
    prunes: tuple[PruneSummary, ...] = ()
    requests: Mapping[str, int] = field(default_factory=dict)
    usage: Mapping[str, Mapping[str, Usage]] = field(default_factory=dict)
    notifiers: tuple[NotifierStanding, ...] = ()
    following: Following | None = None


def remember(history: History, logs: RunLogs, settled: Callable[[Run], Run]) -> Memory:
    """Read the history; `settled` returns a run at work as it ended, if its process is gone.

    Raises:
        StateError, ConfigError: it cannot be read.
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
    passed = history.last_drills(drills.Verdict.PASSED)
    failed = history.last_drills(drills.Verdict.FAILED)
    return Memory(
        runs=runs,
        running=running,
        progress=progress,
        last=last,
        succeeded=succeeded,
        seen=history.seen(),
        alarms=tuple(history.alarms()),
        drills=tuple(history.drills(limit=_DRILLS_SHOWN)),
        last_drills=history.last_drills(),
        drilled={
            key: Drilled(passed.get(key), failed.get(key))
            for key in {*passed.keys(), *failed.keys()}
        },
        verifies=tuple(history.verifies()),
        prunes=tuple(history.prunes()),
        requests=history.requests(),
        usage=history.usage(),
        notifiers=tuple(history.notifiers()),
        following=history.following(),
    )


def watch(
    policies: Sequence[Policy],
    *,
    first_dues: Mapping[SourceKey, datetime],
    next_starts: Mapping[SourceKey, datetime],
    retries: Mapping[SourceKey, datetime],
) -> tuple[Watched, ...]:
    """Return the sources of policies, by policy and name, as whoever follows them has them."""
    return tuple(
        Watched(
            key=(key := SourceKey(policy.vault, spec.name)),
            policy=policy.name,
            kinds=_kinds(spec),
            enabled=policy.enabled,
            objectives=policy.objectives,
            first_due=first_dues.get(key),
            next_start=next_starts.get(key),
            retry_at=retries.get(key),
        )
        for policy in sorted(policies, key=lambda each: each.name)
        for spec in sorted(policy.sources, key=lambda each: each.name)
    )


def scheduled(
    policies: Sequence[Policy],
    zone_of: Callable[[str | None], tzinfo],
    seen: Mapping[SourceKey, datetime],
    *,
    now: datetime,
) -> tuple[Watched, ...]:
    """Return the sources of policies as their schedules alone have them: nobody follows them.

    `zone_of` returns the zone of a policy's name for it, and raises ValueError for one unknown.
    """
    first_dues: dict[SourceKey, datetime] = {}
    next_starts: dict[SourceKey, datetime] = {}
    for policy in policies:
        for spec in policy.sources:
            key = SourceKey(policy.vault, spec.name)
            following = _start_after(policy, key, zone_of, now)
            if following is not None:
                next_starts[key] = following
            first = _start_after(policy, key, zone_of, seen.get(key, now))
            if first is not None:
                first_dues[key] = first
    return watch(policies, first_dues=first_dues, next_starts=next_starts, retries={})


def _start_after(
    policy: Policy, key: SourceKey, zone_of: Callable[[str | None], tzinfo], after: datetime
) -> datetime | None:
    """Return when the first run starts that a schedule asks for after a moment; None: by hand."""
    schedule = policy.schedule
    if schedule is None or not policy.enabled:
        return None
    try:
        zone = zone_of(schedule.timezone)
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
    watched: Sequence[Watched],
    vaults: Mapping[str, VaultPoints],
    memory: Memory,
    *,
    now: datetime,
    problems: Sequence[str],
) -> Status:
    """Return the status of a host."""
    points: dict[SourceKey, list[PointSummary]] = defaultdict(list)
    for vault in vaults.values():
        for point in vault.points:
            points[point.key].append(point)
    sources = [_source(each, tuple(points.get(each.key, ())), memory, now) for each in watched]
    alarms = memory.alarms
    if host.daemon_pid is None:
        alarms = _looked_after(memory.alarms, sources, _of_vaults(memory, vaults), now)
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
                requests=memory.requests.get(name, 0),
                usage=memory.usage.get(name, {}),
                verifies=last_of_levels(memory.verifies, name),
                pruned_at=vault.pruned_at,
                prune=prunes.newest(memory.prunes, name),
                copy=vault.copy,
            )
            for name, vault in vaults.items()
        ),
        runs=memory.runs[:_RUNS_SHOWN],
        failures=tuple(run for run in memory.runs if run.state in _FAILED)[:_FAILURES_SHOWN],
        alarms=alarms,
        problems=tuple(problems),
        drills=memory.drills,
        notifiers=memory.notifiers,
    )


def _source(
    watched: Watched, points: tuple[PointSummary, ...], memory: Memory, now: datetime
) -> SourceStatus:
    """Return how a source stands; its alarms are put in later."""
    key = watched.key
    since = now - timedelta(days=DAYS)
    running = memory.running.get(key)
    drilled = memory.drilled.get(key, Drilled())
    return SourceStatus(
        key=key,
        policy=watched.policy,
        kinds=watched.kinds,
        enabled=watched.enabled,
        rpo=watched.objectives.rpo,
        verdict=_verdict(watched, points, drilled, memory.seen.get(key, now), now),
        newest=points[-1] if points else None,
        points=tuple(point for point in points if point.taken_at >= since),
        last=memory.last.get(key),
        success=memory.succeeded.get(key),
        running=running,
        progress=memory.progress.get(running.id) if running else None,
        retry_at=watched.retry_at,
        next_start=watched.next_start,
        alarms=(),
        rto=watched.objectives.rto,
        drill=memory.last_drills.get(key),
        good_drill=drilled.passed,
    )


def _verdict(
    watched: Watched,
    points: tuple[PointSummary, ...],
    drilled: Drilled,
    seen: datetime,
    now: datetime,
) -> Verdict:
    # Nobody promises anything of a source that is not to be backed up.
    is_promised = watched.enabled
    return judge(
        watched.objectives if is_promised else Objectives(),
        points,
        now=now,
        seen=seen,
        first_due=None if points else watched.first_due,
        drilled=drilled if is_promised else Drilled(),
    )


def _of_vaults(
    memory: Memory, vaults: Mapping[str, VaultPoints]
) -> list[tuple[str, objectives.Finding, datetime]]:
    """Return what verifies, prunes, copies and looks alarm of, as (vault, what, since when)."""
    damaged = unmended(memory.verifies).items()
    refused = prunes.unpruned(memory.prunes).items()
    found = [(vault, objectives.damaged(each), each.ended) for vault, each in damaged]
    found += [(vault, objectives.unpruned(each), each.ended) for vault, each in refused]
    for name, vault in vaults.items():
        if vault.troubles.messages and vault.troubles.since is not None:
            finding = objectives.troubled(name, vault.troubles.messages)
            found.append((name, finding, vault.troubles.since))
        if vault.copy is not None and vault.copy.is_alarm and (note := vault.copy.note):
            found.append((name, objectives.uncopied(vault.copy.of, name, note), note.at))
    return [each for each in found if each[0] in vaults]


def _looked_after(
    alarms: Sequence[Alarm],
    sources: Sequence[SourceStatus],
    of_vaults: Sequence[tuple[str, objectives.Finding, datetime]],
    now: datetime,
) -> tuple[Alarm, ...]:
    """Return the alarms as a daemon would have them: without one, nobody raises or clears any.

    What restore points, drills, verifies and prunes say is up; what a success ended since is not.
    """
    known = {(alarm.subject, alarm.kind): alarm for alarm in alarms}
    found = []
    ended = set()
    for source in sources:
        subject = str(source.key)
        for each in source.verdict.findings:
            before = known.get((subject, each.kind))
            since = source.verdict.breach_at if each.kind in _AGES else None
            if each.kind in {objectives.DRILL_FAILED, objectives.RTO} and source.drill is not None:
                since = source.drill.ended
            raised = before.raised if before else min(now, since or now)
            found.append(Alarm(subject, each.kind, each.message, each.hint, raised))
        if source.last is not None and source.last.state is RunState.SUCCEEDED:
            ended |= {
                (subject, kind)
                for kind in (objectives.FAILED, objectives.MISSED)
                if (alarm := known.get((subject, kind))) and alarm.raised <= source.last.started
            }
    for vault, finding, at in of_vaults:
        before = known.get((vault, finding.kind))
        raised = before.raised if before else min(now, at)
        found.append(Alarm(vault, finding.kind, finding.message, finding.hint, raised))
    looked_at = JUDGED | objectives.OF_VAULTS
    kept = [
        alarm
        for place, alarm in known.items()
        if alarm.kind not in looked_at and place not in ended
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
