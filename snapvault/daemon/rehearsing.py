# SPDX-License-Identifier: Apache-2.0
"""Drills by schedule: one at a time, made up for once when they were missed.

What they show is in the reports, from which the history learns; alarms follow from that alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Final

from snapvault.daemon.learning import LookNote
from snapvault.errors import EXIT_DONE, ObjectiveMissedError, SnapVaultError
from snapvault.formats import names
from snapvault.model import agenda
from snapvault.model.agenda import Timing
from snapvault.model.drills import DrillSummary, Verdict
from snapvault.model.policy import Policy
from snapvault.model.rehearsal import KIND_NAMES
from snapvault.model.runs import SourceKey
from snapvault.model.settings import Settings
from snapvault.ports.events import Events
from snapvault.ports.history import History
from snapvault.ports.orders import Ended, Performer
from snapvault.ports.rehearsals import DrillOrder
from snapvault.units import format_duration

_LEARN_EVERY: Final = timedelta(hours=6)
_LEARN_LIMIT: Final = timedelta(minutes=15)
"""What a vault gives in that time is kept, and the next look goes on from there."""
_END_LIMIT: Final = timedelta(minutes=1)
_TOLD: Final = (EXIT_DONE, ObjectiveMissedError.exit_status)


@dataclass(slots=True)
class _Planned:
    """One policy's drills. `handled` is up to when its schedule was followed."""

    policy: Policy
    timing: Timing
    handled: datetime
    following: datetime | None = None


