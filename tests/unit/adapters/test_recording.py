# SPDX-License-Identifier: Apache-2.0
"""Recording a run: what became of it is remembered, and nothing of that can fail it."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.adapters.histories.sqlite import SqliteHistory
from snapvault.adapters.recording import Recording, born, is_at_work, new_run_id
from snapvault.adapters.run_logs import FolderRunLogs
from snapvault.errors import ConfigError, QuiesceError
from snapvault.model.runs import Failure, Run, RunState, SourceKey, Trigger
from tests.support.events import RecordedEvents
from tests.support.points import POINT

NIGHT = datetime(2026, 11, 20, 1, 30, tzinfo=UTC)
LATER = NIGHT + timedelta(minutes=5)
KEY = SourceKey("offsite", "web01")
RUN = Run("20261120T013000Z-1a2b3c4d", KEY, "nightly", RunState.RUNNING, Trigger.MANUAL, NIGHT)
LOST_PID = 2**22 + 1  # LIMIT: Linux has no process of a number above 2**22


@pytest.fixture
def history(tmp_path: Path) -> Callable[[], SqliteHistory]:
    return lambda: SqliteHistory(tmp_path / "history.sqlite")


@pytest.fixture
def logs(tmp_path: Path) -> FolderRunLogs:
    return FolderRunLogs(tmp_path / "runs")


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
def recording(
    history: Callable[[], SqliteHistory],
    logs: FolderRunLogs,
    events: RecordedEvents,
    monkeypatch: pytest.MonkeyPatch,
) -> Recording:
    monkeypatch.setattr(clock, "now", lambda: LATER)
    return Recording(RUN, history=history, logs=logs, events=events)


def remembered(history: Callable[[], SqliteHistory]) -> list[Run]:
    with history() as opened:
        return opened.runs()


def test_a_run_at_work_is_in_the_history_with_its_process(
    recording: Recording, history: Callable[[], SqliteHistory]
) -> None:
    with recording:
        found = remembered(history)

    assert found == [replace(RUN, pid=os.getpid(), born=born(os.getpid()))]


def test_a_run_that_made_a_point_has_succeeded(
    recording: Recording, history: Callable[[], SqliteHistory], logs: FolderRunLogs
) -> None:
    with recording:
        recording.made(POINT, stored_bytes=25, more={"requests": 4})

    assert remembered(history) == [recording.run]
    assert recording.run == replace(
        RUN,
        state=RunState.SUCCEEDED,
        ended=LATER,
        pid=os.getpid(),
        born=born(os.getpid()),
        point=POINT.point,
        taken_at=POINT.taken_at,
        size=700,
        counters={"read_bytes": 700, "stored_bytes": 25, "requests": 4},
    )
    assert [event["event"] for event in logs.read(RUN.id)] == ["run.started", "run.succeeded"]


def test_what_a_failed_run_was_counted_to_have_asked_is_kept(
    recording: Recording, history: Callable[[], SqliteHistory]
) -> None:
    recording.count({"requests": 4})

    with pytest.raises(QuiesceError), recording:
        raise QuiesceError("no")

    (run,) = remembered(history)
    assert (run.state, run.counters) == (RunState.FAILED, {"requests": 4})


def test_an_error_fails_the_run_and_passes_through(
    recording: Recording, history: Callable[[], SqliteHistory], logs: FolderRunLogs
) -> None:
    error = QuiesceError('could not freeze "web01"', hint="Thaw it.")
    error.add_note("and the hook failed too")

    with pytest.raises(QuiesceError), recording:
        raise error

    failure = Failure('could not freeze "web01"', "Thaw it.", 15, retryable=True)
    ended = replace(
        RUN,
        state=RunState.FAILED,
        ended=LATER,
        pid=os.getpid(),
        born=born(os.getpid()),
        failure=failure,
    )
    assert remembered(history) == [ended]
    *_, note, last = logs.read(RUN.id)
    assert note["message"] == "and the hook failed too"
    assert (last["event"], last["level"], last["message"], last["exit_status"]) == (
        "run.failed",
        "error",
        failure.message,
        15,
    )


def test_a_bug_fails_the_run_without_what_it_says(
    recording: Recording, logs: FolderRunLogs, events: RecordedEvents
) -> None:
    with pytest.raises(KeyError), recording:
        raise KeyError("password=hunter2")

    failure = recording.run.failure
    assert recording.run.state is RunState.FAILED
    assert failure is not None
    assert failure.message.startswith('unforeseen KeyError in "test_recording.py", line ')
    assert (failure.exit_status, failure.retryable) == (1, False)
    assert "hunter2" not in str([*logs.read(RUN.id), *events.events, *events.warnings])
    assert "test_recording.py" in str(events.events[-1])


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_signal_interrupts_the_run(recording: Recording, signal: type[BaseException]) -> None:
    with pytest.raises(signal), recording:
        raise signal

    failure = recording.run.failure
    assert recording.run.state is RunState.INTERRUPTED
    assert failure is not None
    assert failure.retryable


def test_a_point_that_was_committed_stays_whatever_comes_after(recording: Recording) -> None:
    def work() -> None:
        recording.made(POINT, stored_bytes=25)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), recording:
        work()

    assert recording.run.state is RunState.SUCCEEDED
    assert recording.run.failure is None


def test_a_run_that_says_nothing_is_interrupted(recording: Recording) -> None:
    with recording:
        pass

    assert recording.run.state is RunState.INTERRUPTED


def test_a_run_of_the_source_whose_process_is_gone_is_ended(
    recording: Recording, history: Callable[[], SqliteHistory]
) -> None:
    gone = replace(RUN, id="20261119T013000Z-1", pid=LOST_PID, started=NIGHT - timedelta(days=1))
    at_work = replace(gone, id="20261119T023000Z-2", pid=os.getppid(), born=born(os.getppid()))
    taken = replace(at_work, id="20261119T043000Z-4", born=1)  # another has its number now
    other = replace(gone, id="20261119T033000Z-3", key=SourceKey("offsite", "shop"))
    with history() as opened:
        for run in (gone, at_work, taken, other):
            opened.put(run)

    with recording:
        recording.made(POINT, stored_bytes=25)

    with history() as opened:
        ended = opened.get(gone.id)
        assert ended is not None
        assert (ended.state, ended.ended) == (RunState.INTERRUPTED, LATER)
        assert str(LOST_PID) in str(ended.failure)
        assert opened.get(at_work.id) == at_work
        ended = opened.get(taken.id)
        assert ended is not None
        assert ended.state is RunState.INTERRUPTED
        assert opened.get(other.id) == other


@pytest.mark.parametrize("fault", [ConfigError("the state folder is full"), ValueError("a bug")])
def test_a_history_that_fails_is_told_once_and_fails_nothing(
    fault: Exception, logs: FolderRunLogs, events: RecordedEvents
) -> None:
    def broken() -> SqliteHistory:
        raise fault

    recording = Recording(RUN, history=broken, logs=logs, events=events)

    with recording:
        recording.made(POINT, stored_bytes=25)

    assert recording.run.state is RunState.SUCCEEDED
    assert events.names() == ["history.failed"]
    assert "the backup goes on unrecorded" in events.warnings[0]


def test_events_and_warnings_go_on_and_into_the_log(
    recording: Recording, logs: FolderRunLogs, events: RecordedEvents
) -> None:
    with recording:
        recording.events.emit("volume.stored", volume="v1", size_bytes=5)
        recording.events.warn("hint.lost", "everything is read", stream="root")

    assert events.events == [
        ("volume.stored", {"volume": "v1", "size_bytes": 5}),
        ("hint.lost", {"stream": "root"}),
    ]
    assert events.warnings == ["everything is read"]
    assert logs.read(RUN.id)[1:3] == [
        {
            "at": clock.to_text(LATER),
            "level": "info",
            "event": "volume.stored",
            "volume": "v1",
            "size_bytes": 5,
        },
        {
            "at": clock.to_text(LATER),
            "level": "warning",
            "event": "hint.lost",
            "message": "everything is read",
            "stream": "root",
        },
    ]


def test_a_field_does_not_replace_what_is_ours(recording: Recording, logs: FolderRunLogs) -> None:
    with recording:
        recording.events.emit("hook.output", level="shout", at="noon", message="hello")

    assert logs.read(RUN.id)[1] == {
        "at": clock.to_text(LATER),
        "level": "info",
        "event": "hook.output",
        "message": "hello",
    }


def test_progress_is_seen_from_outside_while_it_lasts(
    recording: Recording, logs: FolderRunLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = [0.0]
    monkeypatch.setattr(clock, "monotonic", lambda: hand[0])

    with recording:
        work = recording.events.progress("reading root", total=100)
        hand[0] = 2
        work.advance(30)
        hand[0] = 4
        work.advance(12)
        seen = logs.progress(RUN.id)
        work.close()
    gone = logs.progress(RUN.id)

    assert seen is not None
    assert (seen.label, seen.done, seen.total, seen.at) == ("reading root", 42, 100, LATER)
    assert gone is None


def test_ids_of_runs_say_when_and_differ() -> None:
    ids = {new_run_id(NIGHT) for _ in range(100)}

    assert len(ids) == 100
    assert {len(each) for each in ids} == {len(RUN.id)}
    assert {each[:17] for each in ids} == {"20261120T013000Z-"}


def test_a_run_is_at_work_as_long_as_its_own_process_is() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        run = replace(RUN, pid=process.pid, born=born(process.pid))
        assert is_at_work(run)
        assert not is_at_work(replace(run, born=(run.born or 0) - 1))  # reused
        assert not is_at_work(replace(run, born=None))  # by an earlier release; "sleep" is not ours
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

        assert not is_at_work(run)  # nobody has waited for it yet
    assert not is_at_work(RUN)
    assert born(LOST_PID) is None
