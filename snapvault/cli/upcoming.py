# SPDX-License-Identifier: Apache-2.0
"""When the next runs of a schedule start, for people and for programs."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from itertools import islice
from typing import Any, Final, NamedTuple

from snapvault import clock
from snapvault.model.policy import Schedule
from snapvault.model.schedule import may_start, next_due, starts_at, window_end

SHOWN: Final = 5

# What is due waits no longer for a window to open, on days with a change of clocks as well.
_LONGEST_WAIT: Final = timedelta(hours=26)
_MINUTE: Final = timedelta(minutes=1)


class Upcoming(NamedTuple):
    """A run to come starts from `earliest` to `latest`; chance says when."""

    earliest: datetime
    latest: datetime


def upcoming(schedule: Schedule, now: datetime, *, zone: tzinfo) -> list[Upcoming]:
    """Return the next runs, at most `SHOWN`, in UTC; those of one source."""
    return list(islice(_all(schedule, now, zone), SHOWN))


def _all(schedule: Schedule, now: datetime, zone: tzinfo) -> Iterator[Upcoming]:
    sharp = replace(schedule, jitter=timedelta(0))
    # What was due while the window was closed starts when it opens.
    after = now if may_start(schedule, now, zone=zone) else now - _LONGEST_WAIT
    while (due := next_due(sharp, after, zone=zone)) is not None:
        start = starts_at(sharp, due, zone=zone, salt="")
        if start > now:
            yield Upcoming(start, start + _jitter(schedule, start, zone))
        # All that waits for one opening is one run.
        after = max(due, start)


def _jitter(schedule: Schedule, start: datetime, zone: tzinfo) -> timedelta:
    closing = window_end(schedule, start, zone=zone)
    if closing is None:
        return schedule.jitter
    return max(min(schedule.jitter, closing - _MINUTE - start), timedelta(0))


def upcoming_line(run: Upcoming, zone: tzinfo) -> str:
    """Say when a run starts: `Fri 2026-11-20 between 01:30 and 01:40 CET`."""
    first, last = run.earliest.astimezone(zone), run.latest.astimezone(zone)
    if run.earliest == run.latest:
        return f"{_day(first)} at {_time(first)} {first:%Z}"
    of_first = "" if first.tzname() == last.tzname() else f" {first:%Z}"
    of_last = "" if first.date() == last.date() else f"{_day(last)} "
    return f"{_day(first)} between {_time(first)}{of_first} and {of_last}{_time(last)} {last:%Z}"


def upcoming_document(run: Upcoming) -> dict[str, Any]:
    """Return when a run starts, for JSON."""
    return {"earliest_at": clock.to_text(run.earliest), "latest_at": clock.to_text(run.latest)}


def _day(moment: datetime) -> str:
    return f"{moment:%a %Y-%m-%d}"


def _time(moment: datetime) -> str:
    return f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"
