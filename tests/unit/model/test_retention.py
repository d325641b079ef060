# SPDX-License-Identifier: Apache-2.0
"""Retention: what stays, why, and that no clock and no flood makes good points expire."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.model.policy import Retention
from snapvault.model.retention import Candidate, judge, shrunken

START = datetime(2026, 1, 1, 1, 30, tzinfo=UTC)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
RULES = Retention(daily=7, weekly=5, monthly=12, yearly=3)
ZONES = ["UTC", "Europe/Paris", "America/Los_Angeles", "Asia/Kolkata", "Pacific/Kiritimati"]


def nights(count: int, start: datetime = START, *, first: int = 1) -> list[Candidate]:
    return [
        Candidate(f"{number:04}", number, start + (number - first) * DAY)
        for number in range(first, first + count)
    ]


def kept(
    points: Iterable[Candidate],
    rules: Retention | None,
    *,
    zone: str = "UTC",
    now: datetime = NOW,
) -> set[str]:
    return {each.point for each in judge(points, rules, zone=ZoneInfo(zone), now=now) if each.stays}


def staying(points: Sequence[Candidate], rules: Retention) -> list[Candidate]:
    stays = kept(points, rules)
    return [each for each in points if each.point in stays]


rules_given = st.builds(
    Retention,
    last=st.integers(1, 4),
    hourly=st.integers(0, 4),
    daily=st.integers(0, 8),
    weekly=st.integers(0, 5),
    monthly=st.integers(0, 4),
    yearly=st.integers(0, 3),
    within=st.none() | st.timedeltas(timedelta(minutes=1), timedelta(days=40)),
)
gaps = st.lists(st.integers(1, 90 * 24 * 60).map(lambda n: timedelta(minutes=n)), max_size=40)


@st.composite
def histories(draw: st.DrawFn, *, in_order: bool = False) -> list[Candidate]:
    """Points with any times (or as they were made), good and not, held or not."""
    moment, found = START, []
    for number, gap in enumerate(draw(gaps)):
        moment = moment + gap
        if in_order:
            found.append(Candidate(f"{number:04}", number + 1, moment))
            continue
        found.append(
            Candidate(
                f"{number:04}",
                draw(st.integers(1, 50)),
                draw(st.sampled_from([moment, START, NOW + gap])),
                draw(st.booleans()),
                draw(st.sampled_from([None, None, None, "", "court"])),
            )
        )
    return found


def test_each_rule_wants_the_newest_point_of_each_of_its_periods_and_says_so() -> None:
    points = nights(400)

    verdicts = judge(points, RULES, zone=UTC, now=NOW)

    reasons = {each.point: each.reasons for each in verdicts if each.stays}
    assert reasons["0400"] == (
        "newest",
        "daily 1 of 7",
        "weekly 1 of 5",
        "monthly 1 of 12",
        "yearly 1 of 3",
    )
    assert reasons["0394"] == ("daily 7 of 7",)
    assert reasons["0365"] == ("monthly 3 of 12", "yearly 2 of 3")
    assert "0393" not in reasons
    # A day can be the last of its week or month, too: 0396 is.
    assert len(reasons) == 7 + 3 + 10
    assert [each.point for each in verdicts] == [each.point for each in points]


def test_a_period_begins_where_the_zone_says() -> None:
    one, other = Candidate("a", 1, START), Candidate("b", 2, START + timedelta(hours=20))

    assert kept([one, other], Retention(daily=2), zone="UTC") == {"b"}
    assert kept([one, other], Retention(daily=2), zone="Asia/Kolkata") == {"a", "b"}


def test_without_rules_nothing_expires() -> None:
    assert len(kept(nights(50), None)) == 50


def test_a_held_point_stays_until_it_is_let_go() -> None:
    points = nights(10)
    held = [replace(points[0], held="lawsuit"), *points[1:]]

    verdicts = judge(held, Retention(last=2), zone=UTC, now=NOW)

    assert verdicts[0].reasons == ("held: lawsuit",)
    assert kept(held, Retention(last=2)) == {"0001", "0009", "0010"}
    assert kept(points, Retention(last=2)) == {"0009", "0010"}


def test_points_dated_in_the_future_stay_and_take_no_place() -> None:
    points = nights(10)
    ahead = nights(100, NOW + DAY, first=11)

    assert kept([*points, *ahead], Retention(last=2, daily=3)) == {
        "0008",
        "0009",
        "0010",
        *(each.point for each in ahead),
    }


def test_a_clock_set_back_expires_nothing_that_was_made_before() -> None:
    points = nights(30)
    back = nights(10, START - 500 * DAY, first=31)

    during = kept([*points, *back], Retention(last=3), now=back[-1].taken_at)
    after = kept([*points, *back], Retention(last=3, daily=5))

    assert {each.point for each in points} <= during
    assert {"0038", "0039", "0040"} <= after
    assert {"0026", "0027", "0028", "0029", "0030"} <= after


def test_a_clock_that_jumps_ahead_makes_nothing_older() -> None:
    points = nights(30)
    rules = Retention(within=10 * DAY, daily=3)

    assert kept(points, rules, now=NOW) == kept(points, rules, now=points[-1].taken_at)
    assert len(kept(points, rules)) == 11


def test_a_flood_of_small_points_takes_no_place_of_a_good_one() -> None:
    points = nights(30)
    flood = [
        Candidate(f"f{number:03}", 31 + number, points[-1].taken_at + timedelta(minutes=number + 1))
        for number in range(300)
    ]
    small = shrunken(
        [
            *((each.point, each.taken_at, 1000) for each in points),
            *((each.point, each.taken_at, 99) for each in flood),
        ]
    )
    flood = [replace(each, is_good=each.point not in small) for each in flood]
    rules = Retention(last=3, daily=7)

    assert small == {each.point for each in flood}
    assert kept(points, rules) <= kept([*points, *flood], rules)


def test_a_source_that_stays_small_is_not_suspicious_for_ever() -> None:
    sizes = [("big", START, 1000)]
    sizes += [(f"{number:02}", START + number * DAY, 50) for number in range(1, 41)]

    assert shrunken(sizes) == {f"{number:02}" for number in range(1, 31)}
    assert shrunken([("big", START, 1000), ("half", START + DAY, 100)]) == frozenset()


@pytest.mark.parametrize("zone", ZONES)
def test_another_time_zone_costs_at_most_one_place_of_a_rule(zone: str) -> None:
    rules = Retention(daily=7, weekly=5, monthly=12)
    points = nights(600)
    before = [each for each in points if each.point in kept(points, rules, zone="Europe/Paris")]

    after = kept(before, rules, zone=zone)

    lost = {each.point for each in before} - after
    assert len(lost) <= 3
    for gone in (each for each in before if each.point in lost):
        assert any(abs(other.taken_at - gone.taken_at) < 32 * DAY for other in before)


@given(histories(), rules_given)
def test_what_stays_stays_when_judged_again(points: list[Candidate], rules: Retention) -> None:
    once = staying(points, rules)

    assert staying(once, rules) == once


@given(histories(), rules_given, st.randoms(use_true_random=False))
def test_order_does_not_matter(
    points: list[Candidate], rules: Retention, chance: random.Random
) -> None:
    shuffled = list(points)
    chance.shuffle(shuffled)

    assert judge(shuffled, rules, zone=UTC, now=NOW) == judge(points, rules, zone=UTC, now=NOW)


@given(histories(), rules_given, st.datetimes(timezones=st.just(UTC)))
def test_the_newest_good_point_never_expires_whatever_the_clock_says(
    points: list[Candidate], rules: Retention, now: datetime
) -> None:
    stays = kept(points, rules, now=now)

    for some in (points, [each for each in points if each.is_good]):
        if some:
            assert max(some, key=lambda each: (each.sequence, each.taken_at, each.point)).point in (
                stays
            )


@given(histories(in_order=True), rules_given, st.sampled_from(ZONES))
def test_pruning_every_night_keeps_what_pruning_once_would_keep(
    points: list[Candidate], rules: Retention, zone: str
) -> None:
    """So a point that a rule wants was never dropped on a day before."""
    left: list[Candidate] = []
    for each in points:
        left.append(each)
        stays = kept(left, rules, zone=zone, now=each.taken_at)
        left = [one for one in left if one.point in stays]

    assert {each.point for each in left} == kept(points, rules, zone=zone)


@given(
    histories(in_order=True),
    rules_given,
    st.lists(st.integers(-400, 400), min_size=1),
    st.lists(st.sampled_from(ZONES), min_size=1),
)
def test_no_clock_of_a_night_drops_what_the_right_one_keeps(
    points: list[Candidate], rules: Retention, days: list[int], zones: list[str]
) -> None:
    left: list[Candidate] = []
    for number, each in enumerate(points):
        left.append(each)
        wrong = each.taken_at + timedelta(days=days[number % len(days)])
        stays = kept(left, rules, now=wrong)
        left = [one for one in left if one.point in stays]

    assert kept(points, rules) <= {each.point for each in left}
    for zone in zones:
        stays = kept(left, rules, zone=zone)
        again = [each for each in left if each.point in stays]
        assert kept(again, rules, zone=zone) == stays


@given(histories(), histories(), rules_given)
def test_points_that_are_not_good_or_in_the_future_never_push_one_out(
    points: list[Candidate], more: list[Candidate], rules: Retention
) -> None:
    points = [replace(each, is_good=True) for each in points]
    flood = [
        replace(each, point=f"x{each.point}", is_good=False, sequence=each.sequence + 100)
        for each in more
    ]

    assert kept(points, rules) <= kept([*points, *flood], rules)
