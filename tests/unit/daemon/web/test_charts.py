# SPDX-License-Identifier: Apache-2.0
"""Charts: what is drawn, and that every number lands on its day."""

import itertools
import re
from datetime import UTC, date, datetime, timedelta
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.daemon.web import charts
from snapvault.model.runs import SourceKey
from snapvault.units import GIB, KIB, MIB, TIB
from tests.support.status_builder import a_point

TODAY = date(2026, 11, 20)
KEY = SourceKey("offsite", "web01")
DAYS = charts.last_days(TODAY, 35)


def test_the_last_days_end_today() -> None:
    assert charts.last_days(TODAY, 3) == [date(2026, 11, 18), date(2026, 11, 19), TODAY]


def test_a_strip_fills_the_days_that_have_restore_points_and_dots_the_others() -> None:
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    points = [
        a_point(KEY, noon),
        *(a_point(KEY, noon - timedelta(days=1, minutes=n)) for n in range(2)),
        *(a_point(KEY, noon - timedelta(days=2, minutes=n)) for n in range(9)),
    ]

    drawn = str(charts.strip(points, TODAY, UTC))

    shapes = dict(re.findall(r'class="(l\d)" d="([^"]+)"', drawn))
    assert {level: path.count("M") for level, path in shapes.items()} == {
        "l0": 32,
        "l1": 1,
        "l2": 1,
        "l3": 1,
    }
    assert "restore points of 3 of the last 35 days" in drawn


@pytest.mark.parametrize("today", [TODAY + timedelta(days=n) for n in range(7)])
def test_a_strip_stays_inside_its_frame_whatever_day_it_is(today: date) -> None:
    drawn = str(charts.strip([], today, UTC))

    width = int(re.findall(r'viewBox="0 0 (\d+) 16"', drawn)[0])
    lefts = [float(left) for left in re.findall(r"M([\d.]+) ", drawn)]
    assert len(lefts) == 35
    assert max(lefts) + 4 <= width


def test_days_are_those_of_the_zone_that_looks() -> None:
    late = a_point(KEY, datetime(2026, 11, 19, 23, 30, tzinfo=UTC))

    in_paris = charts.calendar([late], TODAY, ZoneInfo("Europe/Paris"), 7)
    in_utc = charts.calendar([late], TODAY, UTC, 7)

    assert [day.day.day for week in in_paris for day in week if day.points] == [20]
    assert [day.day.day for week in in_utc for day in week if day.points] == [19]


def test_a_calendar_has_whole_weeks_and_knows_what_has_not_come_yet() -> None:
    weeks = charts.calendar([], TODAY, UTC, 35)

    assert [len(week) for week in weeks] == [7] * 6
    assert all(week[0].day.weekday() == 0 for week in weeks)
    assert [day.future for day in weeks[-1]] == [False] * 5 + [True] * 2


@given(st.integers(0, 50 * TIB), st.integers(0, 50 * TIB))
def test_an_axis_spans_all_values_with_a_few_even_steps(one: int, other: int) -> None:
    low, high = sorted((one, other))

    ticks = charts.axis(low, high)

    assert 3 <= len(ticks) <= 6
    assert ticks[0] <= low
    assert ticks[-1] >= high
    gaps = {round(after - before, 3) for before, after in itertools.pairwise(ticks)}
    assert max(gaps) - min(gaps) <= max(ticks) / 1e9


@given(st.integers(0, 50 * TIB), st.integers(0, 50 * TIB))
def test_no_two_labels_of_an_axis_are_the_same(one: int, other: int) -> None:
    low, high = sorted((one, other))

    labels = charts.growth("offsite", high, {TODAY: high - low}, DAYS).total.ticks

    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 0, [0, 1, 2]),
        (0, 3, [0, 1, 2, 3]),
        (0, 290 * MIB, [0, 100 * MIB, 200 * MIB, 300 * MIB]),
        (0, 1023 * KIB, [0, 500 * KIB, 1000 * KIB, 1500 * KIB]),
        (40 * GIB, int(40.3 * GIB), [40 * GIB, 40.1 * GIB, 40.2 * GIB, 40.3 * GIB]),
    ],
)
def test_ticks_are_round_in_binary_units(low: int, high: int, labels: list[float]) -> None:
    assert charts.axis(low, high) == pytest.approx(labels)


def test_growth_works_back_from_what_a_vault_holds_now() -> None:
    added = {TODAY: 10 * GIB, TODAY - timedelta(days=1): 20 * GIB}

    grown = charts.growth("offsite", 100 * GIB, added, charts.last_days(TODAY, 3))

    # 70, 90 and 100 GiB, between the lowest tick and the highest.
    assert re.findall(r'class="line" d="([^"]+)"', grown.total.svg) == ["M0 100L500 33.3L1000 0"]
    assert list(grown.total.ticks) == ["100 GiB", "90 GiB", "80 GiB", "70 GiB"]
    assert grown.summary == "100.0 GiB stored; 30.0 GiB added in 3 days, 10.0 GiB a day"
    assert list(grown.added.days) == ["18 Nov", "19 Nov", "20 Nov"]


def test_a_bar_stands_on_its_day_and_says_what_it_is() -> None:
    drawn = charts.added_each_day("web01", {DAYS[3]: 5 * MIB}, DAYS).svg

    bars = ET.fromstring(drawn).findall("rect")
    assert [bar.findtext("title") for bar in bars] == ["20 Oct: 5.0 MiB"]
    assert float(bars[0].attrib["x"]) == pytest.approx(3 * 1000 / 35 + 4, abs=0.1)
    assert float(bars[0].attrib["y"]) + float(bars[0].attrib["height"]) == pytest.approx(100)


def test_a_vault_that_lost_more_than_it_gained_never_falls_below_nothing() -> None:
    grown = charts.growth("offsite", 1, {TODAY: 5 * GIB}, DAYS)

    assert "-" not in re.findall(r'class="line" d="([^"]+)"', grown.total.svg)[0]


def test_drawings_are_well_formed_whatever_things_are_called() -> None:
    name = '<script>alert("&")</script>'

    grown = charts.growth(name, GIB, {TODAY: MIB}, DAYS)

    for drawing in (grown.total.svg, grown.added.svg, charts.strip([], TODAY, UTC)):
        root = ET.fromstring(drawing)
        assert not list(root.iter("script"))
    assert ET.fromstring(grown.total.svg).attrib["aria-label"].startswith(name)
