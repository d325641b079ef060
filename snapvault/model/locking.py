# SPDX-License-Identifier: Apache-2.0
"""Object Lock: how long objects are locked, and which locks are to be renewed.

A lock set at a put ends two periods later. An object that is needed when it has been stored for
one period, or two, or more, has its lock renewed then: so what is needed always stays locked for
a period at least, and each object is asked for once in a period.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class LockMode(StrEnum):
    """Who may end a lock early: governance, whoever has a right of its own to; compliance, nobody.

    Source: "S3 Object Lock" in the Amazon S3 user guide.
    """

    GOVERNANCE = "governance"
    COMPLIANCE = "compliance"


@dataclass(frozen=True, slots=True)
class ObjectLock:
    """That objects are locked. What is needed is never locked for less than `period`."""

    mode: LockMode
    period: timedelta

    def until(self, now: datetime) -> datetime:
        """Return when the lock of an object ends that is put now."""
        return now + 2 * self.period


@dataclass(frozen=True, slots=True)
class Stored:
    """An object that is needed, and when it was stored by the store's clock."""

    name: str
    stored_at: datetime


@dataclass(frozen=True, slots=True)
class Renewal:
    """A lock that must not end before `until`. It has been due since `due_at`."""

    name: str
    due_at: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Due:
    """The renewals of one pass, the longest due first.

    `since` is up to when everything is renewed once these are: the next pass begins there.
    """

    renewals: tuple[Renewal, ...]
    since: datetime
    is_all: bool


def renewals(
    needed: Iterable[Stored],
    period: timedelta,
    *,
    since: datetime | None,
    began: datetime,
    now: datetime,
    at_once: frozenset[str] = frozenset(),
    budget: int | None = None,
) -> Due:
    """Decide which locks are to be renewed now.

    `since` is where the last pass ended, None before the first one. What was stored up to `began`,
    when the first pass did, may never have been locked, so that pass looks at it whatever
    its age. `at_once` are names to look at in any case. Of the others a pass takes about
    `budget`; all that was due at the same moment goes together.
    """
    first: list[Renewal] = []
    due: list[Renewal] = []
    for each in needed:
        age = max(now - each.stored_at, timedelta(0))
        periods = age // period
        due_at = each.stored_at + periods * period
        renewal = Renewal(each.name, due_at, each.stored_at + (periods + 2) * period)
        if each.name in at_once:
            first.append(renewal)
        elif (since is None or due_at > since) and (periods > 0 or each.stored_at <= began):
            due.append(renewal)
    due.sort(key=lambda each: (each.due_at, each.name))
    taken = _within(due, budget)
    is_all = len(taken) == len(due)
    return Due((*first, *taken), now if is_all else taken[-1].due_at, is_all)


def _within(due: Sequence[Renewal], budget: int | None) -> Sequence[Renewal]:
    if budget is None or len(due) <= budget:
        return due
    last = due[max(budget, 1) - 1].due_at
    return [each for each in due if each.due_at <= last]
