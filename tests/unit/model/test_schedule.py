# SPDX-License-Identifier: Apache-2.0
"""When schedules ask for runs, on every kind of day that clocks know."""

from datetime import UTC, datetime, time, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from snapvault.config.values import Cron
from snapvault.model.cron import read_cron
from snapvault.model.policy import Schedule, Window
from snapvault.model.schedule import dues, may_start, next_due, starts_at, window_end

PARIS = ZoneInfo("Europe/Paris")
NEW_YORK = ZoneInfo("America/New_York")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
BEIRUT = ZoneInfo("Asia/Beirut")
ST_JOHNS = ZoneInfo("America/St_Johns")
APIA = ZoneInfo("Pacific/Apia")
UTC_ZONE = ZoneInfo("Etc/UTC")
MINUTE = timedelta(minutes=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def following(cron: str, after: str, number: int, zone: ZoneInfo = UTC_ZONE) -> list[str]:
    """Return the next moments that are due after a time in UTC, as clocks of the zone show them."""
    found = dues(Schedule(cron=cron), utc(after), utc("2100-01-01"), zone=zone)
    return [
        moment.astimezone(zone).strftime("%Y-%m-%d %H:%M %z") for moment in islice(found, number)
    ]


def days(cron: str, after: str, number: int) -> list[str]:
    return [text[:10] for text in following(cron, after, number)]


def test_a_night_at_half_past_one_is_due_by_the_clock_on_the_wall() -> None:
    assert following("30 1 * * *", "2026-11-20 12:00", 2, PARIS) == [
        "2026-11-21 01:30 +0100",
        "2026-11-22 01:30 +0100",
    ]


def test_moments_are_in_utc() -> None:
    due = next_due(Schedule(cron="30 1 * * *"), utc("2026-11-20 12:00"), zone=PARIS)

    assert due is not None
    assert due.isoformat() == "2026-11-21T00:30:00+00:00"


@pytest.mark.parametrize("after", ["2026-11-20 01:30", "2026-11-20 01:30:00.000001"])
def test_what_is_due_now_is_not_due_later_than_now(after: str) -> None:
    assert following("30 1 * * *", after, 1) == ["2026-11-21 01:30 +0000"]


def test_a_microsecond_before_it_is_due_it_is_still_to_come() -> None:
    assert following("30 1 * * *", "2026-11-20 01:29:59.999999", 1) == ["2026-11-20 01:30 +0000"]


# The 1st of November 2026 is a Sunday.
@pytest.mark.parametrize(
    ("weekdays", "found"),
    [
        ("0", [1, 8, 15]),
        ("7", [1, 8, 15]),
        ("sun", [1, 8, 15]),
        ("0,7", [1, 8, 15]),
        ("1", [2, 9, 16]),
        ("Mon", [2, 9, 16]),
        ("5-7", [1, 6, 7, 8]),
        ("0-1", [1, 2, 8, 9]),
        ("fri-7", [1, 6, 7, 8]),
        ("sun-tue", [1, 2, 3, 8]),
        ("mon-fri/2", [2, 4, 6, 9]),
        ("1-7/3", [1, 2, 5, 8]),
        ("*/2", [1, 3, 5, 7, 8]),
        ("*/7", [1, 8]),
        ("*/99", [1, 8]),
        ("0-7", [1, 2, 3]),
        ("sat,1", [2, 7, 9]),
        ("006", [7, 14]),
    ],
)
def test_weekdays_count_as_cron_counts_them(weekdays: str, found: list[int]) -> None:
    texts = days(f"0 3 * * {weekdays}", "2026-10-31 12:00", len(found))

    assert texts == [f"2026-11-{day:02}" for day in found]


@pytest.mark.parametrize(
    ("cron", "found"),
    [
        ("*/90 0 1 1 *", ["2027-01-01 00:00", "2028-01-01 00:00"]),
        ("7-7/3 0 1 1 *", ["2027-01-01 00:07", "2028-01-01 00:07"]),
        ("0-59/59 23 1 1 *", ["2027-01-01 23:00", "2027-01-01 23:59", "2028-01-01 23:00"]),
        ("5,3,5 4 1 1 *", ["2027-01-01 04:03", "2027-01-01 04:05", "2028-01-01 04:03"]),
        ("0 0 1 jan-jun/2 *", ["2027-01-01 00:00", "2027-03-01 00:00", "2027-05-01 00:00"]),
        ("0 0 31 * *", ["2026-12-31 00:00", "2027-01-31 00:00", "2027-03-31 00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 0 29 feb */7", ["2032-02-29 00:00", "2060-02-29 00:00"]),
    ],
)
def test_steps_names_and_rare_days_are_found(cron: str, found: list[str]) -> None:
    texts = following(cron, "2026-11-20 12:00", len(found))

    assert [text[:16] for text in texts] == found


def test_either_kind_of_day_matches_when_both_are_restricted() -> None:
    assert days("0 0 13 * fri", "2026-11-01 12:00", 4) == [
        "2026-11-06",
        "2026-11-13",
        "2026-11-20",
        "2026-11-27",
    ]
    assert days("0 0 10-11 * 5", "2026-11-01 12:00", 3) == [
        "2026-11-06",
        "2026-11-10",
        "2026-11-11",
    ]


def test_both_kinds_of_day_have_to_match_when_one_is_a_pattern() -> None:
    assert days("0 0 */2 * mon", "2026-11-01 12:00", 2) == ["2026-11-09", "2026-11-23"]


@pytest.mark.parametrize("cron", ["0 0 31 2 *", "0 0 30 feb *", "* * 31 4,6,9,11 *"])
def test_a_day_that_no_month_has_never_comes(cron: str) -> None:
    assert next_due(Schedule(cron=cron), utc("2026-11-20 12:00"), zone=PARIS) is None


def test_a_weekday_comes_though_the_day_beside_it_never_does() -> None:
    assert days("0 0 31 2 mon", "2026-11-20 12:00", 2) == ["2027-02-01", "2027-02-08"]


@pytest.mark.parametrize("cron", ["", "* * * *", "60 * * * *", "* * * * 8", "* * 5-3 * *"])
def test_what_is_no_expression_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        read_cron(cron)


@st.composite
def typed_field(draw: st.DrawFn, low: int, high: int, *words: str) -> str:
    """Write a field in a form that policies know, with numbers that may be out of order."""
    numbers = st.integers(low, high).map(lambda number: f"{number:02}")
    values = st.one_of(numbers, st.sampled_from(words)) if words else numbers
    form = draw(
        st.sampled_from(["*", "*/{2}", "{0}", "{0}-{1}", "{0}-{1}/{2}", "{0},{1}", "{1},*"])
    )
    return form.format(draw(values), draw(values), draw(st.integers(1, 99)))


@given(
    st.tuples(
        typed_field(0, 59),
        typed_field(0, 23),
        typed_field(1, 31),
        typed_field(1, 12, "jan", "FEB", "jun", "Dec"),
        typed_field(0, 7, "sun", "Mon", "FRI", "sat"),
    ).map(" ".join)
)
def test_every_expression_that_a_policy_may_hold_is_read(cron: str) -> None:
    try:
        accepted = TypeAdapter[str](Cron).validate_python(cron)
    except ValidationError:
        return

    due = next_due(Schedule(cron=accepted), utc("2026-11-20 12:00"), zone=PARIS)

    assert due is None or due > utc("2026-11-20 12:00")


# --- clocks that are changed ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "cron", "after", "found"),
    [
        (PARIS, "30 2 * * *", "2026-03-28 12:00", ["29 03:00 +0200", "30 02:30 +0200"]),
        (PARIS, "0 2,3 * * *", "2026-03-28 12:00", ["29 03:00 +0200", "30 02:00 +0200"]),
        (PARIS, "*/30 2 * * *", "2026-03-28 12:00", ["29 03:00 +0200", "30 02:00 +0200"]),
        (PARIS, "59 1 * * *", "2026-03-28 12:00", ["29 01:59 +0100", "30 01:59 +0200"]),
        (PARIS, "30 * * * *", "2026-03-29 00:10", ["29 01:30 +0100", "29 03:00 +0200"]),
        (NEW_YORK, "0 2 * * *", "2026-03-07 12:00", ["08 03:00 -0400", "09 02:00 -0400"]),
        (LORD_HOWE, "15 2 * * *", "2026-10-03 00:00", ["04 02:30 +1100", "05 02:15 +1100"]),
        (BEIRUT, "0 0 * * *", "2026-03-28 12:00", ["29 01:00 +0300", "30 00:00 +0300"]),
        (BEIRUT, "20 0 * * sun", "2026-03-28 12:00", ["29 01:00 +0300", "05 00:20 +0300"]),
    ],
)
def test_a_time_that_clocks_skip_is_due_when_they_have_skipped_it(
    zone: ZoneInfo, cron: str, after: str, found: list[str]
) -> None:
    assert [text[8:] for text in following(cron, after, 2, zone)] == found


@pytest.mark.parametrize(
    ("zone", "cron", "after", "found"),
    [
        (PARIS, "30 2 * * *", "2026-10-24 12:00", ["25 02:30 +0200", "26 02:30 +0100"]),
        (PARIS, "* 2-3 * * *", "2026-10-25 00:58", ["25 02:59 +0200", "25 03:00 +0100"]),
        (PARIS, "0 0-23 * * *", "2026-10-25 00:30", ["25 03:00 +0100", "25 04:00 +0100"]),
        (PARIS, "30 2 * * *", "2026-10-25 01:10", ["26 02:30 +0100", "27 02:30 +0100"]),
        (NEW_YORK, "0 1 * * *", "2026-10-31 12:00", ["01 01:00 -0400", "02 01:00 -0500"]),
        (LORD_HOWE, "45 1 * * *", "2026-04-04 00:00", ["05 01:45 +1100", "06 01:45 +1030"]),
        (BEIRUT, "30 23 * * *", "2026-10-24 12:00", ["24 23:30 +0300", "25 23:30 +0200"]),
    ],
)
def test_a_time_that_clocks_show_twice_is_due_the_first_time(
    zone: ZoneInfo, cron: str, after: str, found: list[str]
) -> None:
    assert [text[8:] for text in following(cron, after, 2, zone)] == found


@pytest.mark.parametrize(
    ("zone", "cron", "after", "found"),
    [
        (PARIS, "30 * * * *", "2026-10-25 00:10", ["02:30 +0200", "02:30 +0100", "03:30 +0100"]),
        (PARIS, "0 */2 * * *", "2026-10-24 23:10", ["02:00 +0200", "02:00 +0100", "04:00 +0100"]),
        (PARIS, "0,40 * * * *", "2026-10-25 00:30", ["02:40 +0200", "02:00 +0100", "02:40 +0100"]),
        (
            LORD_HOWE,
            "45 * * * *",
            "2026-04-04 14:00",
            ["01:45 +1100", "01:45 +1030", "02:45 +1030"],
        ),
        (LORD_HOWE, "*/20 * * * *", "2026-04-04 14:45", ["01:40 +1030", "02:00 +1030"]),
        (BEIRUT, "50 * * * *", "2026-10-24 20:00", ["23:50 +0300", "23:50 +0200", "00:50 +0200"]),
    ],
)
def test_an_hour_that_is_a_pattern_counts_each_time_it_is_shown(
    zone: ZoneInfo, cron: str, after: str, found: list[str]
) -> None:
    assert [text[11:] for text in following(cron, after, len(found), zone)] == found


def test_a_day_that_a_country_skipped_is_due_at_its_end() -> None:
    assert following("0 12 30 12 *", "2011-12-01 00:00", 2, APIA) == [
        "2011-12-31 00:00 +1400",
        "2012-12-30 12:00 +1400",
    ]


ZONES = st.sampled_from([PARIS, NEW_YORK, LORD_HOWE, BEIRUT, ST_JOHNS, APIA, UTC_ZONE])
# Days around which clocks were changed in one of these zones, or which some months do not have.
DAYS = st.sampled_from(
    [
        "2026-03-29",
        "2026-10-25",
        "2026-03-08",
        "2026-11-01",
        "2026-04-05",
        "2026-10-04",
        "2006-10-29",
        "2007-04-01",
        "2011-12-30",
        "2024-02-29",
        "2025-12-31",
    ]
).map(utc)
AFTERS = st.builds(
    lambda day, seconds: day + timedelta(seconds=seconds), DAYS, st.integers(-86400, 86400)
)


@st.composite
def cron_field(draw: st.DrawFn, low: int, high: int) -> str:
    first, last = sorted(draw(st.tuples(st.integers(low, high), st.integers(low, high))))
    step = draw(st.integers(1, 99))
    span = draw(
        st.sampled_from(["*", "*", f"*/{step}", f"{first}-{last}", f"{first}-{last}/{step}"])
    )
    single = draw(st.integers(low, high))
    return draw(st.sampled_from([span, str(single), f"{single},{first}-{last}"]))


CRONS = st.tuples(
    cron_field(0, 59), cron_field(0, 23), cron_field(1, 31), cron_field(1, 12), cron_field(0, 7)
).map(" ".join)


def listed(field: str, low: int, high: int) -> set[int]:
    """Return what a cron field lists, in the plainest way there is."""
    numbers: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.replace("*", f"{low}-{high}").partition("-")
        numbers |= set(range(int(first), int(last or first) + 1, int(step or 1)))
    return numbers


def plainly_due(cron: str, after: datetime, until: datetime, zone: ZoneInfo) -> list[datetime]:
    """Return what is due in (after, until], minute by minute, as somebody at a clock would."""
    fields = cron.split()
    minutes, hours = listed(fields[0], 0, 59), listed(fields[1], 0, 23)
    days, months = listed(fields[2], 1, 31), listed(fields[3], 1, 12)
    weekdays = {number or 7 for number in listed(fields[4], 0, 7)}
    either = not fields[2].startswith("*") and not fields[4].startswith("*")

    def matches(wall: datetime) -> bool:
        kinds = [wall.day in days, wall.isoweekday() in weekdays]
        is_day = any(kinds) if either else all(kinds)
        return wall.minute in minutes and wall.hour in hours and wall.month in months and is_day

    moments = []
    now = after.replace(second=0)
    wall = now.astimezone(zone).replace(tzinfo=None)
    while now < until:
        now += MINUTE
        shown = now.astimezone(zone)
        before, wall = wall, shown.replace(tzinfo=None)
        skipped = [before + minute * MINUTE for minute in range(1, (wall - before) // MINUTE)]
        again = shown.fold and not fields[1].startswith("*")
        if now <= until and ((not again and matches(wall)) or any(map(matches, skipped))):
            moments.append(now)
    return moments


@settings(deadline=None, max_examples=150)
@given(cron=CRONS, after=AFTERS, zone=ZONES)
def test_what_is_due_is_what_somebody_at_a_clock_sees(
    cron: str, after: datetime, zone: ZoneInfo
) -> None:
    until = after + timedelta(hours=30)

    found = list(dues(Schedule(cron=cron), after, until, zone=zone))

    assert found == plainly_due(cron, after, until, zone)


@given(cron=CRONS, after=AFTERS, zone=ZONES)
def test_what_comes_next_is_always_later(cron: str, after: datetime, zone: ZoneInfo) -> None:
    moments = list(islice(dues(Schedule(cron=cron), after, utc("2060-01-01"), zone=zone), 20))

    assert all(one < other for one, other in pairwise([after, *moments]))


# --- every so often -------------------------------------------------------------------------


def test_an_interval_counts_from_the_epoch_whenever_one_starts() -> None:
    schedule = Schedule(every=timedelta(hours=6))

    found = [
        next_due(schedule, utc(after), zone=PARIS)
        for after in ("2026-11-20 05:59:59", "2026-11-20 06:00", "2026-11-20 11:00")
    ]

    assert found == [utc("2026-11-20 06:00"), utc("2026-11-20 12:00"), utc("2026-11-20 12:00")]


def test_an_interval_goes_on_evenly_while_clocks_are_changed() -> None:
    schedule = Schedule(every=timedelta(minutes=90))

    found = list(dues(schedule, utc("2026-10-24 12:00"), utc("2026-10-26 12:00"), zone=PARIS))

    assert len(found) == 32
    assert {other - one for one, other in pairwise(found)} == {timedelta(minutes=90)}


def test_an_interval_of_ages_never_comes() -> None:
    schedule = Schedule(every=timedelta(days=300_000_000))

    assert next_due(schedule, utc("2026-11-20"), zone=PARIS) is None


def test_what_is_due_until_a_moment_includes_it() -> None:
    schedule = Schedule(every=timedelta(hours=1))

    found = list(dues(schedule, utc("2026-11-20 01:00"), utc("2026-11-20 03:00"), zone=PARIS))

    assert found == [utc("2026-11-20 02:00"), utc("2026-11-20 03:00")]


# --- jitter and windows ---------------------------------------------------------------------


def windowed(start: str, end: str, *, jitter: timedelta = timedelta(0)) -> Schedule:
    window = Window(time.fromisoformat(start), time.fromisoformat(end))
    return Schedule(cron="0 0 * * *", jitter=jitter, window=window)


def start_of(schedule: Schedule, due: str, zone: ZoneInfo = UTC_ZONE, salt: str = "v/s") -> str:
    start = starts_at(schedule, utc(due), zone=zone, salt=salt)
    assert start.tzinfo is UTC
    return start.strftime("%Y-%m-%d %H:%M")


def test_without_jitter_and_window_a_run_starts_when_it_is_due() -> None:
    assert start_of(Schedule(cron="30 1 * * *"), "2026-11-20 01:30") == "2026-11-20 01:30"


def test_jitter_is_the_same_each_time_and_another_for_each_source_and_night() -> None:
    schedule = Schedule(cron="30 1 * * *", jitter=timedelta(hours=1))
    nights = [utc("2026-11-20 01:30"), utc("2026-11-21 01:30")]

    drawn = [
        [starts_at(schedule, due, zone=PARIS, salt=salt) - due for due in nights for salt in "ab"]
        for _ in range(2)
    ]

    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 4


def test_jitter_does_not_depend_on_how_the_moment_is_written() -> None:
    schedule = Schedule(cron="30 1 * * *", jitter=timedelta(hours=1))
    due = utc("2026-11-20 01:30")

    starts = {
        starts_at(schedule, moment, zone=PARIS, salt="v/s")
        for moment in (due, due.astimezone(PARIS), due.astimezone(NEW_YORK))
    }

    assert len(starts) == 1


def test_jitter_is_spread_evenly_up_to_itself() -> None:
    schedule = Schedule(cron="30 1 * * *", jitter=timedelta(seconds=9))
    due = utc("2026-11-20 01:30")

    drawn = [
        (starts_at(schedule, due, zone=PARIS, salt=str(salt)) - due).total_seconds()
        for salt in range(2000)
    ]

    assert all(150 < drawn.count(seconds) < 250 for seconds in range(10))
    assert set(drawn) == set(range(10))


def test_what_is_due_outside_the_window_starts_at_its_next_opening() -> None:
    assert start_of(windowed("01:00", "06:00"), "2026-11-20 00:30") == "2026-11-20 01:00"
    assert start_of(windowed("01:00", "06:00"), "2026-11-20 06:00") == "2026-11-21 01:00"
    assert start_of(windowed("22:00", "04:00"), "2026-11-20 12:00") == "2026-11-20 22:00"
    assert start_of(windowed("22:00", "04:00"), "2026-11-20 03:59") == "2026-11-20 03:59"


def test_a_window_is_one_of_the_zone() -> None:
    schedule = windowed("01:00", "06:00")

    assert start_of(schedule, "2026-11-20 12:00", PARIS) == "2026-11-21 00:00"
    assert not may_start(schedule, utc("2026-11-20 05:00"), zone=PARIS)
    assert may_start(schedule, utc("2026-11-20 04:59:59"), zone=PARIS)


def test_without_a_window_a_run_may_always_start() -> None:
    schedule = Schedule(every=timedelta(hours=1))

    assert may_start(schedule, utc("2026-11-20 12:00"), zone=PARIS)
    assert window_end(schedule, utc("2026-11-20 12:00"), zone=PARIS) is None


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2026-11-20 21:59:59", None),
        ("2026-11-20 22:00", "2026-11-21 04:00"),
        ("2026-11-20 23:59:59", "2026-11-21 04:00"),
        ("2026-11-21 00:00", "2026-11-21 04:00"),
        ("2026-11-21 03:59:59", "2026-11-21 04:00"),
        ("2026-11-21 04:00", None),
    ],
)
def test_a_window_past_midnight_is_one(now: str, end: str | None) -> None:
    schedule = windowed("22:00", "04:00")

    assert window_end(schedule, utc(now), zone=UTC_ZONE) == (end and utc(end))
    assert may_start(schedule, utc(now), zone=UTC_ZONE) == (end is not None)


@pytest.mark.parametrize(
    ("zone", "window", "now", "hours"),
    [
        (PARIS, ("01:00", "04:00"), "2026-03-29 00:00", 2),
        (PARIS, ("02:30", "04:00"), "2026-03-29 01:00", 1),
        (PARIS, ("01:00", "02:30"), "2026-03-29 00:00", 1),
        (PARIS, ("01:00", "04:00"), "2026-10-24 23:00", 4),
        (PARIS, ("02:30", "04:00"), "2026-10-25 00:30", 2.5),
        (PARIS, ("01:00", "02:30"), "2026-10-24 23:00", 2.5),
        (PARIS, ("22:00", "06:00"), "2026-10-24 20:00", 9),
        (PARIS, ("22:00", "06:00"), "2026-03-28 21:00", 7),
        (BEIRUT, ("00:00", "06:00"), "2026-03-28 22:00", 5),
        (LORD_HOWE, ("01:00", "03:00"), "2026-04-04 14:00", 2.5),
        (ST_JOHNS, ("00:00", "06:00"), "2006-10-29 02:30", 7),
        (PARIS, ("03:00", "03:00"), "2026-11-20 02:00", 24),
    ],
)
def test_a_window_lasts_as_long_as_clocks_let_it(
    zone: ZoneInfo, window: tuple[str, str], now: str, hours: float
) -> None:
    opening = utc(now)

    closing = window_end(windowed(*window), opening, zone=zone)

    assert closing is not None
    assert closing - opening == timedelta(hours=hours)


def test_a_window_stays_open_when_clocks_go_back_over_midnight() -> None:
    schedule = windowed("00:00", "06:00")

    closing = window_end(schedule, utc("2006-10-29 03:00"), zone=ST_JOHNS)  # 23:30 of the 28th

    assert closing == utc("2006-10-29 09:30")


def test_a_window_that_clocks_skip_does_not_open_that_day() -> None:
    schedule = windowed("02:10", "02:50")

    assert start_of(schedule, "2026-03-28 12:00", PARIS) == "2026-03-30 00:10"
    assert not may_start(schedule, utc("2026-03-29 01:00"), zone=PARIS)


def test_jitter_is_cut_short_where_the_window_closes() -> None:
    schedule = windowed("01:00", "02:00", jitter=timedelta(hours=5))

    starts = {start_of(schedule, "2026-11-20 01:57", salt=str(salt)) for salt in range(200)}

    assert starts == {"2026-11-20 01:57", "2026-11-20 01:58", "2026-11-20 01:59"}


def test_the_last_minute_of_a_window_is_not_too_late() -> None:
    schedule = windowed("01:00", "02:00", jitter=timedelta(hours=5))

    start = starts_at(schedule, utc("2026-11-20 01:59:30"), zone=UTC_ZONE, salt="v/s")

    assert start == utc("2026-11-20 01:59:30")


TIMES = st.builds(time, st.integers(0, 23), st.sampled_from([0, 1, 10, 30, 59]))


@given(due=AFTERS, zone=ZONES, start=TIMES, end=TIMES, minutes=st.integers(0, 3000))
def test_a_run_starts_inside_the_window_and_never_early(
    due: datetime, zone: ZoneInfo, start: time, end: time, minutes: int
) -> None:
    assume(start != end)
    jitter = timedelta(minutes=minutes)
    schedule = Schedule(cron="0 0 * * *", jitter=jitter, window=Window(start, end))

    found = starts_at(schedule, due, zone=zone, salt="v/s")

    assert may_start(schedule, found, zone=zone)
    assert due <= found
    if may_start(schedule, due, zone=zone):
        assert found <= due + jitter


@given(now=AFTERS, zone=ZONES, start=TIMES, end=TIMES)
def test_away_from_changes_of_clocks_a_window_is_a_span_of_the_day(
    now: datetime, zone: ZoneInfo, start: time, end: time
) -> None:
    around = [now + timedelta(hours=hours) for hours in (-36, -24, 0, 24, 36)]
    assume(len({moment.astimezone(zone).utcoffset() for moment in around}) == 1)
    assume(start != end)
    schedule = Schedule(cron="0 0 * * *", window=Window(start, end))
    shown = now.astimezone(zone).time()

    inside = may_start(schedule, now, zone=zone)

    assert inside == (start <= shown < end if start < end else shown >= start or shown < end)
