# SPDX-License-Identifier: Apache-2.0
"""Moments as people type them after `--at`.

A day, a minute or a second without a zone names a span of local time, and means its last
instant: `2026-11-20` includes that night, and `2026-11-20 03:00` a point taken at 03:00:02,
which is what a person who reads a list of points means. A span that is going on ends now.
ISO 8601 with a zone, and distances (`3 days ago`), are exact.
"""

import calendar
import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final

ACCEPTED_FORMS: Final = (
    "2026-11-20",
    "2026-11-20 03:00",
    "2026-11-20 03:00:10",
    "2026-11-20T03:00:00Z",
    "2026-11-20T03:00:00.25+02:00",
    "now",
    "today",
    "yesterday",
    "yesterday 03:00",
    "3 days ago",
)

_TICK: Final = timedelta(microseconds=1)
_LOCAL: Final = re.compile(
    r"(?:(?P<day>\d{4}-\d\d-\d\d)|(?P<word>today|yesterday))"
    r"(?:[t ](?P<time>\d\d?:\d\d)(?P<seconds>:\d\d)?)?",
    re.ASCII,
)
_EXACT: Final = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)[t ](?P<time>\d\d:\d\d)"
    r"(?:(?P<seconds>:\d\d)(?P<fraction>[.,]\d{1,9})?)? ?(?P<zone>z|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII,
)
_AGO: Final = re.compile(
    r"(?P<count>\d{1,9}) ?(?P<unit>second|minute|hour|day|week|month|year)s? ago", re.ASCII
)
_FIXED: Final = {
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
}


def parse_moment(text: str, *, now: datetime, zone: tzinfo) -> datetime:
    """Read a moment, in UTC; a restore picks the newest point at or before it.

    `now` is aware; `zone` is the person's own. The result is later than `now` only when what
    was typed lies in the future as a whole. A local time that clocks showed twice means the
    second; one that they skipped means the last instant before the change.

    Raises:
        ValueError: not a moment, or no such day or time; the message lists the accepted forms.
    """
    words = " ".join(text.lower().split())
    try:
        if words == "now":
            return now.astimezone(UTC)
        if match := _AGO.fullmatch(words):
            return _ago(int(match["count"]), match["unit"], now, zone)
        if match := _LOCAL.fullmatch(words):
            return _end_of_span(match, now, zone)
        match = _EXACT.fullmatch(words)
        if match and (match["zone"] or match["fraction"]):
            return _exact(match, zone)
    except (OverflowError, ValueError):
        raise _refusal(text, "there is no such day or time") from None
    raise _refusal(text, "it is in no form that is known")


def _refusal(text: str, reason: str) -> ValueError:
    forms = ", ".join(f'"{form}"' for form in ACCEPTED_FORMS)
    return ValueError(f'cannot read "{text}" as a time, {reason}: write it like {forms}')


def _ago(count: int, unit: str, now: datetime, zone: tzinfo) -> datetime:
    """Go back: days and longer by the calendar, at the same time of day."""
    if unit in _FIXED:
        return now.astimezone(UTC) - count * _FIXED[unit]
    local = now.astimezone(zone)
    if unit in ("day", "week"):
        day = local.date() - timedelta(days=count * (7 if unit == "week" else 1))
    else:
        months = local.year * 12 + local.month - 1 - count * (12 if unit == "year" else 1)
        year, month = divmod(months, 12)
        last_day = calendar.monthrange(year, month + 1)[1]
        day = date(year, month + 1, min(local.day, last_day))
    if day == local.date():
        return now.astimezone(UTC)
    return _last_instant(datetime.combine(day, local.time()), zone)


def _end_of_span(match: re.Match[str], now: datetime, zone: tzinfo) -> datetime:
    today = now.astimezone(zone).date()
    if match["day"]:
        day = date.fromisoformat(match["day"])
    else:
        day = today - timedelta(days=match["word"] == "yesterday")
    if match["time"] is None:
        first, last = time.min, time.max
    else:
        first = time.fromisoformat(match["time"].zfill(5) + (match["seconds"] or ""))
        last = first.replace(second=first.second if match["seconds"] else 59, microsecond=999_999)
    begin = datetime.combine(day, first, zone).astimezone(UTC)
    end = _last_instant(datetime.combine(day, last), zone)
    return now.astimezone(UTC) if begin <= now < end else end


def _exact(match: re.Match[str], zone: tzinfo) -> datetime:
    # Digits past the microsecond cannot matter: points are no finer.
    fraction = (match["fraction"] or ".0").replace(",", ".")[:7].ljust(7, "0")
    clock = match["time"] + (match["seconds"] or ":00") + fraction
    if match["zone"] is None:
        return _last_instant(datetime.fromisoformat(f"{match['day']}T{clock}"), zone)
    return datetime.fromisoformat(f"{match['day']}T{clock}{match['zone'].upper()}").astimezone(UTC)


def _last_instant(wall: datetime, zone: tzinfo) -> datetime:
    """Return the last instant at which local clocks have shown `wall` and nothing later."""
    later = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if later.astimezone(zone).replace(tzinfo=None) == wall:
        return later
    # Clocks skipped it. Read with the offset from after the change it falls before the change,
    # with the offset from before it falls after: the change is in between.
    low, high = later, wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    while high - low > _TICK:
        middle = low + (high - low) // 2
        if middle.astimezone(zone).replace(tzinfo=None) < wall:
            low = middle
        else:
            high = middle
    return low
