# SPDX-License-Identifier: Apache-2.0
"""Copies after backups: one at a time, as soon as a copy is behind, and again when one failed.

What each came to is in a note of its own process; alarms follow from these alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from snapvault.errors import SnapVaultError
from snapvault.model import copies, objectives
from snapvault.model.copies import CopyNote
from snapvault.model.objectives import Finding
from snapvault.model.policy import Policy
from snapvault.model.runs import PointSummary
from snapvault.model.settings import Settings
from snapvault.ports.copying import CopyOrder
from snapvault.ports.events import Events
from snapvault.ports.orders import Ended, Performer


@dataclass(frozen=True, slots=True)
class _Pair:
    """A vault and a copy of it, with the policies that ask for it."""

    vault: str
    to: str
    policies: tuple[Policy, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        names = {source.name for policy in self.policies for source in policy.sources}
        return tuple(sorted(names))


class Copies:
    """Follows which copies are behind. One thread calls `tick`, again and again.

    `points` returns the restore points that this host knows of a vault, `note` what the last copy
    to one came to; `note_failure` remembers one whose process left no word.
    """

    def __init__(
        self,
        copier: Performer[CopyOrder],
        log: Events,
        *,
        points: Callable[[str], Sequence[PointSummary]],
        note: Callable[[str], CopyNote | None],
        note_failure: Callable[[str, str], object],
    ) -> None:
        """Have nothing to follow yet."""
        self._copier = copier
        self._log = log
        self._points = points
        self._note = note
        self._note_failure = note_failure
        self._settings: Settings | None = None
        self._pairs: tuple[_Pair, ...] = ()
        self._begun_after: CopyNote | None = None
        self.failed = 0
        """Copies that did not bring everything."""

    def follow(self, settings: Settings, policies: Sequence[Policy]) -> None:
        """Follow these policies from now on; what runs goes on as it was begun."""
        self._settings = settings
        asked: dict[tuple[str, str], list[Policy]] = {}
        for policy in policies:
            if policy.enabled:
                for to in policy.copy_to:
                    asked.setdefault((policy.vault, to), []).append(policy)
        self._pairs = tuple(_Pair(*pair, tuple(each)) for pair, each in sorted(asked.items()))

    def tick(self, now: datetime) -> bool:
        """Take note of what ended, and begin the next that is due, if nothing is going on.

        Return whether something ended.
        """
        if (ended := self._copier.ended()) is not None:
            self._end(ended)
        if self._copier.order is None and (pair := self._next(now)) is not None:
            self._begin(pair)
        return ended is not None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is going on."""
        return self._copier.order is None

    def findings(self) -> Mapping[str, Finding]:
        """Return the alarms that should be up, by the vaults that are copied to."""
        found = {}
        for pair in self._pairs:
            note = self._note(pair.to)
            if note is not None and copies.is_alarm(note, pair.policies[0].retry):
                found[pair.to] = objectives.uncopied(pair.vault, pair.to, note)
        return found

    def ask_to_end(self) -> None:
        """Ask what is going on to end, and do not wait."""
        self._copier.ask_to_end()

    def stop(self, seconds: float) -> None:
        """End what is going on; the next start goes on with it."""
        self._copier.stop(seconds)

    def _next(self, now: datetime) -> _Pair | None:
        for pair in self._pairs:
            lacking = copies.behind(self._points(pair.vault), self._points(pair.to), pair.sources)
            if not lacking.points:
                continue
            retry = pair.policies[0].retry
            note = self._note(pair.to)
            again = copies.again_at(note, retry)
            # A clock that was set back by more than the longest pause has it tried at once.
            if again is None or not again - retry.max_delay <= now < again:
                return pair
        return None

    def _begin(self, pair: _Pair) -> None:
        if self._settings is None:
            raise ValueError("there are no settings to follow")
        self._begun_after = self._note(pair.to)
        order = CopyOrder(
            self._settings, pair.vault, pair.to, pair.sources, pair.policies[0].limits
        )
        try:
            self._copier.start(order)
        except SnapVaultError as error:
            self._log.warn("copy.unstarted", str(error), vault=pair.to, hint=error.hint)
            self._note_failure(pair.to, f"the copy could not be started: {error}")
            self.failed += 1
            return
        self._log.emit("copy.started", vault=pair.vault, to=pair.to)

    def _end(self, ended: Ended[CopyOrder]) -> None:
        to, status = ended.order.to, ended.status
        if status == 0 and self._note(to) != self._begun_after:
            return
        if self._note(to) == self._begun_after:
            how = f"ended with status {status}" if status >= 0 else f"was killed by {-status}"
            self._log.warn("copy.died", f'the copy to vault "{to}" {how}', vault=to)
            self._note_failure(to, f"the copy's process {how}")
        self.failed += 1
