# SPDX-License-Identifier: Apache-2.0
"""The scheduler: follows the schedules, starts jobs, keeps the history and raises alarms.

One thread calls `tick`, again and again, with the time. What is to be done is decided by
`model.agenda`; this carries it out. Everything it knows is in memory, and in the history only
for the next start: a history that cannot be used stops no backup.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from snapvault.config.problems import Problem
from snapvault.daemon.alarms import Alarms
from snapvault.daemon.judging import Judging
from snapvault.daemon.ledger import Ledger, Memory
from snapvault.daemon.others import Others
from snapvault.daemon.outcomes import Outcomes
from snapvault.daemon.resuming import look_back
from snapvault.daemon.roster import Followed, Named, Roster, first_slot, read_roster
from snapvault.daemon.shelf import Shelf
from snapvault.daemon.words import Words, held_up
from snapvault.model import agenda, objectives
from snapvault.model.agenda import GRACE, Start, Timing
from snapvault.model.notices import Notice
from snapvault.model.objectives import Finding
from snapvault.model.policy import Policy
from snapvault.model.prunes import unpruned
from snapvault.model.runs import PointSummary, Run, RunState, SourceKey, Trigger
from snapvault.model.settings import Settings
from snapvault.model.verifies import unmended
from snapvault.ports.events import Events
from snapvault.ports.history import History
from snapvault.ports.jobs import Jobs, Order

LONGEST_PAUSE: Final = 5.0  # seconds; a clock that is set is noticed after so many

_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)
_DAEMON: Final = "daemon"
_UNFOLLOWED: Final = ""  # the schedule of a source that has none
_LOOK_EVERY: Final = timedelta(seconds=30)  # at runs of others
_RESULTS_EVERY: Final = timedelta(minutes=2)  # of drills, verifies and prunes
_MEND_EVERY: Final = timedelta(minutes=1)
_READ_EVERY: Final = timedelta(hours=1)


class Scheduler:
    """Used by one thread; `next_starts`, `retries` and `first_dues` by any.

    `points` returns a vault's restore points, oldest first, `zone_of` a schedule's zone. `alive`
    tells whether the process of a run that an earlier scheduler or a person started is still
    there. `copies` returns what is wrong with copies, by vault. `grace` is how late a start may be
    noticed: whoever calls seldom needs more.
    """

    def __init__(  # noqa: PLR0913 - the world of a scheduler, each part given in
        self,
        *,
        settings: Settings,
        policies: Sequence[Policy],
        problems: Sequence[Problem],
        history: History,
        jobs: Jobs,
        points: Callable[[str], Sequence[PointSummary]],
        tell: Callable[[Notice], None],
        zone_of: Callable[[str | None], tzinfo],
        new_id: Callable[[], str],
        host: str,
        log: Events,
        alive: Callable[[Run], bool],
        grace: timedelta = GRACE,
        troubles: Callable[[], Mapping[str, Sequence[str]]] = dict,
        copies: Callable[[], Mapping[str, Finding]] = dict,
    ) -> None:
        self._settings = settings
        self._rules: tuple[Sequence[Policy], Sequence[Problem]] | None = (policies, problems)
        self._jobs = jobs
        self._tell = tell
        self._zone_of = zone_of
        self._new_id = new_id
        self._log = log
        self._grace = grace
        self._troubles = troubles
        self._copies = copies
        self._words = Words(host)
        self._ledger = Ledger(history)
        self._alarms = Alarms(self._ledger, tell, self._words)
        self._shelf = Shelf(points, log)
        self._judging = Judging(self._shelf, self._alarms)
        self._others = Others(self._ledger, self._shelf, alive)
        self._outcomes = Outcomes(self._ledger, self._alarms, self._judging, tell, self._words)
        self._sources: dict[SourceKey, Followed] = {}
        self._running: dict[SourceKey, Run] = {}  # started here
        self._stale: set[str] = set()  # vaults whose catalogs are to be read
        self._begun = False
        self._last = self._next = self._wake = self._attended = _LONG_AGO
        self._look_at = self._results_at = self._mend_at = self._read_at = _LONG_AGO

    def tick(self, now: datetime) -> float:
        """Do what is to be done now; return in how many seconds to call again, at the latest.

        To be called sooner when a job has ended.
        """
        jumped = self._notice_clock(now)
        ended = self._jobs.ended()
        if self._rules is None and not ended and not jumped and now < self._next:
            return self._pause(now)
        for run in ended:
            self._running.pop(run.key, None)
            self._end_seen(run, now)
        self._apply_rules(now)
        self._keep_house(now)
        self._plan(now, jumped=jumped)
        self._start(now)
        self._judging.judge(self._sources.values(), self._is_at_work, now)
        self._mind_ledger(now)
        wakes = [source.wake for source in self._sources.values() if source.wake is not None]
        self._wake = min(wakes, default=now + _LOOK_EVERY)
        self._next = min(
            self._wake,
            self._look_at,
            self._results_at,
            self._mend_at,
            self._read_at,
            *(source.judge_at for source in self._sources.values()),
        )
        return self._pause(now)

    def reload(
        self,
        settings: Settings,
        policies: Sequence[Policy],
        problems: Sequence[Problem],
        *,
        now: datetime,
    ) -> None:
        """Follow these from now on; jobs that run are not touched."""
        self._settings = settings
        self._rules = (policies, problems)
        if self._begun:
            self._apply_rules(now)
            self._next = self._wake = now

    def remember_all(self) -> None:
        """Write into a history that was lost what the next start will ask for."""
        for source in self._sources.values():
            self._ledger.set_seen(source.key, source.seen)
            self._ledger.set_handled(source.key, source.handled)
            self._ledger.set_schedule(source.key, _asks(source.timing))
            if source.failed is not None:
                self._ledger.put(source.failed)
        for run in self._running.values():
            self._ledger.put(run)
        self._alarms.remember_all()

    def stop(self, now: datetime, seconds: float) -> None:
        """End all jobs within so many seconds, and remember how they ended. No tick may follow."""
        for run in self._jobs.ended():
            self._running.pop(run.key, None)
            self._end(run, now)
        for run in self._jobs.stop(seconds):
            self._running.pop(run.key, None)
            if run.state is RunState.SUCCEEDED:
                self._end(run, max(run.ended or now, now))
            else:
                self._outcomes.stop(run, now)
        self._ledger.mend()

    def look_at_results(self) -> None:
        """Look at what drills, verifies and prunes came to with the next tick: one has ended."""
        self._results_at = _LONG_AGO

    def round_over(self) -> bool:
        """Tell, after a tick, whether all that was due has been run, and nothing may start now."""
        return (
            self._begun
            and not self._running
            and all(source.ready is None for source in self._sources.values())
        )

    def next_starts(self) -> Mapping[SourceKey, datetime]:
        """Return when each source starts next, by its schedule or to try again; none: left out."""
        moments: dict[SourceKey, datetime] = {}
        for source in list(self._sources.values()):
            following, again = source.following, source.again  # read once: another thread writes
            each = [following] if following is not None else []
            each += [again.at] if again is not None else []
            if each:
                moments[source.key] = min(each)
        return moments

    def retries(self) -> Mapping[SourceKey, datetime]:
        """Return when failed runs are tried again."""
        waiting = [(source.key, source.again) for source in list(self._sources.values())]
        return {key: again.at for key, again in waiting if again is not None}

    def first_dues(self) -> Mapping[SourceKey, datetime]:
        """Return when each source was, or is, due first since it was first seen."""
        firsts = [(source.key, source.first) for source in list(self._sources.values())]
        return {key: first.start for key, first in firsts if first is not None}

    # --- time -------------------------------------------------------------------------------

    def _notice_clock(self, now: datetime) -> bool:
        """Notice that the clock jumped, or that nobody looked for a while."""
        before, self._last = self._last, now
        if not self._begun or before <= now <= before + self._grace:
            return False
        self._attended = now
        if now < before:
            self._log.warn(
                "clock.set_back",
                "the clock was set back",
                seconds=(before - now).total_seconds(),
            )
            self._look_at = self._results_at = self._mend_at = self._read_at = now
            for source in self._sources.values():
                source.judge_at = now
                if source.again is not None:
                    latest = now + source.policy.retry.max_delay
                    source.again = replace(source.again, at=min(source.again.at, latest))
        for source in self._sources.values():
            source.wake = now if source.timing is not None else None
        return True

    def _pause(self, now: datetime) -> float:
        # Only starts are worth being woken for; the rest may be some seconds late.
        return min(LONGEST_PAUSE, max(0.0, (self._wake - now).total_seconds()))

    # --- what counts ------------------------------------------------------------------------

    def _apply_rules(self, now: datetime) -> None:
        """Begin to follow the policies that were given since the last tick."""
        if self._rules is None:
            return
        policies, problems = self._rules
        self._rules = None
        roster = read_roster(policies, problems, self._zone_of)
        if self._begun:
            self._shelf.read({key.vault for key in roster.sources} - self._vaults(), now)
            self._follow(roster, now)
        else:
            self._begin(roster, now)
        self._alarms.settle_rules(roster.alarms, roster.policies, now)
        self._alarms.forget_sources(map(str, self._sources), now)

    def _begin(self, roster: Roster, now: datetime) -> None:
        """Take up the work where the history says that it was left."""
        memory = self._ledger.load()
        self._alarms.load(memory.alarms)
        self._attended = self._look_at = self._results_at = self._mend_at = now
        self._shelf.read({key.vault for key in roster.sources}, now)
        self._read_at = now + _READ_EVERY
        unfollowed = memory.handled.keys() - roster.timed()
        if roster.alarms:  # a policy that is broken names sources that we cannot see
            unfollowed &= roster.idle
        for key in unfollowed:
            if memory.schedules.get(key) != _UNFOLLOWED:
                self._ledger.set_schedule(key, _UNFOLLOWED)
        for key, named in roster.sources.items():
            self._sources[key] = self._resumed(key, named, memory, now)
        self._begun = True
        self._find_others(now)

    def _resumed(self, key: SourceKey, named: Named, memory: Memory, now: datetime) -> Followed:
        seen = memory.seen.get(key, now)
        asks = _asks(named.timing)
        # What another schedule would have wanted until now was never promised.
        changed = memory.schedules.get(key, asks) != asks
        handled = now if changed else memory.handled.get(key, now)
        source = _followed(key, named, seen, handled, now)
        if key not in memory.seen or key not in memory.handled or changed:
            self._ledger.set_seen(key, seen)
            self._ledger.set_handled(key, handled)
        if asks and memory.schedules.get(key) != asks:
            # ORDER: after `handled`. The other way, a kill in between has runs reported as missed
            # that nobody had asked for.
            self._ledger.set_schedule(key, asks)
        past = look_back(self._ledger.recent(key), self._shelf.of(key), now)
        self._outcomes.resume(source, past, now)
        return source

    def _follow(self, roster: Roster, now: datetime) -> None:
        """Exchange the sources; those that stay go on where they are."""
        before, self._sources = self._sources, {}
        for key, named in roster.sources.items():
            source = before.get(key)
            if source is None:
                source = _followed(key, named, now, now, now)
                self._ledger.set_seen(key, now)
                self._ledger.set_handled(key, now)
                self._ledger.set_schedule(key, _asks(named.timing))
            else:
                self._exchange(source, named, now)
            self._sources[key] = source
        for key in before.keys() - roster.sources.keys():
            self._ledger.set_schedule(key, _UNFOLLOWED)

    def _exchange(self, source: Followed, named: Named, now: datetime) -> None:
        """Have a source follow what a policy says now."""
        asks = _asks(named.timing)
        changed = _asks(source.timing) != asks
        source.policy, source.spec, source.timing = named.policy, named.spec, named.timing
        source.first = first_slot(named.timing, source.seen)
        if changed:
            # What another schedule would have wanted until now was never promised.
            source.ready = source.following = source.held_up = None
            self._outcomes.follow(source, now)
            self._ledger.set_schedule(source.key, asks)
            self._outcomes.reconsider(source, now)
        source.wake = now if named.timing is not None else None
        source.judge_at = now

    def _vaults(self) -> set[str]:
        return {key.vault for key in self._sources}

    # --- what happened ----------------------------------------------------------------------

    def _keep_house(self, now: datetime) -> None:
        """Look at what changes without us: runs of others, catalogs, a history that came back."""
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            for run in self._others.look(self._vaults(), now):
                self._end_seen(run, now)
        if now >= self._results_at:
            self._results_at = now + _RESULTS_EVERY
            self._look_at_results(now)
        if now >= self._read_at:
            self._read_at = now + _READ_EVERY
            self._stale |= self._vaults()
            self._find_others(now)
        if now >= self._mend_at:
            self._mend_at = now + _MEND_EVERY
            if self._ledger.error is not None:
                self._ledger.mend()
        if self._stale:
            self._shelf.read(self._stale & self._vaults(), now)
            self._stale.clear()

    def _look_at_results(self, now: datetime) -> None:
        """Look at what drills, verifies and prunes, which others run, came to."""
        before = self._judging.drilled
        self._judging.drilled = self._ledger.drilled(before)
        for source in self._sources.values():
            if before.get(source.key) != self._judging.drilled.get(source.key):
                source.judge_at = now
        vaults = self._vaults() | self._settings.vaults.keys()
        if (verifies := self._ledger.verifies()) is not None:
            found = {
                vault: objectives.damaged(verify)
                for vault, verify in unmended(verifies).items()
                if vault in vaults
            }
            self._alarms.settle_vaults(objectives.DAMAGED, found, now)
        if (prunes := self._ledger.prunes()) is not None:
            found = {
                vault: objectives.unpruned(prune)
                for vault, prune in unpruned(prunes).items()
                if vault in vaults
            }
            self._alarms.settle_vaults(objectives.UNPRUNED, found, now)
        found = {
            vault: objectives.troubled(vault, messages)
            for vault, messages in self._troubles().items()
            if messages
        }
        self._alarms.settle_vaults(objectives.TROUBLED, found, now)
        self._alarms.settle_vaults(objectives.UNCOPIED, self._copies(), now)

    def _find_others(self, now: datetime) -> None:
        for run in self._others.find({run.id for run in self._running.values()}, now):
            self._end(run, now)

    def _end_seen(self, run: Run, now: datetime) -> None:
        """Take note of a run that was seen at work until now."""
        if (source := self._sources.get(run.key)) is not None:
            source.ended = run
        self._end(run, now)

    def _end(self, run: Run, now: datetime) -> None:
        self._stale.add(run.key.vault)
        self._outcomes.end(self._sources.get(run.key), run, now)

    # --- what is to be done -----------------------------------------------------------------

    def _plan(self, now: datetime, *, jumped: bool) -> None:
        for source in self._sources.values():
            if source.wake is None or source.wake > now or source.timing is None:
                continue
            source.wake = source.ready = None
            if source.key in self._running or source.key in self._others:
                continue  # its end wakes it
            self._settle_clock(source, now, jumped=jumped)
            plan = agenda.plan(
                source.timing,
                now,
                handled=source.handled,
                attended=self._attended,
                again=source.again,
                grace=self._grace,
            )
            if plan.given_up and source.failed is not None:
                self._outcomes.give_up(source, source.failed, now)
            if plan.missed is not None:
                by = _holder(source.ended, source.timing.start(plan.missed.last))
                self._outcomes.report(
                    source,
                    plan.missed,
                    now,
                    name=self._new_id(),
                    held_up=None if by is None else held_up(by),
                )
            source.ended = None
            source.ready, source.wake, source.following = plan.start, plan.wake, plan.following

    def _settle_clock(self, source: Followed, now: datetime, *, jumped: bool) -> None:
        """Follow the schedule from a sensible moment, wherever the clock was before."""
        if source.timing is not None and source.handled > now:
            start = agenda.anchor(source.timing, source.handled, now)
            if start != source.handled:
                source.ahead = source.handled
                self._outcomes.follow(source, start)
        elif jumped and source.ahead is not None and source.handled < source.ahead <= now:
            self._outcomes.follow(source, source.ahead)
            source.ahead = None

    def _start(self, now: datetime) -> None:
        """Start what may, the furthest behind its objective first, as far as the limits go."""
        free = self._settings.daemon.max_jobs - len(self._running)
        if free <= 0 or all(source.ready is None for source in self._sources.values()):
            return
        self._find_others(now)  # somebody may have begun by hand a moment ago
        ready = [
            (self._urgency(source, source.ready, now), source, source.ready)
            for source in self._sources.values()
            if source.ready is not None and source.key not in self._others
        ]
        by_policy = Counter(run.policy for run in self._running.values())
        for _, source, start in sorted(ready, key=lambda each: each[0]):
            if free <= 0:
                break
            limit = source.policy.max_jobs
            if limit is None or by_policy[source.policy.name] < limit:
                self._start_one(source, start, now)
                by_policy[source.policy.name] += 1
                free -= 1

    def _urgency(
        self, source: Followed, start: Start, now: datetime
    ) -> tuple[bool, float, datetime, str]:
        newest = self._shelf.newest(source.key, now)
        if source.tried is not None and start.trigger is not Trigger.RETRY:
            # One that fails, and for long, would else have the first turn at each of its dues.
            newest = max(min(source.tried, now), newest or source.tried)
        return agenda.urgency(
            now,
            due=start.due,
            newest=newest,
            rpo=source.policy.objectives.rpo,
            name=source.subject,
        )

    def _start_one(self, source: Followed, start: Start, now: datetime) -> None:
        run = Run(
            id=self._new_id(),
            key=source.key,
            policy=source.policy.name,
            state=RunState.RUNNING,
            trigger=start.trigger,
            started=now,
            due=start.due,
            attempt=start.attempt,
        )
        # ORDER: the run, then how far the schedule was followed, then the job. Whoever begins after
        # a kill in between finds a run without a process, and has it tried again.
        self._ledger.put(run)
        if start.due > source.handled:
            self._outcomes.follow(source, start.due)
        source.ready = source.wake = source.again = source.failed = source.ahead = None
        source.tried = now
        self._running[source.key] = run
        self._tell(self._words.started(run, now))
        self._jobs.start(Order(run, self._settings, source.policy, source.spec))

    # --- objectives and alarms --------------------------------------------------------------

    def _is_at_work(self, source: Followed) -> bool:
        """Tell whether a backup of it is going on, or as good as."""
        waits = source.ready is not None or source.again is not None
        return waits or source.key in self._running or source.key in self._others

    def _mind_ledger(self, now: datetime) -> None:
        """Tell when the history cannot be written, and when it can again."""
        error = self._ledger.error
        if error is None:
            self._alarms.recover(_DAEMON, objectives.DAEMON, now)
        elif self._alarms.get(_DAEMON, objectives.DAEMON) is None:
            self._log.warn("history.failed", str(error), hint=error.hint)
            finding = Finding(
                objectives.DAEMON, f"could not write the history: {error}", error.hint
            )
            self._alarms.breach(_DAEMON, finding, now)


def _holder(ended: Run | None, start: datetime) -> Run | None:
    """Return the run that has just ended, if it was still at work at a start."""
    if ended is None or ended.ended is None or not ended.started <= start <= ended.ended:
        return None
    return ended


def _asks(timing: Timing | None) -> str:
    return _UNFOLLOWED if timing is None else timing.asks


def _followed(
    key: SourceKey, named: Named, seen: datetime, handled: datetime, now: datetime
) -> Followed:
    return Followed(
        key=key,
        policy=named.policy,
        spec=named.spec,
        timing=named.timing,
        seen=seen,
        handled=handled,
        first=first_slot(named.timing, seen),
        wake=now if named.timing is not None else None,
        judge_at=now,
    )
