# SPDX-License-Identifier: Apache-2.0
"""Charts as SVG, drawn here, without a script or a style of their own. Pure.

Their texts stand beside them in HTML, so that they keep their size on a narrow screen while
the drawing is stretched.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta, tzinfo
from typing import Final

from markupsafe import Markup

from snapvault import clock
from snapvault.model.runs import PointSummary
from snapvault.units import KIB, format_count, format_size

STRIP_DAYS: Final = 35
_CELL: Final = 6
_PITCH: Final = 8
_WEEK_GAP: Final = 4
_WIDTH: Final = 1000
_HEIGHT: Final = 100


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with its labels: `ticks` from top to bottom, `days` from left to right."""

    svg: Markup
    ticks: Sequence[str]
    days: Sequence[str]


@dataclass(frozen=True, slots=True)
class Growth:
    """What a vault took in over some days, as charts, and in words."""

    vault: str
    total: Chart
    added: Chart
    summary: str


@dataclass(frozen=True, slots=True)
class Day:
    """A day of a calendar: how many restore points there are of it, and the bytes they added."""

    day: date
    points: int
    stored: int
    level: int
    future: bool


def last_days(today: date, count: int) -> list[date]:
    """Return so many days up to today, oldest first."""
    return [today - timedelta(days=ago) for ago in range(count - 1, -1, -1)]


def strip(points: Iterable[PointSummary], today: date, zone: tzinfo) -> Markup:
    """Draw the last weeks of a source as a row of days: a filled one can be restored to."""
    counts = Counter(clock.in_zone(point.taken_at, zone).date() for point in points)
    shapes: dict[int, list[str]] = {0: [], 1: [], 2: [], 3: []}
    left = 0
    kept = 0
    for day in last_days(today, STRIP_DAYS):
        if left and day.weekday() == 0:
            left += _WEEK_GAP
        level = _level(counts[day])
        kept += level > 0
        if level:
            shapes[level].append(f"M{left} 1h{_CELL}v14h-{_CELL}z")
        else:
            shapes[0].append(f"M{left + 2} 7h2v2h-2z")
        left += _PITCH
    said = f"restore points of {kept} of the last {STRIP_DAYS} days"
    paths = Markup("").join(
        Markup('<path class="l{}" d="{}"/>').format(level, "".join(parts))
        for level, parts in shapes.items()
        if parts
    )
    # Weeks may begin on any of the days: five gaps are the most.
    width = STRIP_DAYS * _PITCH + 5 * _WEEK_GAP
    return Markup(
        '<svg class="strip" viewBox="0 0 {} 16" width="{}" height="16" role="img" '
        'aria-label="{}"><title>{}</title>{}</svg>'
    ).format(width, width, said, said, paths)


def calendar(
    points: Iterable[PointSummary], today: date, zone: tzinfo, days: int
) -> list[list[Day]]:
    """Return whole weeks, Monday first, that end with this one and hold the last `days`."""
    by_day: dict[date, list[PointSummary]] = {}
    for point in points:
        by_day.setdefault(clock.in_zone(point.taken_at, zone).date(), []).append(point)
    first = today - timedelta(days=days - 1)
    monday = first - timedelta(days=first.weekday())
    weeks = []
    while monday <= today:
        week = [monday + timedelta(days=n) for n in range(7)]
        weeks.append(
            [
                Day(
                    day,
                    len(by_day.get(day, ())),
                    sum(point.stored for point in by_day.get(day, ())),
                    _level(len(by_day.get(day, ()))),
                    day > today,
                )
                for day in week
            ]
        )
        monday += timedelta(days=7)
    return weeks


def _level(count: int) -> int:
    return 0 if count == 0 else 1 if count == 1 else 2 if count < 4 else 3


def growth(vault: str, stored: int, added: Mapping[date, int], days: Sequence[date]) -> Growth:
    """Draw what a vault holds and what each day added; `stored` is what it holds now.

    What it held before is what it holds now without what was added since. Restore points that are
    gone count on no day, so the line is what those that are kept needed by then: it never falls,
    and never below nothing, when some are removed.
    """
    amounts = [added.get(day, 0) for day in days]
    held = []
    rest = stored
    for amount in reversed(amounts):
        held.append(max(rest, 0))
        rest -= amount
    held.reverse()
    whole = sum(amounts)
    said = (
        f"{format_size(stored)} stored; {format_size(whole)} added in"
        f" {format_count(len(days), 'day')}, {format_size(round(whole / len(days)))} a day"
    )
    return Growth(
        vault,
        Chart(*_line(held, f"{vault}: bytes stored"), _day_labels(days)),
        added_each_day(vault, added, days),
        said,
    )