class Rehearsals:
    """Follows the drills of the policies. One thread calls `tick`, again and again."""

    def __init__(
        self,
        history: History,
        rehearser: Performer[DrillOrder],
        log: Events,
        *,
        zone_of: Callable[[str | None], tzinfo],
        looked: LookNote,
        is_round: bool = False,
    ) -> None:
        """Have nothing to follow yet. One round does not look again where the last has looked."""
        self._history = history
        self._rehearser = rehearser
        self._log = log
        self._zone_of = zone_of
        self._settings: Settings | None = None
        self._planned: dict[str, _Planned] = {}
        self._promised: tuple[str, ...] = ()
        self._looked = looked
        self._is_round = is_round
        self._learn_at: datetime | None = None
        self._learning_since: datetime | None = None
        self._is_asked = self._is_killed = False
        self._last: datetime | None = None
        self._attended: datetime | None = None

    def follow(self, settings: Settings, policies: Sequence[Policy], now: datetime) -> None:
        """Follow these policies from now on; what runs goes on as it was begun.

        A drill that was asked for while nobody looked is made up for; but what is new in a
        policy while we look is asked for from now on.
        """
        is_new = self._settings is None
        before, self._planned = self._planned, {}
        self._settings = settings
        for policy in policies:
            if not policy.enabled or policy.drill is None or policy.drill.schedule is None:
                continue
            schedule = policy.drill.schedule
            salt = f"{policy.vault}/{policy.name}/drill"
            timing = Timing(schedule, self._zone_of(schedule.timezone), salt)
            known = before.get(policy.name)
            if known is not None and known.timing.asks == timing.asks:
                handled = known.handled
            else:
                handled = self._known(policy, now) if is_new else now
            self._planned[policy.name] = _Planned(policy, timing, handled)
        promised = {
            policy.vault
            for policy in policies
            if policy.enabled and (policy.drill is not None or policy.objectives.drill is not None)
        }
        self._promised = tuple(sorted(promised & settings.vaults.keys()))
        if is_new and self._is_round and (last := self._looked.last(self._promised)) is not None:
            self._learn_at = last + _LEARN_EVERY

    def tick(self, now: datetime) -> bool:
        """Take note of what ended, and begin what is due, if nothing is going on.

        Return whether something ended, from which the history may have learned.
        """
        if self._last is None or not self._last <= now <= self._last + agenda.GRACE:
            self._attended = now
        self._last = now
        if (ended := self._rehearser.ended()) is not None:
            self._end(ended, now)
        self._bound_learning(now)
        for planned in self._planned.values():
            if self._rehearser.order is None:
                self._plan(planned, now)
        if self._rehearser.order is None and self._is_to_learn(now):
            self._begin(None, now)
        return ended is not None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is going on."""
        return self._rehearser.order is None

    def next_starts(self) -> Mapping[str, datetime]:
        """Return when the drill of each policy starts next, by the policy's name."""
        return {
            name: planned.following
            for name, planned in list(self._planned.items())
            if planned.following is not None
        }

    def ask_to_end(self) -> None:
        """Ask what is going on to end, and do not wait."""
        self._rehearser.ask_to_end()

    def stop(self, now: datetime, seconds: float) -> None:
        """End what is going on; it is begun again with the next start."""
        self._rehearser.stop(seconds)
        if (ended := self._rehearser.ended()) is not None and ended.status in _TOLD:
            self._end(ended, now)

    def _known(self, policy: Policy, now: datetime) -> datetime:
        """Return up to when a policy's drills were followed, as far as the history tells.

        Somebody may have rehearsed some of its sources since, by hand: that was not its drill.
        """
        steps = policy.drill.steps if policy.drill else ()
        keys = [SourceKey(policy.vault, step.source) for step in steps]
        try:
            last = self._history.last_drills()
            seen = self._history.seen()
        except SnapVaultError:
            return now
        if rehearsed := [last[key].ended for key in keys if key in last]:
            return min(*rehearsed, now)
        return min(max((seen[key] for key in keys if key in seen), default=now), now)

    def _plan(self, planned: _Planned, now: datetime) -> None:
        planned.handled = agenda.anchor(planned.timing, planned.handled, now)
        plan = agenda.plan(
            planned.timing, now, handled=planned.handled, attended=self._attended or now
        )
        planned.following = plan.following
        if plan.missed is not None:
            planned.handled = max(planned.handled, plan.missed.last)
            self._log.warn(
                "drill.missed",
                f'policy "{planned.policy.name}" asked for a drill, and nobody was there to run it',
                policy=planned.policy.name,
                missed=plan.missed.count,
            )
        if plan.start is not None:
            # ORDER: before it begins: one that cannot be begun is not begun again and again.
            planned.handled = plan.start.due
            self._begin(planned.policy, now)

    def _is_to_learn(self, now: datetime) -> bool:
        if not self._promised:
            return False
        at = self._learn_at
        return at is None or now >= at or at > now + _LEARN_EVERY

    def _bound_learning(self, now: datetime) -> None:
        """End a look that takes too long: a vault that does not answer holds up no drill."""
        since, order = self._learning_since, self._rehearser.order
        if since is None or order is None or order.policy is not None:
            return
        if since <= now < since + _LEARN_LIMIT:
            return
        if not self._is_asked:
            self._is_asked = True
            self._learning_since = now - _LEARN_LIMIT  # a clock that jumped counts once
            limit = format_duration(_LEARN_LIMIT)
            vaults = ", ".join(f'"{vault}"' for vault in order.vaults)
            self._log.warn(
                "drill.unlearned",
                f"reports of drills could not be fetched within {limit} from vault {vaults}",
            )
            self._rehearser.ask_to_end()
        elif not since <= now < since + _LEARN_LIMIT + _END_LIMIT and not self._is_killed:
            self._is_killed = True
            self._rehearser.stop(0.0)

    def _begin(self, policy: Policy | None, now: datetime) -> None:
        if self._settings is None:
            raise ValueError("there are no settings to follow")
        vaults = self._promised if policy is None else ()
        if policy is None:
            # ORDER: before it begins: a vault that does not answer is not asked all the time.
            self._learn_at = now + _LEARN_EVERY
            self._learning_since = now
            self._is_asked = self._is_killed = False
            self._looked.write(vaults, now)
        try:
            self._rehearser.start(DrillOrder(self._settings, policy, vaults))
        except SnapVaultError as error:
            self._log.warn("drill.unstarted", str(error), hint=error.hint)
            if policy is not None:
                self._note(policy, f"the drill could not be started: {error}", now)
            return
        if policy is not None:
            self._log.emit("drill.started", policy=policy.name)

    def _end(self, ended: Ended[DrillOrder], now: datetime) -> None:
        policy, status = ended.order.policy, ended.status
        if policy is None or status in _TOLD:
            return  # what it found is in the history
        how = f"ended with status {status}" if status >= 0 else f"was killed by signal {-status}"
        self._log.warn("drill.died", f'the drill of policy "{policy.name}" {how}')
        self._note(policy, f"the drill's process {how}, without a report", now)

    def _note(self, policy: Policy, reason: str, now: datetime) -> None:
        """Remember a drill that left no report as one that failed."""
        drill = names.new_drill_id()
        for step in policy.drill.steps if policy.drill else ():
            summary = DrillSummary(
                id=drill,
                key=SourceKey(policy.vault, step.source),
                kind=KIND_NAMES[type(step.kind)],
                point=None,
                ended=now,
                verdict=Verdict.FAILED,
                seconds_to_ready=None,
                age=None,
                reason=reason,
            )
            try:
                self._history.add_drill(summary)
            except SnapVaultError as error:
                self._log.warn("drill.unremembered", str(error), hint=error.hint)
