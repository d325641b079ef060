# SPDX-License-Identifier: Apache-2.0
"""What the pages show of a status: how each source stands, what comes first. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from operator import attrgetter
from urllib.parse import quote

from snapvault.daemon.web import words
from snapvault.model.drills import DrillSummary, Verdict
from snapvault.model.notices import NotifierStanding
from snapvault.model.objectives import NEVER, RPO, RpoState
from snapvault.model.runs import Alarm, Run, RunState, SourceKey
from snapvault.model.status import SourceStatus, Status
from snapvault.units import format_count

_WENT_WRONG = (RunState.FAILED, RunState.INTERRUPTED, RunState.MISSED)


class Lamp(StrEnum):
    """How a source stands, the worst first. Each has a shape and a word beside its color."""

    ALARM = "alarm"
    FAILED = "failed"
    WAITING = "waiting"
    OFF = "off"
    GOOD = "good"


_OF_DRILLS = {
    Verdict.PASSED: Lamp.GOOD,
    Verdict.FAILED: Lamp.ALARM,
    Verdict.SKIPPED: Lamp.OFF,
}
_ORDER = {lamp: rank for rank, lamp in enumerate(Lamp)}
_PROBLEMS = frozenset((Lamp.ALARM, Lamp.FAILED))


@dataclass(frozen=True, slots=True)
class Row:
    """A source in the overview: its lamp, and in a word why."""

    source: SourceStatus
    lamp: Lamp
    word: str

    @property
    def has_problem(self) -> bool:
        """Whether somebody should look at it."""
        return self.lamp in _PROBLEMS

    @property
    def href(self) -> str:
        """Where its page is."""
        return source_href(self.source.key)

    @property
    def used(self) -> float | None:
        """The part of its RPO that its newest point has used up, at most 1."""
        age, rpo = self.source.verdict.age, self.source.rpo
        if age is None or not rpo:
            return None
        return min(1.0, max(0.0, age / rpo.total_seconds()))


@dataclass(frozen=True, slots=True)
class Group:
    """The sources of a policy, those with problems first. `name` is the policy's."""

    name: str
    rows: Sequence[Row]

    @property
    def problems(self) -> int:
        """How many of them somebody should look at."""
        return sum(row.has_problem for row in self.rows)


@dataclass(frozen=True, slots=True)
class AlarmGroup:
    """Alarms of one kind, the newest first. `hint` is there if all of them have the same."""

    title: str
    hint: str | None
    alarms: Sequence[Alarm]


@dataclass(frozen=True, slots=True)
class DrillRow:
    """A drill, and what the policy of its source promises now."""

    drill: DrillSummary
    rto: timedelta | None
    rpo: timedelta | None

    @property
    def lamp(self) -> Lamp:
        """How it ended; skipped proves nothing, and one that came too late little."""
        if self.drill.verdict is Verdict.PASSED and (self.is_slow or self.is_old):
            return Lamp.FAILED
        return _OF_DRILLS[self.drill.verdict]

    @property
    def is_slow(self) -> bool:
        """Whether the recovery took longer than promised."""
        ready = self.drill.seconds_to_ready
        return ready is not None and self.rto is not None and ready > self.rto.total_seconds()

    @property
    def is_old(self) -> bool:
        """Whether the restore point was older than promised."""
        age = self.drill.age
        return age is not None and self.rpo is not None and age > self.rpo.total_seconds()

    @property
    def href(self) -> str:
        """Where the page of its source is."""
        return source_href(self.drill.key)

    @property
    def command(self) -> str:
        """What shows its report."""
        return f"snapvault drill report {self.drill.id}"


@dataclass(frozen=True, slots=True)
class Headline:
    """How a host stands, in a sentence."""

    lamp: Lamp
    text: str


def source_href(key: SourceKey) -> str:
    """Return the address of a source's page."""
    return f"/source/{_escaped(key.vault)}/{_escaped(key.source)}"


def subject_href(subject: str) -> str:
    """Return the address of the source that an alarm is about."""
    vault, _, source = subject.partition("/")
    return source_href(SourceKey(vault, source))


def run_href(run: str) -> str:
    """Return the address of a run's page."""
    return f"/run/{_escaped(run)}"


def _escaped(name: str) -> str:
    return quote(name, safe="", errors="replace")


def row(source: SourceStatus) -> Row:
    """Judge how a source stands, for people: its objectives first, then its last run."""
    if source.alarms or source.verdict.rpo is RpoState.BREACHED:
        kinds = [alarm.kind for alarm in source.alarms]
        kinds = kinds or [RPO if source.newest else NEVER]
        said = ", ".join(dict.fromkeys(words.alarm_word(kind) for kind in kinds))
        return Row(source, Lamp.ALARM, said)
    if source.last is not None and source.last.state in _WENT_WRONG:
        return Row(source, Lamp.FAILED, f"last run {words.run_state(source.last)}")
    if not source.enabled:
        return Row(source, Lamp.OFF, "policy is not enabled")
    if source.newest is None:
        return Row(source, Lamp.WAITING, "waiting for its first run")
    return Row(source, Lamp.GOOD, "protected")