def added_each_day(name: str, added: Mapping[date, int], days: Sequence[date]) -> Chart:
    """Draw what each day added of something of that name."""
    amounts = [added.get(day, 0) for day in days]
    return Chart(*_bars(amounts, days, f"{name}: bytes added each day"), _day_labels(days))


def _line(values: Sequence[int], label: str) -> tuple[Markup, list[str]]:
    ticks = axis(min(values), max(values))
    low, high = ticks[0], ticks[-1]
    step = _WIDTH / max(len(values) - 1, 1)
    points = [
        f"{_number(n * step)} {_number(_HEIGHT * (1 - (value - low) / (high - low)))}"
        for n, value in enumerate(values)
    ]
    if len(points) == 1:
        points.append(points[0].replace("0 ", f"{_WIDTH} ", 1))
    line = "M" + "L".join(points)
    body = Markup('<path class="line" d="{}"/>').format(line)
    if low == 0:  # a filled shape speaks of the whole
        body = Markup('<path class="area" d="{}V{}H0z"/>').format(line, _HEIGHT) + body
    return _plot(body, ticks, label), _tick_labels(ticks)


def _bars(values: Sequence[int], days: Sequence[date], label: str) -> tuple[Markup, list[str]]:
    ticks = axis(0, max(values))
    step = _WIDTH / len(values)
    body = Markup("").join(
        Markup(
            '<rect class="bar" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
        ).format(
            _number(n * step + step * 0.14),
            _number(_HEIGHT * (1 - value / ticks[-1])),
            _number(step * 0.72),
            _number(_HEIGHT * value / ticks[-1]),
            f"{day_name(day)}: {format_size(value)}",
        )
        for n, (value, day) in enumerate(zip(values, days, strict=True))
        if value
    )
    return _plot(body, ticks, label), _tick_labels(ticks)


def _plot(body: Markup, ticks: Sequence[float], label: str) -> Markup:
    gaps = len(ticks) - 1
    grid = Markup("").join(
        Markup('<path class="{}" d="M0 {}H{}"/>').format(
            "base" if n == gaps else "grid", _number(n * _HEIGHT / gaps), _WIDTH
        )
        for n in range(gaps + 1)
    )
    return Markup(
        '<svg class="plot" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" '
        'aria-label="{}">{}{}</svg>'
    ).format(_WIDTH, _HEIGHT, label, grid, body)


def axis(low: int, high: int) -> list[float]:
    """Return three to five round values, evenly apart, that span from `low` to `high`.

    They begin at zero unless everything lies far above it.
    """
    if low < 0.7 * high:
        low = 0
    unit = KIB ** max(0, int(math.log(high, KIB))) if high >= 1 else 1
    # One decimal of the unit is what labels can show, and a byte is the least.
    least = 1.0 if unit == 1 else unit / 10
    span = max(high - low, least)
    raw = span / 3
    step = max(least, unit * _round_up(raw / unit))
    bottom = math.floor(low / step) * step
    count = max(2, math.ceil((high - bottom) / step))
    return [bottom + n * step for n in range(count + 1)]


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 2.5 and 5, times a power of ten; 2.5 only where it is whole."""
    power = 10 ** math.floor(math.log10(value))
    for factor in (1, 2, 2.5, 5, 10):
        if value <= factor * power * 1.0000001 and (factor != 2.5 or power >= 10):
            return float(factor * power)
    return float(10 * power)


def _tick_labels(ticks: Sequence[float]) -> list[str]:
    return [format_size(round(tick)).replace(".0 ", " ") for tick in reversed(ticks)]


def _day_labels(days: Sequence[date]) -> list[str]:
    picked = [days[0], days[len(days) // 2], days[-1]] if len(days) > 2 else list(days)
    return [day_name(day) for day in picked]


def day_name(day: date) -> str:
    """Write a day: `20 Nov`."""
    return f"{day.day} {day:%b}"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
