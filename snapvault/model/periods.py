# SPDX-License-Identifier: Apache-2.0
"""Periods of the calendar that somebody accounts for: a month, a quarter, a year."""

import re
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Final

_SPANS: Final = {"month": 1, "quarter": 3, "year": 12}
_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})")
_QUARTER = re.compile(r"([0-9]{4})-?q([1-4])")
_YEAR = re.compile(r"[0-9]{4}")


@dataclass(frozen=True, slots=True)
class Period:
    """The half-open time [start, end), by its name: `2026-11`, `2026-Q4` or `2026`."""

    name: str
    start: datetime
    end: datetime


def parse_period(text: str, *, now: datetime, zone: tzinfo) -> Period:
    """Read a period: `month`, `quarter` or `year` for the running one, or its name.

    Raises:
        ValueError: it is none, or has not begun.
    """
    wanted = text.strip().lower()
    today = now.astimezone(zone)
    if wanted in _SPANS:
        months = _SPANS[wanted]
        return _period(today.year, (today.month - 1) // months * months + 1, months, zone)
    if found := _MONTH.fullmatch(wanted):
        year, month, months = int(found[1]), int(found[2]), 1
    elif found := _QUARTER.fullmatch(wanted):
        year, month, months = int(found[1]), 3 * int(found[2]) - 2, 3
    elif _YEAR.fullmatch(wanted):
        year, month, months = int(wanted), 1, 12
    else:
        year = month = months = 0
    if not (1 <= month <= 12 and 1 <= year < 9999):
        raise ValueError(
            'expected "month", "quarter" or "year", or the name of one, such as "2026-11",'
            f' "2026-Q4" or "2026", found "{text}"'
        )
    period = _period(year, month, months, zone)
    if period.start > now:
        raise ValueError(f"{period.name} has not begun")
    return period


def _period(year: int, month: int, months: int, zone: tzinfo) -> Period:
    after = month + months
    end = datetime(year + (after > 12), after - 12 if after > 12 else after, 1, tzinfo=zone)
    name = {1: f"{year:04}-{month:02}", 3: f"{year:04}-Q{(month + 2) // 3}", 12: f"{year:04}"}
    return Period(name[months], datetime(year, month, 1, tzinfo=zone), end)
