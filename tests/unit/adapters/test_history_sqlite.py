# SPDX-License-Identifier: Apache-2.0
"""The history's file: it is private and shared, and what is in it can be lost."""

import json
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.adapters.database import UntrustedError
from snapvault.adapters.histories import plain, records
from snapvault.adapters.histories.sqlite import SqliteHistory
from snapvault.model.drills import DrillSummary, Verdict
from snapvault.model.runs import Failure, Run, RunState, SourceKey, Trigger

NIGHT = datetime(2026, 11, 20, 1, 30, tzinfo=UTC)
RUN = Run(
    "20261120T013000Z-00000001",
    SourceKey("offsite", "web01"),
    "nightly",
    RunState.RUNNING,
    Trigger.SCHEDULE,
    NIGHT,
)
DRILL = DrillSummary("d1", RUN.key, "boot", None, NIGHT, Verdict.PASSED, 1.5, None, "it boots")

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
moments = st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
numbers = st.integers(0, 2**63)
runs = st.builds(
    Run,
    id=st.text(min_size=1),
    key=st.builds(SourceKey, names, names),
    policy=st.text(),
    state=st.sampled_from(RunState),
    trigger=st.sampled_from(Trigger),
    started=moments,
    due=st.none() | moments,
    ended=st.none() | moments,
    attempt=numbers,
    missed=numbers,
    reason=st.none() | st.text(),
    pid=st.none() | numbers,
    point=st.none() | st.text(),
    taken_at=st.none() | moments,
    size=st.none() | numbers,
    counters=st.dictionaries(st.text(), numbers),
    failure=st.none()
    | st.builds(Failure, st.text(), st.none() | st.text(), st.integers(0, 255), st.booleans()),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history.sqlite"


@given(runs)
def test_every_run_can_be_written_and_read(run: Run) -> None:
    assert records.decode(records.encode(run)) == run


@pytest.mark.parametrize(
    ("text", "reason"), [("", "Expecting value"), ("[]", "not a run"), ("{}", "not a run")]
)
def test_what_is_no_run_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        records.decode(text)


def test_a_time_of_another_zone_comes_back_as_the_same_moment(path: Path) -> None:
    from zoneinfo import ZoneInfo

    with closing(SqliteHistory(path)) as history:
        history.put(replace(RUN, started=NIGHT.astimezone(ZoneInfo("Asia/Kolkata"))))

        assert history.runs(since=NIGHT) == [RUN]


def test_the_file_and_what_is_beside_it_are_private(path: Path) -> None:
    with closing(SqliteHistory(path)) as history:
        history.put(RUN)

        modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}

    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert len(modes) == 3
    assert set(modes.values()) == {0o600}


def test_two_objects_see_each_others_runs(path: Path) -> None:
    other_run = replace(RUN, id="20261120T013000Z-00000002")

    with closing(SqliteHistory(path)) as one, closing(SqliteHistory(path)) as other:
        one.put(RUN)
        other.put(other_run)

        assert one.runs() == other.runs() == [other_run, RUN]


def test_many_threads_may_use_one_object(path: Path) -> None:
    with closing(SqliteHistory(path)) as history:
        threads = [
            threading.Thread(target=history.put, args=(replace(RUN, id=f"{number:03}"),))
            for number in range(20)
        ]

        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(history.runs()) == 20


def test_closing_twice_is_allowed(path: Path) -> None:
    history = SqliteHistory(path)

    history.close()
    history.close()


def test_logs_go_with_the_runs(path: Path) -> None:
    asked: list[datetime] = []

    with closing(SqliteHistory(path, expire_logs=asked.append)) as history:
        history.expire(NIGHT, now=NIGHT)

    assert asked == [NIGHT]


def test_the_latest_runs_are_found_without_reading_all(path: Path) -> None:
    def steps_of(action: Callable[[], object]) -> int:
        count = 0

        def step() -> int:
            nonlocal count
            count += 1
            return 0

        database = history._file._database
        assert database is not None
        database.set_progress_handler(step, 1)
        action()
        database.set_progress_handler(None, 0)
        return count

    with closing(SqliteHistory(path)) as history:
        history.put(RUN)
        with_one = steps_of(history.latest)
        for number in range(300):
            started = NIGHT + timedelta(minutes=number + 1)
            history.put(replace(RUN, id=f"{number:03}", started=started))

        with_many = steps_of(history.latest)

    assert with_many < 2 * with_one


def test_a_run_that_an_earlier_release_wrote_is_read() -> None:
    document = json.loads(records.encode(RUN))
    del document["born"], document["stopped"], document["reason"]

    assert records.decode(json.dumps(document)) == RUN


def test_a_history_file_of_an_earlier_release_goes_on(path: Path) -> None:
    with closing(SqliteHistory(path)) as history:
        history.put(RUN)
        history.put(replace(RUN, id="counted", counters={"requests": 12}))
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("DROP TABLE entry")
        raw.execute("DROP TABLE total")
        raw.execute("DROP TABLE usage")
        raw.commit()

    with closing(SqliteHistory(path)) as history:
        history.add_drill(DRILL)

        assert not history.was_reset
        assert len(history.runs()) == 2
        assert history.drills() == [DRILL]
        assert history.requests() == {"offsite": 12}


def test_a_drill_that_has_changed_resets_the_history(path: Path) -> None:
    with closing(SqliteHistory(path)) as history:
        history.add_drill(DRILL)
        with closing(sqlite3.connect(path)) as raw:
            raw.execute("UPDATE entry SET content = replace(content, 'passed', 'failed')")
            raw.commit()

        assert history.drills() == []
        assert history.was_reset


def test_what_a_later_release_has_added_to_a_drill_is_passed_over() -> None:
    document = json.loads(plain.written(DRILL)) | {"weather": {"sun": 5}}

    read = plain.read(json.dumps(document), DrillSummary, verdict=Verdict)

    assert read == DRILL


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": {"x": 1}}'])
def test_what_is_no_drill_is_not_trusted(text: str) -> None:
    with pytest.raises(UntrustedError):
        plain.read(text, DrillSummary, verdict=Verdict)
