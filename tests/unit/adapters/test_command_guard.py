# SPDX-License-Identifier: Apache-2.0
"""The dead man's guard: what it was given runs when our process dies, and only then."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.adapters.command import guard
from snapvault.errors import SourceError

PATIENCE = 60.0  # seconds

# A process that holds a guard over `touch MARK`, says so, and waits for its death.
HOLDER = """
import sys
from snapvault.adapters.command import guard
with guard(sys.argv[1:], environment={"WORD": "a word"}):
    print("guarded", flush=True)
    sys.stdin.read()
"""


def touch(path: Path) -> list[str]:
    return ["touch", str(path)]


def hold(argv: list[str], *, folder: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a process that is inside a guard."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
        cwd=folder,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"guarded\n"
    return process


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    process.send_signal(number)
    process.communicate()


def appears(path: Path) -> bool:
    deadline = clock.monotonic() + PATIENCE
    while not path.exists() and clock.monotonic() < deadline:
        clock.sleep(0.01)
    return path.exists()


def watchers(path: Path) -> list[int]:
    """Return the guards that carry this path in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended since
            continue
        if b"\0guard\0" in line and os.fsencode(path) in line:
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_the_program_runs_when_our_process_is_killed(
    number: signal.Signals, tmp_path: Path
) -> None:
    mark = tmp_path / 'it\'s a "mark" $HOME'
    holder = hold(touch(mark))

    end(holder, number)

    assert appears(mark)


def test_the_program_runs_when_our_whole_process_group_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, *touch(mark)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
    )
    assert process.stdout is not None
    process.stdout.readline()

    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

    assert appears(mark)


def test_a_guard_that_is_asked_to_end_goes_on_guarding(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    holder = hold(touch(mark))
    (watcher,) = watchers(mark)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(watcher, number)
    end(holder, signal.SIGKILL)

    assert appears(mark)


def test_the_program_gets_the_environment_and_survives_that_nobody_reads_it(
    tmp_path: Path,
) -> None:
    mark = tmp_path / "mark"
    script = 'head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; echo "$WORD" >"$0.new"'
    holder = hold(["sh", "-c", f'{script}; mv "$0.new" "$0"', str(mark)])

    end(holder, signal.SIGKILL)

    assert appears(mark)
    assert mark.read_text() == "a word\n"


def test_a_relative_program_is_resolved_beforehand(tmp_path: Path) -> None:
    program = tmp_path / "thaw"
    program.write_text('#!/bin/sh\ntouch "$1"\n')
    program.chmod(0o700)
    mark = tmp_path / "mark"
    holder = hold(["./thaw", str(mark)], folder=tmp_path)

    end(holder, signal.SIGKILL)

    assert appears(mark)


def test_leaving_ends_the_guard_and_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    with guard(touch(mark)):
        guarding = len(watchers(mark))

    assert guarding == 1
    assert watchers(mark) == []
    assert not mark.exists()


def test_leaving_by_an_exception_ends_the_guard_and_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    with pytest.raises(KeyboardInterrupt), guard(touch(mark)):
        raise KeyboardInterrupt

    assert watchers(mark) == []
    assert not mark.exists()


def test_a_guard_that_is_dropped_without_being_left_runs_the_program(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = (
        "import sys; from snapvault.adapters.command import guard;"
        " guard(sys.argv[1:]).__enter__(); raise SystemExit(1)"
    )

    subprocess.run([sys.executable, "-c", script, *touch(mark)], check=False)

    assert appears(mark)


def test_a_guard_that_was_killed_is_no_failure(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    with guard(touch(mark)):
        for watcher in watchers(mark):
            os.kill(watcher, signal.SIGKILL)

    assert watchers(mark) == []


def test_guards_inside_one_another_do_not_hold_each_other(tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer mark", tmp_path / "inner mark"
    before = len(list(Path("/proc/self/fd").iterdir()))

    with guard(touch(outer)):
        with guard(touch(inner)):
            pass
        left = watchers(inner)

    assert left == watchers(outer) == []
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_a_missing_program_is_told_before_the_context_is_entered() -> None:
    with (
        pytest.raises(SourceError, match='could not start program "no-such-thaw"') as caught,
        guard(["no-such-thaw"]),
    ):
        pytest.fail("the context was entered")

    assert caught.value.hint is not None
