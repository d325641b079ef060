# SPDX-License-Identifier: Apache-2.0
"""What is to be done about a source at a moment."""

from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.model.agenda import (
    COUNTED,
    GRACE,
    Attempt,
    Missed,
    Plan,
    Start,
    Timing,
    anchor,
    next_attempt,
    next_slot,
    plan,
    urgency,
)
from snapvault.model.policy import Retry, Schedule, Window
from snapvault.model.runs import Failure, Run, RunState, SourceKey, Trigger

UTC_ZONE = ZoneInfo("Etc/UTC")
NIGHT = Window(time(1), time(6))
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
NETWORK = Failure("could not reach the store", None, 14, True)
DISK = Failure("could not read the disk", None, 15, False)
HELD = Failure("another run is at work", None, 11, True)


def at(text: str) -> datetime:
    """Read `03 02:00` as a moment of March 2026, in UTC."""
    return datetime.strptime(f"2026-03-{text}", "%Y-%m-%d %H:%M").replace(tzinfo=UTC)


def timed(cron: str | None = "0 2 * * *", **values: Any) -> Timing:
    return Timing(Schedule(cron=cron, **values), UTC_ZONE, "offsite/web01")


def decide(timing: Timing, now: str, *, handled: str, **values: Any) -> Plan:
    """Plan for a source that somebody has been looking at without a gap."""
    attended = at(values.pop("attended", "01 00:00"))
    return plan(timing, at(now), handled=at(handled), attended=attended, **values)


def a_failed_run(failure: Failure | None = NETWORK, **values: Any) -> Run:
    base: dict[str, Any] = {
        "id": "r1",
        "key": SourceKey("offsite", "web01"),
        "policy": "nightly",
        "state": RunState.FAILED,
        "trigger": Trigger.SCHEDULE,
        "started": at("03 02:00"),
        "ended": at("03 02:10"),
        "due": at("03 02:00"),
        "failure": failure,
    }
    return Run(**(base | values))


# --- in time --------------------------------------------------------------------------------


def test_what_is_not_due_waits_for_its_next_start() -> None:
    found = decide(timed(), "03 01:59", handled="02 02:00")

    assert found == Plan(wake=at("03 02:00"), following=at("03 02:00"))


def test_what_is_due_starts_and_is_planned_again_when_the_next_one_starts() -> None:
    found = decide(timed(), "03 02:00", handled="02 02:00")

    assert found.start == Start(at("03 02:00"), Trigger.SCHEDULE)
    assert (found.missed, found.wake) == (None, at("04 02:00"))


def test_jitter_delays_the_start_and_not_the_due() -> None:
    timing = timed(jitter=30 * MINUTE)
    start = timing.start(at("03 02:00"))

    before = plan(timing, start - MINUTE, handled=at("02 02:00"), attended=at("01 00:00"))
    after = plan(timing, start, handled=at("02 02:00"), attended=at("01 00:00"))

    assert at("03 02:00") < start <= at("03 02:30")
    assert (before.start, before.wake) == (None, start)
    assert after.start == Start(at("03 02:00"), Trigger.SCHEDULE)


def test_what_waits_for_its_turn_is_planned_again_when_the_window_closes() -> None:
    found = decide(timed(window=NIGHT), "03 04:00", handled="02 02:00")

    assert found.start == Start(at("03 02:00"), Trigger.SCHEDULE)
    assert found.wake == at("03 06:00")


def test_the_dues_of_a_day_outside_the_window_are_one_run_when_it_opens() -> None:
    hourly = timed(cron=None, every=HOUR, window=NIGHT)

    found = decide(hourly, "03 01:00", handled="02 05:00")

    assert found.start == Start(at("03 01:00"), Trigger.SCHEDULE)
    assert found.missed is None
    assert decide(hourly, "03 00:59", handled="02 05:00").wake == at("03 01:00")


def test_dues_with_jitter_that_wait_for_one_opening_are_still_one_run() -> None:
    hourly = timed(cron=None, every=HOUR, window=NIGHT, jitter=20 * MINUTE)

    found = decide(hourly, "03 01:20", handled="02 05:00")

    assert found.start == Start(at("03 01:00"), Trigger.SCHEDULE)
    assert found.missed is None


def test_a_schedule_that_never_comes_waits_for_ever() -> None:
    found = decide(timed("0 0 30 2 *"), "03 02:00", handled="02 02:00")

    assert found == Plan()


# --- late -----------------------------------------------------------------------------------


