# SPDX-License-Identifier: Apache-2.0
"""When a schedule asks for runs. Pure: moments in, moments out; all of them aware.

Cron expressions are read as APScheduler's triggers read them, with two differences that
people expect of cron: 0 and 7 are Sunday, and when both days are restricted, either matches.

Clocks that are changed: a time of day that clocks skip is due when they have skipped it, one
that they show twice is due the first time alone, unless the hour is a pattern (`*`, `*/2`):
then it is due each time.
"""

from collections.abc import Iterator
from datetime import datetime, tzinfo

from snapvault.model.policy import Schedule


def next_due(schedule: Schedule, after: datetime, *, zone: tzinfo) -> datetime | None:
    """Return the first moment later than `after` that is due, in UTC, without jitter.

    `zone` is the schedule's. `every` counts from midnight of 1970-01-01 UTC on, so that the
    same moments are due after every start. None: a cron expression that never comes.
    """
    raise NotImplementedError


def dues(
    schedule: Schedule, after: datetime, until: datetime, *, zone: tzinfo
) -> Iterator[datetime]:
    """Yield the moments in (after, until] that are due, in UTC, without jitter, oldest first."""
    raise NotImplementedError


def starts_at(schedule: Schedule, due: datetime, *, zone: tzinfo, salt: str) -> datetime:
    """Return the earliest start of what is due then: with its jitter, inside the window.

    The jitter is drawn from `due` and `salt` (the source's key) alone, so that a restart draws
    the same. A start that would fall outside the window is moved to its next opening.
    """
    raise NotImplementedError


def may_start(schedule: Schedule, now: datetime, *, zone: tzinfo) -> bool:
    """Tell whether `now` lies in the schedule's window; always so without one."""
    raise NotImplementedError


def window_end(schedule: Schedule, now: datetime, *, zone: tzinfo) -> datetime | None:
    """Return when the window that holds `now` closes; None without one, or outside."""
    raise NotImplementedError
