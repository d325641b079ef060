# SPDX-License-Identifier: Apache-2.0
"""Which restore points of a source stay, and why: retention as a pure decision.

Nothing here believes a clock: no rule counts places by the time that it is now, and a point that
is dated in the future stays and takes nobody's place. docs/retention.md explains the rules.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from snapvault.model.policy import Retention

SHRUNKEN_TO: Final = 10
"""A point is suspicious with less than one part in so many of what was there before."""

SHRUNKEN_FOR: Final = timedelta(days=30)
"""How long a source must have been small before its points count like those before."""

NO_RULES: Final = "its policy has no retention"
NO_POLICY: Final = "no policy here has its source"
NEWEST: Final = "newest"
FUTURE: Final = "dated in the future"
HELD: Final = "held"
_AMONG_GOOD: Final = ", suspicious ones not counted"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A restore point as retention sees it; ids are unique.

    `sequence` is the order in which the points were made, whatever clocks said. One that is not
    `is_good` (damaged, or suspiciously small) takes no good one's place. `held` is why somebody
    holds it, which may be empty; None: nobody does.
    """

    point: str
    sequence: int
    taken_at: datetime
    is_good: bool = True
    held: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a point stays. One that nothing wants has no reasons, and expires."""

    point: str
    reasons: tuple[str, ...]

    @property
    def stays(self) -> bool:
        """Whether the point stays."""
        return bool(self.reasons)


def judge(
    points: Iterable[Candidate], rules: Retention | None, *, zone: tzinfo, now: datetime
) -> tuple[Verdict, ...]:
    """Judge the points of one source, oldest first. Without rules all stay.

    The rules choose twice: among all points that are not dated in the future, and among the
    good ones alone; what either wants stays. `zone` is where days, weeks, months and years begin.
    """
    by_time = sorted(points, key=_by_time)
    if rules is None:
        return tuple(Verdict(each.point, (NO_RULES,)) for each in by_time)
    past = [each for each in by_time if each.taken_at <= now]
    good = [each for each in past if each.is_good]
    reasons: dict[str, list[str]] = defaultdict(list)
    for each in _newest(by_time, past):
        reasons[each.point].append(NEWEST)
    for each in by_time:
        if each.held is not None:
            reasons[each.point].append(f"{HELD}: {each.held}" if each.held else HELD)
        if each.taken_at > now:
            reasons[each.point].append(FUTURE)
    wanted = list(_wanted(past, rules, zone))
    for point, reason in wanted:
        reasons[point].append(reason)
    if len(good) < len(past):
        known = {(point, reason.partition(" ")[0]) for point, reason in wanted}
        for point, reason in _wanted(good, rules, zone):
            if (point, reason.partition(" ")[0]) not in known:
                reasons[point].append(reason + _AMONG_GOOD)
    return tuple(Verdict(each.point, tuple(reasons[each.point])) for each in by_time)


def shrunken(sizes: Iterable[tuple[str, datetime, int]]) -> frozenset[str]:
    """Return the points of a source that are suspiciously small, from (point, time, bytes).

    Such a point has less than a tenth of what one had in the thirty days before it: a dump of
    a database that somebody emptied. A source that stays small is not suspicious any more then.
    """
    found = set()
    largest: deque[tuple[datetime, int]] = deque()  # sizes fall from left to right
    for point, taken_at, size in sorted(sizes, key=lambda each: (each[1], each[0])):
        while largest and taken_at - largest[0][0] > SHRUNKEN_FOR:
            largest.popleft()
        if largest and size * SHRUNKEN_TO < largest[0][1]:
            found.add(point)
        while largest and largest[-1][1] <= size:
            largest.pop()
        largest.append((taken_at, size))
    return frozenset(found)


def _by_time(each: Candidate) -> tuple[datetime, int, str]:
    return each.taken_at, each.sequence, each.point


def _by_sequence(each: Candidate) -> tuple[int, datetime, str]:
    return each.sequence, each.taken_at, each.point


def _newest(by_time: Sequence[Candidate], past: Sequence[Candidate]) -> list[Candidate]:
    """Return the newest points, by any way to tell: they never expire.

    The one that was made last is what the next backup goes on from.
    """
    good = [each for each in by_time if each.is_good]
    good_past = [each for each in past if each.is_good]
    found = [max(some, key=_by_sequence) for some in (by_time, good, past, good_past) if some]
    found += [max(some, key=_by_time) for some in (past, good_past) if some]
    return list({each.point: each for each in found}.values())


def _wanted(
    points: Sequence[Candidate], rules: Retention, zone: tzinfo
) -> Iterable[tuple[str, str]]:
    """Yield (point, reason) of what the rules want of points that are sorted by time."""
    if not points:
        return
    newest_first = points[::-1]
    made_last = sorted(points, key=_by_sequence, reverse=True)[: rules.last]
    for place, each in enumerate(made_last, start=1):
        yield each.point, f"last {place} of {rules.last}"
    for name, count, period in (
        ("hourly", rules.hourly, _hour),
        ("daily", rules.daily, _day),
        ("weekly", rules.weekly, _week),
        ("monthly", rules.monthly, _month),
        ("yearly", rules.yearly, _year),
    ):
        for place, each in enumerate(_newest_of_each(newest_first, period, zone, count), start=1):
            yield each.point, f"{name} {place} of {count}"
    if rules.within is not None:
        newest = newest_first[0].taken_at
        for each in newest_first:
            # Counted from the newest point: a clock that jumps ahead makes nothing older.
            if newest - each.taken_at <= rules.within:
                yield each.point, "within the time that keeps all"


Period = tuple[int, ...]


def _newest_of_each(
    newest_first: Sequence[Candidate],
    period: Callable[[datetime], Period],
    zone: tzinfo,
    count: int,
) -> list[Candidate]:
    """Return the newest point of each of the last periods that have any, at most so many."""
    found: dict[Period, Candidate] = {}
    for each in newest_first:
        if len(found) >= count:
            break
        found.setdefault(period(_local(each.taken_at, zone)), each)
    return list(found.values())


def _local(moment: datetime, zone: tzinfo) -> datetime:
    try:
        return moment.astimezone(zone)
    except OverflowError:  # at either end of the calendar
        return moment.astimezone(UTC)


def _hour(local: datetime) -> Period:
    # In UTC: where clocks are set back, an hour comes twice.
    moment = local.astimezone(UTC)
    return moment.year, moment.month, moment.day, moment.hour


def _day(local: datetime) -> Period:
    return local.year, local.month, local.day


def _week(local: datetime) -> Period:
    year, week, _ = local.isocalendar()
    return year, week


def _month(local: datetime) -> Period:
    return local.year, local.month


def _year(local: datetime) -> Period:
    return (local.year,)
