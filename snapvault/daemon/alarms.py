# SPDX-License-Identifier: Apache-2.0
"""Alarms: which are up, and that each is told once when it comes and once when it goes."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from snapvault.daemon.ledger import Ledger
from snapvault.daemon.words import Words
from snapvault.model import objectives
from snapvault.model.notices import Notice
from snapvault.model.objectives import JUDGED, Finding
from snapvault.model.runs import Alarm, SourceKey

OF_RUNS: Final = frozenset((objectives.FAILED, objectives.MISSED))
"""The kinds that a success ends."""

OF_RULES: Final = frozenset((objectives.POLICY, objectives.EMPTY))
"""The kinds that a mended policy ends."""


class Alarms:
    """The alarms that are up, in memory and in the history."""

    def __init__(self, ledger: Ledger, tell: Callable[[Notice], None], words: Words) -> None:
        self._ledger = ledger
        self._tell = tell
        self._words = words
        self._up: dict[tuple[str, str], Alarm] = {}

    def load(self, alarms: Iterable[Alarm]) -> None:
        """Take over the alarms that were up before."""
        for alarm in alarms:
            self._up.setdefault((alarm.subject, alarm.kind), alarm)

    def remember_all(self) -> None:
        """Write them all again, into a history that has lost them."""
        for alarm in self._up.values():
            self._ledger.raise_alarm(alarm)

    def get(self, subject: str, kind: str) -> Alarm | None:
        """Return an alarm that is up."""
        return self._up.get((subject, kind))

    def any_up(self, subject: str, kinds: Iterable[str]) -> bool:
        """Tell whether one of these kinds is up."""
        return any((subject, kind) in self._up for kind in kinds)

    def put_up(self, subject: str, finding: Finding, now: datetime) -> bool:
        """Raise an alarm without a word; False: it was up, and only its text may be new."""
        key = (subject, finding.kind)
        known = self._up.get(key)
        alarm = Alarm(subject, finding.kind, finding.message, finding.hint, now)
        if known is not None:
            alarm = replace(alarm, raised=known.raised)
            if alarm == known:
                return False
        self._up[key] = alarm
        self._ledger.raise_alarm(alarm)
        return known is None

    def breach(
        self,
        subject: str,
        finding: Finding,
        now: datetime,
        *,
        source: SourceKey | None = None,
        policy: str | None = None,
    ) -> None:
        """Raise an alarm, and tell of it if it was not up."""
        if self.put_up(subject, finding, now):
            alarm = self._up[subject, finding.kind]
            self._tell(self._words.breach(alarm, now, source=source, policy=policy))

    def recover(
        self,
        subject: str,
        kind: str,
        now: datetime,
        *,
        source: SourceKey | None = None,
        policy: str | None = None,
    ) -> None:
        """End an alarm, and tell that it is over; nothing if it was not up."""
        if (alarm := self._end(subject, kind, now)) is not None:
            self._tell(self._words.recovery(alarm, now, source=source, policy=policy))

    def settle(
        self,
        subject: str,
        findings: Iterable[Finding],
        now: datetime,
        *,
        source: SourceKey,
        policy: str,
    ) -> None:
        """Have exactly these of the judged kinds up for a source."""
        wanted = {finding.kind: finding for finding in findings}
        for finding in wanted.values():
            self.breach(subject, finding, now, source=source, policy=policy)
        for kind in JUDGED - wanted.keys():
            self.recover(subject, kind, now, source=source, policy=policy)

    def settle_rules(
        self, wanted: Mapping[tuple[str, str], Finding], policies: Mapping[str, str], now: datetime
    ) -> None:
        """Have exactly these alarms about policies up; `policies` are names by subject."""
        self._settle(OF_RULES, wanted, policies, now)

    def settle_vaults(self, kind: str, wanted: Mapping[str, Finding], now: datetime) -> None:
        """Have exactly these alarms of a kind about vaults up, by their names."""
        by_kind = {(vault, kind): finding for vault, finding in wanted.items()}
        self._settle(objectives.OF_VAULTS & {kind}, by_kind, {}, now)

    def _settle(
        self,
        kinds: Collection[str],
        wanted: Mapping[tuple[str, str], Finding],
        policies: Mapping[str, str],
        now: datetime,
    ) -> None:
        for (subject, _), finding in wanted.items():
            self.breach(subject, finding, now, policy=policies.get(subject))
        for subject, kind in [key for key in self._up if key[1] in kinds]:
            if (subject, kind) not in wanted:
                self.recover(subject, kind, now, policy=policies.get(subject))

    def forget_sources(self, kept: Iterable[str], now: datetime) -> None:
        """End the alarms of sources that no policy has any more, without a word."""
        subjects = set(kept)
        for subject, kind in list(self._up):
            if kind in JUDGED | OF_RUNS and subject not in subjects:
                self._end(subject, kind, now)

    def _end(self, subject: str, kind: str, now: datetime) -> Alarm | None:
        alarm = self._up.pop((subject, kind), None)
        if alarm is not None:
            self._ledger.clear_alarm(alarm, now)
        return alarm
