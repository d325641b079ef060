# SPDX-License-Identifier: Apache-2.0
"""Jobs as child processes: what they report, and what is made of those that report nothing."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from snapvault import clock
from snapvault.adapters.jobs import ChildJobs
from snapvault.model.policy import CommandSpec, Policy, SourceSpec, StreamSpec
from snapvault.model.runs import Run, RunState, SourceKey, Trigger
from snapvault.model.settings import Settings
from snapvault.ports.jobs import Order
from tests.support.events import RecordedEvents

pytestmark = pytest.mark.integration

NIGHT = datetime(2026, 11, 20, 1, 30, tzinfo=UTC)
PATIENCE = 60.0

REPORTS = """
import pickle, sys
from dataclasses import replace
from snapvault.model.runs import RunState
order = pickle.load(sys.stdin.buffer)
pickle.dump(replace(order.run, state=RunState.SUCCEEDED, point="p1"), sys.stdout.buffer)
"""
SAYS_NOTHING = "import sys; sys.stdin.buffer.read(); sys.exit(15)"
SAYS_NONSENSE = "import sys; sys.stdin.buffer.read(); print('half a pick')"
READS_NOTHING = "import sys; sys.exit(0)"
KILLS_ITSELF = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
# Asked at a moment of our choosing: where a function is about to run.
ASKED_AT = """
import os, signal, sys, time
from snapvault.daemon import child
where, up = sys.argv[1:3]
def meet(frame, event, argument):
    if event == "call" and frame.f_code.co_qualname == where:
        sys.settrace(None)
        open(up, "w").close()
        os.kill(os.getpid(), signal.SIGTERM)
sys.settrace(meet)
sys.exit(child.main())
"""
ENDS_WHEN_ASKED = """
import os, signal, sys, time
def end(*_):
    os._exit(3)
signal.signal(signal.SIGTERM, end)
sys.stdin.buffer.read()
open(sys.argv[1], "w").close()
while True:  # pause() would not see a signal that comes right before it
    time.sleep(0.05)
"""
NEVER_ENDS = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.stdin.buffer.read()
open(sys.argv[1], "w").close()
while True:
    signal.pause()
"""


def order(folder: Path, name: str = "web01") -> Order:
    source = SourceSpec(name, (StreamSpec("command", CommandSpec(("true",))),), single=True)
    policy = Policy("nightly", folder / "nightly.yaml", "offsite", (source,))
    run = Run(
        f"20261120T013000Z-{name}",
        SourceKey("offsite", name),
        "nightly",
        RunState.RUNNING,
        Trigger.SCHEDULE,
        started=NIGHT,
        due=NIGHT,
    )
    return Order(run, Settings(folder / "s.yaml", folder, folder, {}), policy, source)


@contextmanager
def jobs(code: str, *arguments: str) -> Iterator[ChildJobs]:
    started = ChildJobs(
        RecordedEvents(),
        variables=dict(os.environ) | {"PYTHONPATH": str(Path.cwd())},
        command=(sys.executable, "-c", code, *arguments),
    )
    try:
        yield started
    finally:
        started.stop(0)