def test_of_what_was_missed_the_last_is_caught_up_with_and_the_others_are_reported() -> None:
    found = decide(timed(), "07 09:00", handled="02 02:00", attended="07 09:00")

    assert found.start == Start(at("07 02:00"), Trigger.CATCH_UP)
    assert found.missed == Missed(4, exact=True, last=at("06 02:00"))


def test_without_catching_up_all_of_it_is_missed() -> None:
    timing = timed(catch_up=False)

    found = decide(timing, "07 09:00", handled="02 02:00", attended="07 09:00")

    assert found.start is None
    assert found.missed == Missed(5, exact=True, last=at("07 02:00"))
    assert found.wake == at("08 02:00")


def test_a_start_noticed_a_moment_late_is_in_time() -> None:
    timing = timed(catch_up=False)
    now = at("03 02:00") + GRACE

    found = plan(timing, now, handled=at("02 02:00"), attended=now)

    assert found.start == Start(at("03 02:00"), Trigger.SCHEDULE)


def test_what_waited_for_its_turn_is_not_late() -> None:
    found = decide(timed(catch_up=False), "03 23:00", handled="02 02:00")

    assert found.start == Start(at("03 02:00"), Trigger.SCHEDULE)


def test_catching_up_waits_for_the_window() -> None:
    timing = timed(window=NIGHT)

    found = decide(timing, "03 09:00", handled="02 02:00", attended="03 09:00")

    assert (found.start, found.missed) == (None, None)
    assert found.wake == at("04 01:00")
    again = decide(timing, "04 01:00", handled="02 02:00", attended="03 09:00")
    assert again.start == Start(at("03 02:00"), Trigger.CATCH_UP)


def test_what_has_no_chance_before_the_next_one_is_reported_when_the_window_closes() -> None:
    timing = timed("0 1 * * *", window=NIGHT)

    found = decide(timing, "03 06:00", handled="02 01:00")

    assert (found.start, found.missed) == (None, Missed(1, exact=True, last=at("03 01:00")))


def test_without_catching_up_the_closing_window_ends_the_waiting() -> None:
    timing = timed(window=NIGHT, catch_up=False)

    found = decide(timing, "03 06:00", handled="02 02:00")

    assert (found.start, found.missed) == (None, Missed(1, exact=True, last=at("03 02:00")))


def test_a_clock_that_jumps_by_decades_does_not_count_for_ever() -> None:
    timing = timed(cron=None, every=MINUTE)
    now = datetime(2060, 1, 1, 0, 0, 30, tzinfo=UTC)

    found = plan(timing, now, handled=at("02 02:00"), attended=now)

    assert found.start == Start(datetime(2060, 1, 1, tzinfo=UTC), Trigger.SCHEDULE)
    assert found.missed is not None
    assert not found.missed.exact
    assert found.missed.count >= COUNTED - 1
    assert found.missed.last == datetime(2059, 12, 31, 23, 59, tzinfo=UTC)


@given(
    every=st.integers(1, 300),
    handled=st.integers(0, 5000),
    gone=st.integers(0, 5000),
    watched=st.integers(0, 10_000),
    catch_up=st.booleans(),
)
def test_every_due_is_run_or_missed_and_none_twice(
    *, every: int, handled: int, gone: int, watched: int, catch_up: bool
) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    now = epoch + (handled + gone) * MINUTE
    timing = timed(cron=None, every=every * MINUTE, catch_up=catch_up)
    expected = [n for n in range(handled + 1, handled + gone + 1) if n % every == 0]

    found = plan(timing, now, handled=epoch + handled * MINUTE, attended=epoch + watched * MINUTE)

    missed = found.missed.count if found.missed else 0
    if len(expected) <= COUNTED:
        assert missed + (found.start is not None) == len(expected)
    if found.start is not None:
        assert found.start.due == epoch + expected[-1] * MINUTE
        assert found.missed is None or found.missed.last < found.start.due
    assert found.wake is not None
    assert found.wake > now


# --- trying again ---------------------------------------------------------------------------


@pytest.mark.parametrize(("attempt", "minutes"), [(1, 5), (2, 10), (3, 20), (4, 40), (5, 60)])
def test_the_pause_doubles_up_to_its_limit(attempt: int, minutes: int) -> None:
    run = a_failed_run(attempt=attempt)

    found = next_attempt(timed(), Retry(attempts=9), run, at("03 02:10"))

    expected = at("03 02:10") + minutes * MINUTE
    assert found == Attempt(at("03 02:00"), attempt + 1, expected)