def groups(rows: Iterable[Row]) -> list[Group]:
    """Group rows by policy; what has problems comes first, in the groups and among them."""
    by_policy: dict[str, list[Row]] = defaultdict(list)
    for one in rows:
        by_policy[one.source.policy].append(one)
    found = [
        Group(name, sorted(members, key=lambda one: (_ORDER[one.lamp], one.source.key)))
        for name, members in by_policy.items()
    ]
    return sorted(found, key=lambda group: (not group.problems, group.name))


def alarm_groups(alarms: Iterable[Alarm]) -> list[AlarmGroup]:
    """Group alarms by their kind; what concerns the host comes before what concerns sources."""
    by_kind: dict[str, list[Alarm]] = defaultdict(list)
    for alarm in alarms:
        by_kind[alarm.kind].append(alarm)
    found = []
    for kind, members in by_kind.items():
        hints = {alarm.hint for alarm in members}
        shared = members[0].hint if len(hints) == 1 else None
        found.append(AlarmGroup(words.alarm_title(kind), shared, members))
    return sorted(found, key=lambda group: "/" in group.alarms[0].subject)


def headline(status: Status, rows: Sequence[Row]) -> Headline:
    """Say how the host stands."""
    count = len(rows)
    lamps = Counter(one.lamp for one in rows)
    if lamps[Lamp.ALARM]:
        return Headline(Lamp.ALARM, _of(lamps[Lamp.ALARM], count, "needs", "need", "attention"))
    if status.alarms or any(vault.problem for vault in status.vaults):
        return Headline(Lamp.ALARM, "This host needs attention")
    if lamps[Lamp.FAILED]:
        return Headline(
            Lamp.FAILED, _of(lamps[Lamp.FAILED], count, "failed", "failed", "last time")
        )
    deaf = [each for each in status.notifiers if not each.is_up]
    if deaf:
        some = "Somebody" if len(deaf) == 1 else f"{len(deaf)} notifiers"
        return Headline(Lamp.FAILED, f"{some} cannot be told")
    if lamps[Lamp.GOOD]:
        return Headline(Lamp.GOOD, _of(lamps[Lamp.GOOD], count, "is", "are", "protected"))
    return Headline(Lamp.WAITING, "Nothing is backed up yet")


def _of(some: int, count: int, one_does: str, many_do: str, rest: str) -> str:
    if count == 1:
        return f"The only source {one_does} {rest}"
    if some == count:
        return f"All {format_count(count)} sources {many_do} {rest}"
    return f"{some} of {format_count(count)} sources {one_does if some == 1 else many_do} {rest}"


def drill_rows(status: Status) -> list[DrillRow]:
    """Return the last drills, newest first."""
    sources = {source.key: source for source in status.sources}
    return [drill_row(drill, sources.get(drill.key)) for drill in status.drills]


def drill_row(drill: DrillSummary, source: SourceStatus | None) -> DrillRow:
    """Return a drill beside the promises of its source, if a policy still has it."""
    return DrillRow(drill, source.rto if source else None, source.rpo if source else None)


def notifier_lamp(standing: NotifierStanding) -> Lamp:
    """Return how a notifier stands."""
    if not standing.is_up:
        return Lamp.FAILED
    return Lamp.GOOD if standing.delivered_at is not None else Lamp.WAITING


def upcoming(status: Status) -> list[tuple[datetime, SourceStatus, bool]]:
    """Return what starts next, soonest first: when, what, and whether it is a retry."""
    found = []
    for source in status.sources:
        moments = [(at, again) for at, again in _starts(source) if at is not None]
        if moments and source.running is None:
            at, again = min(moments)
            found.append((at, source, again))
    return sorted(found, key=lambda one: (one[0], one[1].key))


def _starts(source: SourceStatus) -> Sequence[tuple[datetime | None, bool]]:
    return ((source.next_start, False), (source.retry_at, True))


def known_runs(status: Status) -> Mapping[str, Run]:
    """Return every run that a status speaks of, by its id."""
    of_sources = (
        run
        for source in status.sources
        for run in (source.running, source.last, source.success)
        if run is not None
    )
    return {run.id: run for run in (*of_sources, *status.failures, *status.runs)}


def runs_of(status: Status, key: SourceKey) -> list[Run]:
    """Return the runs of a source that a status speaks of, newest first."""
    found = [run for run in known_runs(status).values() if run.key == key]
    return sorted(found, key=attrgetter("started"), reverse=True)
