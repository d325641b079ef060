# SPDX-License-Identifier: Apache-2.0
"""Prunes by schedule: one vault at a time, made up for once when they were missed.

What each came to is in the history, which its own process writes; alarms follow from that alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Final

from snapvault.errors import SnapVaultError
from snapvault.model import agenda, prunes
from snapvault.model.agenda import Timing
from snapvault.model.policy import Policy
from snapvault.model.prunes import PruneState, PruneSummary
from snapvault.model.settings import Settings
from snapvault.ports.events import Events
from snapvault.ports.history import History
from snapvault.ports.orders import Ended, Performer
from snapvault.ports.pruning import PruneOrder

_PAUSE: Final = timedelta(hours=1)
"""Before a prune that failed is tried again."""

_ATTEMPTS: Final = 3
"""In a row; then the next due is waited for."""


@dataclass(slots=True)
class _Planned:
    """The prunes of one vault. `handled` is up to when its schedule was followed."""

    timing: Timing
    handled: datetime
    again: datetime | None = None


class Prunes:
    """Follows when vaults are to be pruned. One thread calls `tick`, again and again."""

    def __init__(
        self,
        history: History,
        pruner: Performer[PruneOrder],
        log: Events,
        *,
        zone_of: Callable[[str | None], tzinfo],
        host: str,
        new_id: Callable[[], str],
        is_known: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Have nothing to follow yet. `host` spreads what several hosts do to one vault.

        `is_known` tells of a vault that is copied to whether it is there yet.
        """
        self._history = history
        self._pruner = pruner
        self._log = log
        self._zone_of = zone_of
        self._host = host
        self._new_id = new_id
        self._is_known = is_known
        self._settings: Settings | None = None
        self._policies: tuple[Policy, ...] = ()
        self._planned: dict[str, _Planned] = {}
        self._own: frozenset[str] = frozenset()
        self._begun_after: PruneSummary | None = None
        self._last: datetime | None = None
        self._attended: datetime | None = None
        self.failed = 0
        """Prunes that refused, or failed and are not tried again."""

    def follow(self, settings: Settings, policies: Sequence[Policy], now: datetime) -> None:
        """Follow these settings from now on; what runs goes on as it was begun.

        Vaults in which no policy has a source, or a copy, are left alone. What was asked for while
        nobody looked is made up for; a schedule that is new while we look counts from now on.
        """
        is_new = self._settings is None
        before, self._planned = self._planned, {}
        self._settings, self._policies = settings, tuple(policies)
        named = (name for policy in policies for name in (policy.vault, *policy.copy_to))
        self._own = frozenset(policy.vault for policy in policies)
        for name in dict.fromkeys(named):
            schedule = settings.vaults[name].prune if name in settings.vaults else None
            if schedule is None:
                continue
            timing = Timing(
                schedule, self._zone_of(schedule.timezone), f"{self._host}/{name}/prune"
            )
            known = before.get(name)
            if known is not None and known.timing.asks == timing.asks:
                self._planned[name] = known
            elif is_new:
                self._planned[name] = self._resumed(name, timing, now)
            else:
                self._planned[name] = _Planned(timing, now)

    def tick(self, now: datetime) -> bool:
        """Take note of what ended, and begin what is due, if nothing is going on.

        Return whether something ended, of which the history may know.
        """
        if self._last is None or not self._last <= now <= self._last + agenda.GRACE:
            self._attended = now
        self._last = now
        if (ended := self._pruner.ended()) is not None:
            self._end(ended, now)
        for name, planned in self._planned.items():
            if self._pruner.order is None:
                self._plan(name, planned, now)
        return ended is not None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is going on."""
        return self._pruner.order is None

    def ask_to_end(self) -> None:
        """Ask what is going on to end, and do not wait."""
        self._pruner.ask_to_end()

    def stop(self, seconds: float) -> None:
        """End what is going on; it is begun again with the next start."""
        self._pruner.stop(seconds)

    def _resumed(self, name: str, timing: Timing, now: datetime) -> _Planned:
        """Return where the history says that the prunes of a vault were left."""
        last = self._newest(name)
        if last is not None:
            at = min(last.ended, now)
            return _Planned(timing, at, again=_again(last, at))
        try:
            seen = [at for key, at in self._history.seen().items() if key.vault == name]
        except SnapVaultError:
            seen = []
        return _Planned(timing, min(*seen, now) if seen else now)

    def _plan(self, name: str, planned: _Planned, now: datetime) -> None:
        planned.handled = agenda.anchor(planned.timing, planned.handled, now)
        plan = agenda.plan(
            planned.timing, now, handled=planned.handled, attended=self._attended or now
        )
        if plan.missed is not None:
            planned.handled = max(planned.handled, plan.missed.last)
            self._log.emit("prune.missed", vault=name, missed=plan.missed.count)
        if plan.start is not None:
            # ORDER: before it begins: one that cannot be begun is not begun again and again.
            planned.handled = plan.start.due
            if name not in self._own and not self._is_known(name):
                return
        elif planned.again is None or planned.again - _PAUSE <= now < planned.again:
            return
        # A clock that was set back by more than the pause has it tried at once.
        planned.again = None
        self._begin(name, now)

    def _begin(self, name: str, now: datetime) -> None:
        if self._settings is None:
            raise ValueError("there are no settings to follow")
        self._begun_after = self._newest(name)
        try:
            self._pruner.start(PruneOrder(self._settings, name, self._policies))
        except SnapVaultError as error:
            self._log.warn("prune.unstarted", str(error), vault=name, hint=error.hint)
            self._note(name, f"the prune could not be started: {error}", now)
            return
        self._log.emit("prune.started", vault=name)

    def _end(self, ended: Ended[PruneOrder], now: datetime) -> None:
        name, status = ended.order.vault, ended.status
        last = self._newest(name)
        if status and (last is None or last == self._begun_after):
            how = f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"
            self._log.warn("prune.died", f'the prune of vault "{name}" {how}', vault=name)
            last = self._note(name, f"the prune's process {how}", now)
        if last is None or last.state is PruneState.DONE:
            return
        again = _again(last, now)
        if (planned := self._planned.get(name)) is not None:
            planned.again = again
        if again is None:
            self.failed += 1

    def _newest(self, name: str) -> PruneSummary | None:
        try:
            return prunes.newest(self._history.prunes(), name)
        except SnapVaultError:
            return None

    def _note(self, name: str, reason: str, now: datetime) -> PruneSummary:
        """Remember a prune that left no word as one that failed."""
        last = self._newest(name)
        summary = PruneSummary(
            self._new_id(),
            name,
            now,
            0.0,
            PruneState.FAILED,
            reasons=(reason,),
            retryable=True,
            failures=last.failures + 1 if last is not None else 1,
        )
        try:
            self._history.add_prune(summary)
        except SnapVaultError as error:
            self._log.warn("prune.unremembered", str(error), hint=error.hint)
        return summary


def _again(last: PruneSummary, ended: datetime) -> datetime | None:
    """Return when a prune that failed is tried again; None: by its schedule alone."""
    if last.state is not PruneState.FAILED or not last.retryable or last.failures >= _ATTEMPTS:
        return None
    return ended + _PAUSE