@pytest.mark.parametrize(
    "run",
    [
        a_failed_run(DISK),
        a_failed_run(attempt=3),
        a_failed_run(due=None),
        a_failed_run(ended=at("04 01:58")),  # the next one is due sooner
    ],
    ids=["of no use", "attempts are used up", "asked for by hand", "next one comes first"],
)
def test_a_failed_run_is_not_tried_again_for_ever_or_in_vain(run: Run) -> None:
    assert next_attempt(timed(), Retry(), run, run.ended or at("03 02:10")) is None


@pytest.mark.parametrize(
    "run",
    [
        a_failed_run(None, state=RunState.INTERRUPTED),
        a_failed_run(Failure("ended by a signal", None, 137, False)),
        a_failed_run(Failure("ended by a signal", None, -9, False)),
    ],
)
def test_a_run_that_was_cut_off_is_tried_again(run: Run) -> None:
    assert next_attempt(timed(), Retry(), run, at("03 02:10")) is not None


def test_a_run_is_tried_again_inside_the_window_only() -> None:
    run = a_failed_run(ended=at("03 05:56"))

    assert next_attempt(timed(window=NIGHT), Retry(), run, at("03 05:56")) is None
    assert next_attempt(timed(), Retry(), run, at("03 05:56")) is not None


def test_finding_the_source_held_uses_up_no_attempt() -> None:
    found = next_attempt(timed(), Retry(), a_failed_run(HELD, attempt=3), at("03 02:10"))

    assert found is not None
    assert found.number == 3


def test_an_attempt_waits_for_its_moment_and_then_starts() -> None:
    again = Attempt(at("03 02:00"), 2, at("03 02:15"))

    before = decide(timed(), "03 02:14", handled="03 02:00", again=again)
    after = decide(timed(), "03 02:15", handled="03 02:00", again=again)

    assert (before.start, before.wake) == (None, at("03 02:15"))
    assert after.start == Start(at("03 02:00"), Trigger.RETRY, attempt=2)


def test_an_attempt_makes_way_for_the_next_slot() -> None:
    again = Attempt(at("03 02:00"), 2, at("03 02:15"))

    found = decide(timed(), "04 02:00", handled="03 02:00", again=again)

    assert found.given_up
    assert found.start == Start(at("04 02:00"), Trigger.SCHEDULE)


def test_an_attempt_that_did_not_get_its_turn_ends_with_the_window() -> None:
    again = Attempt(at("03 02:00"), 2, at("03 02:15"))

    found = decide(timed(window=NIGHT), "03 06:00", handled="03 02:00", again=again)

    assert (found.given_up, found.start, found.wake) == (True, None, at("04 02:00"))


# --- clocks that were ahead -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("handled", "expected"),
    [
        ("02 02:00", "02 02:00"),  # as usual
        ("04 02:00", "04 02:00"),  # what comes next was run: not again
        ("05 02:00", "03 12:00"),  # further ahead: the source is not left alone
        ("30 02:00", "03 12:00"),
    ],
)
def test_a_clock_that_was_ahead_neither_repeats_the_next_run_nor_silences_a_source(
    handled: str, expected: str
) -> None:
    assert anchor(timed(), at(handled), at("03 12:00")) == at(expected)


# --- order ----------------------------------------------------------------------------------


def test_what_is_furthest_behind_its_objective_comes_first() -> None:
    now = at("03 02:00")
    sources: dict[str, tuple[datetime | None, timedelta | None]] = {
        "none-yet": (None, HOUR),
        "half": (now - 12 * HOUR, 24 * HOUR),
        "double": (now - 4 * HOUR, 2 * HOUR),
        "no-rpo": (now - 36 * HOUR, None),
        "in-time": (now - HOUR, 100 * HOUR),
    }

    keys = [
        urgency(now, due=now, newest=newest, rpo=rpo, name=name)
        for name, (newest, rpo) in sources.items()
    ]

    assert [key[-1] for key in sorted(keys)] == ["none-yet", "double", "no-rpo", "half", "in-time"]


def test_equals_go_by_due_and_then_by_name() -> None:
    now = at("03 02:00")

    keys = [
        urgency(now, due=at(due), newest=None, rpo=None, name=name)
        for due, name in [("03 02:00", "b"), ("03 02:00", "a"), ("03 01:00", "c")]
    ]

    assert [key[-1] for key in sorted(keys)] == ["c", "a", "b"]


def test_the_next_slot_is_the_one_that_starts_first() -> None:
    timing = timed(cron=None, every=10 * MINUTE, jitter=HOUR)
    after = at("03 02:00")

    found = next_slot(timing, after)

    assert found is not None
    assert found.start == min(timing.start(after + n * 10 * MINUTE) for n in range(1, 20))
