# SPDX-License-Identifier: Apache-2.0
"""One run at a time for a source, whatever becomes of the run."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.adapters.locks import Holder, SourceLock, holder_of
from snapvault.errors import ConfigError, LockHeldError

HOLD = """
import subprocess, sys
from pathlib import Path
from snapvault.adapters.locks import Holder, SourceLock, holder_of
with SourceLock(Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "60"]) if "child" in sys.argv else None
    print(child.pid if child else "held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "web01.lock"


@contextmanager
def another_run(path: Path, *arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Hold the lock in another process; yields it and the line it printed."""
    command = [sys.executable, "-c", HOLD, str(path), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_the_lock_is_free_again_afterwards(path: Path) -> None:
    with SourceLock(path):
        pass

    with SourceLock(path) as lock:
        assert lock.left_by is None


def test_the_file_says_who_holds_it(path: Path) -> None:
    before = clock.to_text(clock.now())

    with SourceLock(path):
        record = json.loads(path.read_text())

    assert record["pid"] == os.getpid()
    assert record["host"] == socket.gethostname()
    assert before <= record["since"] <= clock.to_text(clock.now())
    assert record["command"]


def test_a_second_run_is_told_who_holds_the_lock(path: Path) -> None:
    with another_run(path) as (process, _), pytest.raises(LockHeldError) as caught:
        SourceLock(path).__enter__()

    assert f'source "web01" is locked by process {process.pid} on host' in str(caught.value)
    assert caught.value.exit_status == 11
    assert caught.value.retryable
    assert caught.value.hint is not None
    assert f"ps -fp {process.pid}" in caught.value.hint


def test_a_second_lock_in_the_same_process_is_refused_too(path: Path) -> None:
    with SourceLock(path, source="shop"), pytest.raises(LockHeldError, match='source "shop"'):
        SourceLock(path, source="shop").__enter__()


def test_a_failed_try_leaves_the_holders_record_alone(path: Path) -> None:
    with another_run(path):
        record = path.read_text()

        with pytest.raises(LockHeldError):
            SourceLock(path).__enter__()

        assert path.read_text() == record


def test_the_lock_of_a_killed_run_is_taken_over_and_its_run_named(path: Path) -> None:
    with another_run(path) as (process, _):
        process.send_signal(signal.SIGKILL)
        process.wait()

    with SourceLock(path) as lock:
        assert lock.left_by is not None
        assert lock.left_by.pid == process.pid


def test_a_program_that_outlives_a_killed_run_does_not_keep_its_lock(path: Path) -> None:
    with another_run(path, "child") as (process, child):
        process.kill()
        process.wait()

        try:
            with SourceLock(path) as lock:
                assert lock.left_by is not None
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_an_exception_gives_the_lock_back(path: Path) -> None:
    with pytest.raises(EOFError), SourceLock(path):
        raise EOFError

    with SourceLock(path):
        pass


def test_one_object_can_be_used_again_but_not_twice_at_once(path: Path) -> None:
    lock = SourceLock(path)

    with lock, pytest.raises(ValueError, match="held already"):
        lock.__enter__()
    with lock:
        pass


def test_locks_of_two_sources_do_not_meet(path: Path) -> None:
    with SourceLock(path), SourceLock(path.with_name("shop.lock")):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', "\udcff"])
def test_a_record_that_makes_no_sense_hinders_nobody(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_bytes(content.encode(errors="surrogateescape"))

    with SourceLock(path) as lock:
        assert lock.left_by is None


def test_a_holder_that_has_not_said_who_it_is_is_another_run(path: Path) -> None:
    with SourceLock(path):
        os.truncate(path, 0)

        with pytest.raises(LockHeldError, match="is locked by another run"):
            SourceLock(path).__enter__()


def test_the_file_is_never_removed(path: Path) -> None:
    with SourceLock(path):
        inode = path.stat().st_ino

    assert path.stat().st_ino == inode


def test_only_one_of_many_processes_gets_the_lock(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from snapvault.adapters.locks import SourceLock\n"
        "from snapvault.errors import LockHeldError\n"
        "sys.stdin.readline()\n"
        "try:\n"
        "    with SourceLock(Path(sys.argv[1])): print('got', flush=True); sys.stdin.readline()\n"
        "except LockHeldError: print('held', flush=True)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    runs = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]

    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.flush()
    answers = [run.stdout.readline().strip() for run in runs if run.stdout]
    for run in runs:
        run.communicate("end\n")

    assert sorted(answers) == ["got", *["held"] * 5]


def test_a_folder_that_takes_no_files_is_the_operators_to_mend(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("a file where a folder is meant")

    with pytest.raises(ConfigError, match="could not use lock file"):
        SourceLock(tmp_path / "locks" / "web01.lock").__enter__()


def test_the_holder_of_a_lock_is_known_without_taking_it(path: Path) -> None:
    assert holder_of(path) is None

    with SourceLock(path):
        found = holder_of(path)

    assert found is not None
    assert found.pid == os.getpid()
    assert found.started is not None
    assert holder_of(path) is None


def test_a_record_that_a_dead_run_left_holds_nothing(path: Path) -> None:
    with SourceLock(path):
        record = path.read_text()
    path.write_text(record)

    assert holder_of(path) is None
    with SourceLock(path):
        assert holder_of(path) is not None


def test_a_time_that_is_none_is_not_known() -> None:
    assert Holder(1, "host1", "yesterday", "snapvault").started is None


def test_a_full_disk_does_not_keep_a_lock_from_being_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", refuse)
        lock = SourceLock(tmp_path / "lock")
        lock.__enter__()

    with pytest.raises(LockHeldError), SourceLock(tmp_path / "lock"):
        pass
    lock.__exit__(None, None, None)


def test_a_lock_knows_whether_its_file_is_still_in_place(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with SourceLock(path) as lock:
        states = [lock.is_in_place]
        path.unlink()
        states.append(lock.is_in_place)
        path.touch()
        states.append(lock.is_in_place)

    assert states == [True, False, False]
