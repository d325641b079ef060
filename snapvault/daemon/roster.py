# SPDX-License-Identifier: Apache-2.0
"""The sources that policies name, and what is wrong with the policies."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Final

from snapvault.config.problems import Problem
from snapvault.errors import SnapVaultError
from snapvault.model import objectives
from snapvault.model.agenda import Attempt, Slot, Start, Timing, next_slot
from snapvault.model.objectives import Finding
from snapvault.model.policy import Policy, SourceSpec
from snapvault.model.runs import Run, SourceKey

_ANYWHERE: Final = "policies"


@dataclass(slots=True)
class Followed:
    """One source, and where the scheduler stands with it. `timing` None: by hand only.

    `handled` is up to when its schedule was followed; `ahead` the same, by a clock that has been
    set back since. `ready` may start now. `again` is when its run `failed` is tried again. It
    is planned for again at `wake` and judged again at `judge_at`; `following` is its next slot.
    `tried` is when a job of it was started last. `ended` is the run that has just ended.

    `held_up` is what is remembered as missed because its own runs take too long, until one does
    not. `rpo_over` is when its RPO was met again last, `rpo_breaches` how often it was breached
    again soon after that; `rpo_met` is since when it has been met although the alarm stays up.
    """

    key: SourceKey
    policy: Policy
    spec: SourceSpec
    timing: Timing | None
    seen: datetime
    handled: datetime
    first: Slot | None
    wake: datetime | None
    judge_at: datetime
    ahead: datetime | None = None
    ready: Start | None = None
    again: Attempt | None = None
    failed: Run | None = None
    following: datetime | None = None
    tried: datetime | None = None
    ended: Run | None = None
    held_up: Run | None = None
    rpo_over: datetime | None = None
    rpo_met: datetime | None = None
    rpo_breaches: int = 0

    @property
    def subject(self) -> str:
        """What its alarms are about."""
        return str(self.key)


@dataclass(frozen=True, slots=True)
class Named:
    """A source as a policy names it."""

    policy: Policy
    spec: SourceSpec
    timing: Timing | None


@dataclass(slots=True)
class Roster:
    """All that enabled policies name, and the alarms about policies, by subject and kind.

    `idle` are the sources of policies that do not run by themselves. `policies` are names of
    policies by subject of alarms.
    """

    sources: dict[SourceKey, Named] = field(default_factory=dict)
    idle: set[SourceKey] = field(default_factory=set)
    alarms: dict[tuple[str, str], Finding] = field(default_factory=dict)
    policies: dict[str, str] = field(default_factory=dict)

    def timed(self) -> set[SourceKey]:
        """Return the sources that run by themselves."""
        return {key for key, named in self.sources.items() if named.timing is not None}


def read_roster(
    policies: Sequence[Policy],
    problems: Iterable[Problem],
    zone_of: Callable[[str | None], tzinfo],
) -> Roster:
    """List the sources. Of two policies with the same one, the first has it."""
    roster = Roster(policies={policy.name: policy.name for policy in policies})
    for problem in problems:
        _alarm(roster, problem.path.name, objectives.POLICY, str(problem), problem.hint)
    by_file = {policy.path.name: policy.name for policy in policies}
    roster.policies |= by_file
    for policy in policies:
        _add(roster, policy, zone_of)
    if not any(policy.enabled for policy in policies):
        _alarm(
            roster,
            _ANYWHERE,
            objectives.EMPTY,
            "no policy is enabled" if policies else "there is no policy",
            "Nothing is backed up by itself: write a policy, or enable one.",
        )
    return roster


def first_slot(timing: Timing | None, seen: datetime) -> Slot | None:
    """Return what is due first for a source that was first seen then."""
    return None if timing is None else next_slot(timing, seen)


def _add(roster: Roster, policy: Policy, zone_of: Callable[[str | None], tzinfo]) -> None:
    keys = {SourceKey(policy.vault, spec.name): spec for spec in policy.sources}
    timing = _timings(roster, policy, zone_of, keys)
    for key, spec in keys.items():
        if not policy.enabled:
            roster.idle.add(key)
        elif key in roster.sources:
            other = roster.sources[key].policy.name
            message = f'source "{key}" is already in policy "{other}"'
            hint = "A source's name is unique in its vault: rename one of the two."
            _alarm(roster, policy.name, objectives.POLICY, message, hint)
        else:
            roster.sources[key] = Named(policy, spec, timing.get(key))
            if key not in timing:
                roster.idle.add(key)
    roster.idle -= {key for key, named in roster.sources.items() if named.timing is not None}
    if policy.enabled and not policy.sources:
        message = f'policy "{policy.name}" has no sources'
        _alarm(roster, policy.name, objectives.EMPTY, message)


def _timings(
    roster: Roster,
    policy: Policy,
    zone_of: Callable[[str | None], tzinfo],
    keys: Iterable[SourceKey],
) -> Mapping[SourceKey, Timing]:
    """Return how each source of a policy is timed; nothing if it is not."""
    if policy.schedule is None or not policy.enabled:
        return {}
    try:
        zone = zone_of(policy.schedule.timezone)
    except (SnapVaultError, ValueError) as error:
        message = f'policy "{policy.name}" cannot be followed: {error}'
        hint = "Correct its timezone, or install the time zones of the system."
        _alarm(roster, policy.name, objectives.POLICY, message, hint)
        return {}
    return {key: Timing(policy.schedule, zone, str(key)) for key in keys}


def _alarm(roster: Roster, subject: str, kind: str, message: str, hint: str | None = None) -> None:
    roster.alarms.setdefault((subject, kind), Finding(kind, message, hint))
