# SPDX-License-Identifier: Apache-2.0
"""What people type after --at."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.model.moments import ACCEPTED_FORMS, parse_moment

PARIS = ZoneInfo("Europe/Paris")
NOW = datetime(2026, 11, 22, 9, 15, 30, 250_000, tzinfo=UTC)  # 10:15:30.25 in Paris


def at(text: str, *, now: datetime = NOW) -> str:
    return parse_moment(text, now=now, zone=PARIS).isoformat()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-20", "2026-11-20T22:59:59.999999+00:00"),
        ("yesterday", "2026-11-21T22:59:59.999999+00:00"),
        ("2026-11-20 03:00", "2026-11-20T02:00:59.999999+00:00"),
        ("2026-11-20 3:00", "2026-11-20T02:00:59.999999+00:00"),
        ("2026-11-20T03:00", "2026-11-20T02:00:59.999999+00:00"),
        ("2026-11-20 03:00:10", "2026-11-20T02:00:10.999999+00:00"),
        ("yesterday 03:00", "2026-11-21T02:00:59.999999+00:00"),
        ("Today 01:30", "2026-11-22T00:30:59.999999+00:00"),
    ],
)
def test_local_days_minutes_and_seconds_mean_their_last_instant(text: str, moment: str) -> None:
    assert at(text) == moment


@pytest.mark.parametrize(
    "text", ["now", "today", "2026-11-22", "2026-11-22 10:15", "2026-11-22 10:15:30", " NOW "]
)
def test_a_span_that_is_going_on_ends_now(text: str) -> None:
    assert at(text) == NOW.isoformat()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-20T03:00:00Z", "2026-11-20T03:00:00+00:00"),
        ("2026-11-20t03:00z", "2026-11-20T03:00:00+00:00"),
        ("2026-11-20T03:00:00+02:00", "2026-11-20T01:00:00+00:00"),
        ("2026-11-20 03:00:00 -0530", "2026-11-20T08:30:00+00:00"),
        ("2026-11-20T03:00:00.25Z", "2026-11-20T03:00:00.250000+00:00"),
        ("2026-11-20T03:00:00,123456789Z", "2026-11-20T03:00:00.123456+00:00"),
        ("2026-11-20T03:00:00.5", "2026-11-20T02:00:00.500000+00:00"),
    ],
)
def test_iso_8601_with_a_zone_or_a_fraction_is_exact(text: str, moment: str) -> None:
    assert at(text) == moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("3 days ago", "2026-11-19T09:15:30.250000+00:00"),
        ("0 days ago", "2026-11-22T09:15:30.250000+00:00"),
        ("2 hours ago", "2026-11-22T07:15:30.250000+00:00"),
        ("1 minute ago", "2026-11-22T09:14:30.250000+00:00"),
        ("1 week ago", "2026-11-15T09:15:30.250000+00:00"),
        ("1 month ago", "2026-10-22T08:15:30.250000+00:00"),
        ("2 years ago", "2024-11-22T09:15:30.250000+00:00"),
    ],
)
def test_distances_go_back_by_the_calendar_at_the_same_time_of_day(text: str, moment: str) -> None:
    assert at(text) == moment


def test_a_month_ago_from_a_long_month_is_the_last_day_of_a_short_one() -> None:
    assert at("1 month ago", now=datetime(2026, 3, 31, 12, tzinfo=UTC)).startswith("2026-02-28")


@pytest.mark.parametrize("text", ["2026-11-23", "2026-11-22 10:16", "2026-11-22T09:15:31Z"])
def test_the_future_is_later_than_now(text: str) -> None:
    assert parse_moment(text, now=NOW, zone=PARIS) > NOW


def test_a_local_time_shown_twice_means_the_second() -> None:
    assert at("2026-10-25 02:30:00") == "2026-10-25T01:30:00.999999+00:00"


def test_a_local_time_shown_twice_ends_now_while_it_is_shown_first() -> None:
    first_time = datetime(2026, 10, 25, 0, 30, 5, tzinfo=UTC)

    assert at("2026-10-25 02:30", now=first_time) == first_time.isoformat()


def test_a_local_time_that_clocks_skipped_means_the_instant_before_the_change() -> None:
    assert at("2026-03-29 02:30:00") == "2026-03-29T00:59:59.999999+00:00"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "noon",
        "20 november",
        "20/11/2026",
        "2026-11",
        "03:00",
        "2026-11-20 03",
        "3 fortnights ago",
        "-3 days ago",
        "2026-02-30",
        "2026-11-20 24:00",
        "2026-11-20T03:00:00+99:00",
        "999999999 days ago",
        "999999999 years ago",
        "0000-01-01",
        "0001-01-01",
        "9999-12-31T23:59:59-12:00",
        "٢٠٢٦-11-20",
    ],
)
def test_anything_else_is_refused_with_the_accepted_forms(text: str) -> None:
    with pytest.raises(ValueError, match="as a time, ") as refusal:
        parse_moment(text, now=NOW, zone=ZoneInfo("Asia/Tokyo"))

    assert all(form in str(refusal.value) for form in ACCEPTED_FORMS)


def test_every_accepted_form_is_accepted() -> None:
    moments = [parse_moment(form, now=NOW, zone=PARIS) for form in ACCEPTED_FORMS]

    assert all(moment <= NOW for moment in moments)


ZONES = st.sampled_from(
    ["UTC", "Europe/Paris", "America/Sao_Paulo", "Australia/Lord_Howe", "Pacific/Apia"]
).map(ZoneInfo)
INSTANTS = st.datetimes(
    datetime.fromisoformat("1990-01-01"),
    datetime.fromisoformat("2037-01-01"),
    timezones=st.just(UTC),
)
LOCAL_TIMES = INSTANTS.map(lambda instant: instant.replace(tzinfo=None))
MUCH_LATER = datetime(2050, 1, 1, tzinfo=UTC)


@given(instant=INSTANTS, zone=ZONES)
def test_the_written_form_of_an_instant_is_read_back(instant: datetime, zone: ZoneInfo) -> None:
    text = instant.astimezone(zone).isoformat()

    assert parse_moment(text, now=MUCH_LATER, zone=zone) == instant


@given(instant=INSTANTS, zone=ZONES, form=st.sampled_from(["%Y-%m-%d", "%Y-%m-%d %H:%M:%S"]))
def test_an_instant_is_never_after_what_a_clock_in_that_zone_showed(
    instant: datetime, zone: ZoneInfo, form: str
) -> None:
    shown = instant.astimezone(zone).strftime(form)

    moment = parse_moment(shown, now=MUCH_LATER, zone=zone)

    assert instant <= moment
    assert moment.astimezone(zone).strftime(form) == shown


@given(LOCAL_TIMES, st.integers(0, 7200), ZONES)
def test_later_local_times_are_never_earlier_instants(
    wall: datetime, seconds: int, zone: ZoneInfo
) -> None:
    first, second = (
        parse_moment(each.strftime("%Y-%m-%d %H:%M:%S"), now=MUCH_LATER, zone=zone)
        for each in (wall, wall + timedelta(seconds=seconds))
    )

    assert first <= second


@given(instant=INSTANTS, zone=ZONES)
def test_today_is_now_wherever_it_is_typed(instant: datetime, zone: ZoneInfo) -> None:
    day: date = instant.astimezone(zone).date()

    assert parse_moment("today", now=instant, zone=zone) == instant
    assert parse_moment(day.isoformat(), now=instant, zone=zone) == instant


@given(st.text())
def test_any_text_is_a_moment_or_refused(text: str) -> None:
    try:
        moment = parse_moment(text, now=NOW, zone=PARIS)
    except ValueError:
        return

    assert moment.tzinfo is UTC
