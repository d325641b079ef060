# SPDX-License-Identifier: Apache-2.0
"""When the next runs start."""

from datetime import UTC, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest

from snapvault.cli.upcoming import upcoming, upcoming_document, upcoming_line
from snapvault.model.policy import Schedule, Window
from snapvault.model.schedule import starts_at

PARIS = ZoneInfo("Europe/Paris")
NIGHT = Window(time(22), time(6))


def at(day: int, hour: int, minute: int = 0, *, month: int = 11) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


def lines(schedule: Schedule, now: datetime, zone: tzinfo = UTC) -> list[str]:
    return [upcoming_line(run, zone) for run in upcoming(schedule, now, zone=zone)]


def test_the_next_five_are_in_the_policys_zone_with_their_jitter() -> None:
    schedule = Schedule(cron="30 1 * * mon-fri", jitter=timedelta(minutes=10))

    assert lines(schedule, at(20, 0, 29), PARIS) == [
        "Fri 2026-11-20 between 01:30 and 01:40 CET",
        "Mon 2026-11-23 between 01:30 and 01:40 CET",
        "Tue 2026-11-24 between 01:30 and 01:40 CET",
        "Wed 2026-11-25 between 01:30 and 01:40 CET",
        "Thu 2026-11-26 between 01:30 and 01:40 CET",
    ]
    assert upcoming_document(upcoming(schedule, at(20, 0, 30), zone=PARIS)[0]) == {
        "earliest_at": "2026-11-23T00:30:00.000000Z",
        "latest_at": "2026-11-23T00:40:00.000000Z",
    }


def test_without_jitter_there_is_one_moment() -> None:
    shown = lines(Schedule(every=timedelta(seconds=90)), at(20, 0))

    assert shown[:2] == ["Fri 2026-11-20 at 00:01:30 UTC", "Fri 2026-11-20 at 00:03 UTC"]


@pytest.mark.parametrize("every", [timedelta(minutes=1), timedelta(minutes=45)])
def test_what_waits_for_the_window_is_one_run(every: timedelta) -> None:
    schedule = Schedule(every=every, window=NIGHT)

    shown = upcoming(schedule, at(20, 15), zone=UTC)

    assert [run.earliest for run in shown[:1]] == [at(20, 22)]
    assert shown[1].earliest - shown[0].earliest <= every


def test_what_was_due_outside_the_window_still_comes_when_it_opens() -> None:
    schedule = Schedule(cron="0 12 * * *", window=NIGHT)

    assert lines(schedule, at(20, 15))[:2] == [
        "Fri 2026-11-20 at 22:00 UTC",
        "Sat 2026-11-21 at 22:00 UTC",
    ]
    assert lines(schedule, at(20, 23))[0] == "Sat 2026-11-21 at 22:00 UTC"


def test_the_jitter_ends_with_the_window() -> None:
    schedule = Schedule(cron="30 5 * * *", window=NIGHT, jitter=timedelta(hours=2))

    (first, *_) = upcoming(schedule, at(20, 0), zone=UTC)

    assert upcoming_line(first, UTC) == "Fri 2026-11-20 between 05:30 and 05:59 UTC"
    starts = [starts_at(schedule, at(20, 5, 30), zone=UTC, salt=str(n)) for n in range(200)]
    assert first.earliest <= min(starts)
    assert max(starts) <= first.latest


def test_a_change_of_clocks_and_of_the_day_are_said() -> None:
    autumn = Schedule(cron="50 2 25 10 *", jitter=timedelta(hours=1))
    late = Schedule(cron="50 23 * * *", jitter=timedelta(hours=1))

    assert lines(autumn, at(24, 0, month=10), PARIS)[0] == (
        "Sun 2026-10-25 between 02:50 CEST and 02:50 CET"
    )
    assert lines(late, at(20, 0), PARIS)[0] == (
        "Fri 2026-11-20 between 23:50 and Sat 2026-11-21 00:50 CET"
    )


def test_what_never_comes_is_not_looked_for_for_ever() -> None:
    assert upcoming(Schedule(cron="0 0 30 2 *"), at(20, 0), zone=UTC) == []
