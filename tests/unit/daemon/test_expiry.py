# SPDX-License-Identifier: Apache-2.0
"""Old history is forgotten, whatever the clock says in between, and never much at once."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from snapvault.adapters.histories.sqlite import SqliteHistory
from snapvault.daemon.expiry import expire
from snapvault.model.runs import Run, RunState, SourceKey, Trigger

NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)
YEAR = 365 * DAY
KEEP = 30 * DAY


@pytest.fixture
def history(tmp_path: Path) -> Iterator[SqliteHistory]:
    """Return a history of a run each night for forty nights, all failed."""
    with closing(SqliteHistory(tmp_path / "history.sqlite")) as history:
        for night in range(40, 0, -1):
            history.put(a_run(NOW - night * DAY))
        yield history


def a_run(started: datetime) -> Run:
    return Run(
        id=f"{started:%Y%m%d}",
        key=SourceKey("offsite", "web01"),
        policy="nightly",
        state=RunState.FAILED,
        trigger=Trigger.SCHEDULE,
        started=started,
        ended=started,
    )


def test_what_is_older_than_it_is_to_be_kept_is_forgotten(history: SqliteHistory) -> None:
    count = expire(history, 35 * DAY, NOW)

    assert count == 5
    assert history.runs()[-1].started == NOW - 35 * DAY


def test_a_clock_that_is_years_ahead_forgets_a_quarter_however_often_it_starts(
    history: SqliteHistory,
) -> None:
    for minute in range(60):
        expire(history, KEEP, NOW + 9 * YEAR + timedelta(minutes=minute))
        history.put(a_run(NOW + 9 * YEAR))

    assert len(history.runs()) == 30 + 1


def test_a_clock_that_was_corrected_forgets_as_before(history: SqliteHistory) -> None:
    expire(history, YEAR, NOW + 300 * DAY)

    count = expire(history, KEEP, NOW)

    assert count == 10
    assert history.expired() == NOW


def test_a_clock_that_is_behind_forgets_nothing(history: SqliteHistory) -> None:
    assert expire(history, KEEP, datetime(1970, 1, 2, tzinfo=UTC) + KEEP) == 0
    assert len(history.runs()) == 40


def test_a_history_that_is_to_be_shorter_gets_so_within_days(history: SqliteHistory) -> None:
    for day in range(8):
        expire(history, 5 * DAY, NOW + day * DAY)
        history.put(a_run(NOW + day * DAY))

    assert len(history.runs()) < 13


def test_of_a_few_runs_all_that_are_old_are_forgotten(tmp_path: Path) -> None:
    with closing(SqliteHistory(tmp_path / "history.sqlite")) as history:
        history.put(a_run(NOW - 40 * DAY))
        history.put(a_run(NOW - DAY))

        assert expire(history, KEEP, NOW) == 1


def test_a_history_without_runs_is_expired_too(tmp_path: Path) -> None:
    with closing(SqliteHistory(tmp_path / "history.sqlite")) as history:
        assert expire(history, KEEP, NOW) == 0
        assert history.expired() == NOW
