# SPDX-License-Identifier: Apache-2.0
"""Cron expressions, as times of day on a wall clock that is never changed.

What was read is handed to APScheduler's trigger as lists of numbers: it counts weekdays from
Monday on, knows no steps between names, refuses steps longer than their range, and wants the
day of the month and the weekday to match both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from apscheduler.triggers.cron import CronTrigger

_MONTHS: Final = (
    *("jan", "feb", "mar", "apr", "may", "jun"),
    *("jul", "aug", "sep", "oct", "nov", "dec"),
)
_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_INSTANT: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression that was read: it comes whenever one of its `triggers` does.

    `each_time` says that the hour is a pattern (`*`, `*/2`): such an expression means hours that
    pass, not times of day.
    """

    triggers: tuple[CronTrigger, ...]
    each_time: bool

    def next_after(self, wall: datetime) -> datetime | None:
        """Return the first time later than `wall` that matches; both are naive. None: never."""
        # The trigger is asked in UTC, where no time of day is skipped or shown twice.
        since = wall.replace(tzinfo=UTC) + _INSTANT
        times: list[datetime] = [each.get_next_fire_time(None, since) for each in self.triggers]
        return min(times).replace(tzinfo=None) if times else None


@lru_cache(maxsize=1024)
def read_cron(text: str) -> Cron:
    """Read an expression of five fields: minute, hour, day of month, month, day of week.

    As cron does, it matches either kind of day when both are restricted, which is to say that
    neither field begins with `*`.

    Raises:
        ValueError: the text is no such expression.
    """
    fields = text.lower().split()
    if len(fields) != 5:
        raise ValueError(f"expected five cron fields, found {len(fields)}")
    minute, hour, day, month, weekday = fields
    minutes, hours = _numbers(minute, 0, 59), _numbers(hour, 0, 23)
    days, months = _numbers(day, 1, 31), _numbers(month, 1, 12, _MONTHS)
    weekdays = {number % 7 for number in _numbers(weekday, 0, 7, _WEEKDAYS)}
    every_day, every_weekday = set(range(1, 32)), set(range(7))

    if day.startswith("*") or weekday.startswith("*"):
        choices = [(days, weekdays)]
    else:
        choices = [(days, every_weekday), (every_day, weekdays)]
    triggers = [
        CronTrigger(
            month=_listed(months),
            day=_listed(each_days),
            day_of_week=",".join(_WEEKDAYS[number] for number in sorted(each_weekdays)),
            hour=_listed(hours),
            minute=_listed(minutes),
            timezone=UTC,
        )
        for each_days, each_weekdays in choices
        # The trigger looks for 31 February until the year 9999.
        if any(min(each_days) <= _LONGEST[number - 1] for number in months)
    ]
    return Cron(tuple(triggers), each_time=hour.startswith("*"))


def _numbers(field: str, low: int, high: int, words: Sequence[str] = ()) -> set[int]:
    """Return the numbers that a field lists; `words` stand for those from `low` on."""
    numbers: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            start, end = low, high
        else:
            start, end = (
                low + words.index(word) if word in words else int(word)
                for word in (first, last or first)
            )
        if not low <= start <= end <= high:
            raise ValueError(f"expected numbers from {low} to {high}, found {span}")
        numbers.update(range(start, end + 1, int(step or 1)))
    return numbers


def _listed(numbers: set[int]) -> str:
    """Write numbers as the trigger reads them, as a range if they are one: it is found faster."""
    ordered = sorted(numbers)
    if len(ordered) > 1 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]}-{ordered[-1]}"
    return ",".join(map(str, ordered))
