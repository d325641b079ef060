# SPDX-License-Identifier: Apache-2.0
"""Copies of vaults: how far behind they are, and when one that failed is tried again."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from snapvault.model.policy import Retry
from snapvault.model.runs import PointSummary


@dataclass(frozen=True, slots=True)
class CopyNote:
    """What the last try to copy to a vault came to. `message` None: it has all there is.

    `failures` counts tries in a row that did not bring everything. `copied_at` is when one did.
    """

    at: datetime
    failures: int = 0
    message: str | None = None
    hint: str | None = None
    retryable: bool = True
    copied_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Behind:
    """What a copy lacks of the newest restore points: how many, and when the oldest was taken."""

    points: int = 0
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class CopyStatus:
    """How a copy of vault `of` stands, as far as this host knows.

    `is_alarm`: it failed, and people have to know.
    """

    of: str
    behind: Behind
    note: CopyNote | None = None
    is_alarm: bool = False


def behind(
    vault: Iterable[PointSummary], copy: Iterable[PointSummary], sources: Collection[str]
) -> Behind:
    """Return how far a copy is behind a vault; older points that it lacks do not count."""
    there: dict[str, datetime] = {}
    known = set()
    for point in copy:
        name = point.key.source
        known.add((name, point.point))
        there[name] = max(there.get(name, point.taken_at), point.taken_at)
    lacking = [
        point.taken_at
        for point in vault
        if (name := point.key.source) in sources
        and (name, point.point) not in known
        and (name not in there or point.taken_at > there[name])
    ]
    return Behind(len(lacking), min(lacking, default=None))


def again_at(note: CopyNote | None, retry: Retry) -> datetime | None:
    """Return when a copy that failed is tried again; None: at once."""
    if note is None or note.message is None:
        return None
    delay: timedelta = retry.delay
    for _ in range(min(note.failures, 64) - 1):
        delay = min(2 * delay, retry.max_delay)
    return note.at + min(delay, retry.max_delay)


def is_alarm(note: CopyNote, retry: Retry) -> bool:
    """Tell whether people have to know of a copy that failed."""
    return note.message is not None and (not note.retryable or note.failures >= retry.attempts)
