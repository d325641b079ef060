# SPDX-License-Identifier: Apache-2.0
"""When a schedule asks for runs. Pure: moments in, moments out; all of them aware.

Cron expressions are read as APScheduler's triggers read them, with two differences that
people expect of cron: 0 and 7 are Sunday, and when both days are restricted, either matches.

Clocks that are changed: a time of day that clocks skip is due when they have skipped it, one
that they show twice is due the first time alone, unless the hour is a pattern (`*`, `*/2`):
then it is due each time. A window opens when its start is due in this sense, and closes when clocks
show its end for the last time; one that they skip altogether does not open that day.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import count, islice
from typing import Final, NamedTuple

from snapvault.model.cron import Cron, read_cron
from snapvault.model.policy import Schedule, Window

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = timedelta(days=1)
_SECOND: Final = timedelta(seconds=1)
_MINUTE: Final = timedelta(minutes=1)


def next_due(schedule: Schedule, after: datetime, *, zone: tzinfo) -> datetime | None:
    """Return the first moment later than `after` that is due, in UTC, without jitter.

    `zone` is the schedule's. `every` counts from midnight of 1970-01-01 UTC on, so that the
    same moments are due after every start. None: a cron expression that never comes.
    """
    if schedule.every is None:
        return _next_cron(read_cron(schedule.cron or ""), after, zone)
    try:
        return _EPOCH + ((after - _EPOCH) // schedule.every + 1) * schedule.every
    except OverflowError:  # after the year 9999
        return None


def dues(
    schedule: Schedule, after: datetime, until: datetime, *, zone: tzinfo
) -> Iterator[datetime]:
    """Yield the moments in (after, until] that are due, in UTC, without jitter, oldest first."""
    due = next_due(schedule, after, zone=zone)
    while due is not None and due <= until:
        yield due
        due = next_due(schedule, due, zone=zone)


def starts_at(schedule: Schedule, due: datetime, *, zone: tzinfo, salt: str) -> datetime:
    """Return the earliest start of what is due then: with its jitter, inside the window.

    What is due outside the window is moved to its next opening. The jitter is in whole seconds, at
    most what is left until the window's last minute, and drawn from `due` and `salt` (the source's
    key) alone, so that a restart draws the same.
    """
    start, jitter = due, schedule.jitter
    if schedule.window is not None:
        closing = window_end(schedule, due, zone=zone)
        if closing is None:
            start, closing = next(
                span
                for span in _spans(schedule.window, due, zone)
                if due < span.opening < span.closing
            )
        jitter = max(min(jitter, closing - _MINUTE - start), timedelta(0))
    text = f"{salt}\n{due.astimezone(UTC).isoformat()}"
    drawn = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    return start.astimezone(UTC) + drawn % (jitter // _SECOND + 1) * _SECOND


def may_start(schedule: Schedule, now: datetime, *, zone: tzinfo) -> bool:
    """Tell whether `now` lies in the schedule's window; always so without one."""
    return schedule.window is None or window_end(schedule, now, zone=zone) is not None


def window_end(schedule: Schedule, now: datetime, *, zone: tzinfo) -> datetime | None:
    """Return when the window that holds `now` closes; None without one, or outside."""
    if schedule.window is None:
        return None
    # Where clocks go back over midnight, tomorrow's window may be open already.
    spans = islice(_spans(schedule.window, now, zone), 3)
    return max((span.closing for span in spans if span.opening <= now < span.closing), default=None)


class _Span(NamedTuple):
    """The half-open time [opening, closing) of one day's window, in UTC."""

    opening: datetime
    closing: datetime


def _spans(window: Window, around: datetime, zone: tzinfo) -> Iterator[_Span]:
    """Yield the windows of all days from the day before `around` on; some may be empty."""
    first = _wall(around, zone).date() - _DAY
    return (_span(window, first + days * _DAY, zone) for days in count())


def _span(window: Window, day: date, zone: tzinfo) -> _Span:
    last_day = day if window.start < window.end else day + _DAY
    opening = _instant(datetime.combine(day, window.start), zone)
    closing = _instant(datetime.combine(last_day, window.end), zone, last=True)
    return _Span(opening, closing)


def _next_cron(cron: Cron, after: datetime, zone: tzinfo) -> datetime | None:
    wall = _wall(after, zone)
    if cron.each_time:
        wall -= _about_to_be_shown_again(after, zone)
    again: datetime | None = None
    while (following := cron.next_after(wall)) is not None:
        wall = following
        if cron.each_time and again is None and (last := _instant(wall, zone, last=True)) > after:
            again = last
        if (first := _instant(wall, zone)) > after:
            return min(first, again or first)
    return None


def _about_to_be_shown_again(after: datetime, zone: tzinfo) -> timedelta:
    """Return how far clocks will go back over what they show at `after`; mostly nothing."""
    shift = _offset(after, zone) - _offset(after + _DAY, zone)
    if shift > timedelta(0) and _offset(after + shift, zone) != _offset(after, zone):
        return shift
    return timedelta(0)


def _offset(instant: datetime, zone: tzinfo) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta(0)


def _wall(instant: datetime, zone: tzinfo) -> datetime:
    """Return what clocks show then, naive."""
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def _instant(wall: datetime, zone: tzinfo, *, last: bool = False) -> datetime:
    """Return when clocks show a time first, or last; for a time they skip, when they have."""
    # PEP 495: fold 0 has the offset from before a change of clocks, fold 1 that from after it.
    before, after = (
        wall.replace(tzinfo=zone, fold=fold).utcoffset() or timedelta(0) for fold in (0, 1)
    )
    if before < after:
        start = (wall - after).replace(tzinfo=UTC)
        seconds = range((after - before) // _SECOND)
        changed = bisect_left(
            seconds, x=True, key=lambda second: _offset(start + second * _SECOND, zone) == after
        )
        return start + changed * _SECOND
    return (wall - (after if last else before)).replace(tzinfo=UTC)