class Spawned:
    """Starts processes, and keeps them."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, argv: Sequence[str], variables: Mapping[str, str]) -> object:
        pipe = subprocess.PIPE
        self.processes.append(subprocess.Popen(argv, env=variables, stdin=pipe, stdout=pipe))
        return self.processes[-1]


def await_end(started: ChildJobs) -> Run:
    deadline = clock.monotonic() + PATIENCE
    while clock.monotonic() < deadline:
        if runs := started.ended():
            return runs[0]
        started.wait(1)
    raise AssertionError("the job did not end")


def await_file(path: Path) -> None:
    deadline = clock.monotonic() + PATIENCE
    while not path.exists():
        assert clock.monotonic() < deadline, f"{path} did not come"
        clock.sleep(0.01)


def test_a_job_ends_with_the_run_that_its_process_reports(tmp_path: Path) -> None:
    with jobs(REPORTS) as started:
        started.start(order(tmp_path))

        run = await_end(started)

        assert (run.state, run.point, run.id) == (RunState.SUCCEEDED, "p1", order(tmp_path).run.id)
        assert started.running() == []


@pytest.mark.parametrize("code", [SAYS_NOTHING, SAYS_NONSENSE, READS_NOTHING])
def test_a_process_that_reports_nothing_is_a_failure_that_is_not_tried_again(
    tmp_path: Path, code: str
) -> None:
    with jobs(code) as started:
        started.start(order(tmp_path))

        run = await_end(started)

        assert run.state is RunState.FAILED
        assert run.ended is not None
        assert run.failure is not None
        assert "said nothing" in run.failure.message
        assert not run.failure.retryable
        assert run.failure.exit_status == (15 if code is SAYS_NOTHING else 1)


def test_a_process_that_was_killed_is_an_interruption_that_is_tried_again(tmp_path: Path) -> None:
    with jobs(KILLS_ITSELF) as started:
        started.start(order(tmp_path))

        run = await_end(started)

        assert run.state is RunState.INTERRUPTED
        assert run.failure is not None
        assert "SIGKILL" in run.failure.message
        assert run.failure.retryable
        assert run.failure.exit_status == 128 + signal.SIGKILL


def test_a_job_that_cannot_be_started_ends_as_failed(tmp_path: Path) -> None:
    started = ChildJobs(RecordedEvents(), variables={}, command=(str(tmp_path / "missing"),))

    started.start(order(tmp_path))

    run = await_end(started)
    assert run.state is RunState.FAILED
    assert run.failure is not None
    assert "missing" in run.failure.message


def test_stop_asks_the_jobs_to_end_and_returns_them(tmp_path: Path) -> None:
    with jobs(ENDS_WHEN_ASKED, str(tmp_path / "up")) as started:
        started.start(order(tmp_path))
        await_file(tmp_path / "up")

        (run,) = started.stop(PATIENCE)

        assert run.failure is not None
        assert run.failure.exit_status == 3


def test_stop_kills_jobs_that_do_not_end(tmp_path: Path) -> None:
    with jobs(NEVER_ENDS, str(tmp_path / "up")) as started:
        started.start(order(tmp_path))
        await_file(tmp_path / "up")

        (run,) = started.stop(0.1)

        assert run.state is RunState.INTERRUPTED


def test_several_jobs_are_followed_at_once(tmp_path: Path) -> None:
    with jobs(REPORTS) as started:
        for name in ("a", "b", "c"):
            started.start(order(tmp_path, name))

        names: set[str] = set()
        deadline = clock.monotonic() + PATIENCE
        while len(names) < 3 and clock.monotonic() < deadline:
            started.wait(1)
            names |= {run.key.source for run in started.ended()}

        assert names == {"a", "b", "c"}


def test_wake_ends_a_wait(tmp_path: Path) -> None:
    with jobs(REPORTS) as started:
        before = clock.monotonic()
        started.wake()

        started.wait(PATIENCE)

        assert clock.monotonic() - before < PATIENCE


def test_a_wait_is_woken_from_within_itself(tmp_path: Path) -> None:
    # As a signal's handler does that comes while its own thread is about to wait.
    with jobs(REPORTS) as started:

        def interrupt(*_: object) -> Any:
            started.wake()
            return interrupt

        def wait() -> None:
            sys.settrace(interrupt)
            for _ in range(3):
                started.wait(0.01)
            sys.settrace(None)

        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()

        waiter.join(PATIENCE)

        assert not waiter.is_alive()


def test_a_job_that_no_thread_can_follow_ends_as_failed_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with jobs(NEVER_ENDS, str(tmp_path / "up")) as started:
        with monkeypatch.context() as patched:
            patched.setattr("snapvault.adapters.jobs.spawn_job", spawned := Spawned())
            patched.setattr(threading.Thread, "start", refuse)
            started.start(order(tmp_path))

        (run,) = started.ended()
        assert run.failure is not None
        assert run.failure.retryable
        assert "new thread" in run.failure.message
        assert [process.returncode for process in spawned.processes] == [-signal.SIGKILL]


@pytest.mark.parametrize("where", ["step_back", "_carried_out", "_Asking.end"])
def test_a_job_that_is_asked_to_end_at_any_moment_reports_an_interruption(
    tmp_path: Path, where: str
) -> None:
    with jobs(ASKED_AT, where, str(tmp_path / "up")) as started:
        started.start(order(tmp_path))

        run = await_end(started)

        assert (tmp_path / "up").exists()
        assert run.failure is not None
        if where != "_Asking.end":  # by then it had failed by itself: there is no such vault
            assert run.state is RunState.INTERRUPTED
            assert run.failure.exit_status == 128 + signal.SIGTERM
            assert run.ended is not None
        assert "said nothing" not in run.failure.message
