# SPDX-License-Identifier: Apache-2.0
"""A history that is damaged, foreign, newer, removed, locked, or has no room."""

import errno
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from snapvault.adapters import database
from snapvault.adapters.histories import layout
from snapvault.adapters.histories.sqlite import SqliteHistory
from snapvault.errors import ConfigError, StateError
from snapvault.model.runs import Failure, Run, RunState, SourceKey, Trigger

NIGHT = datetime(2026, 11, 20, 1, 30, tzinfo=UTC)
RUN = Run(
    "20261120T013000Z-00000001",
    SourceKey("offsite", "web01"),
    "nightly",
    RunState.FAILED,
    Trigger.SCHEDULE,
    NIGHT,
    failure=Failure("the disk is on fire", None, 15, retryable=False),
)
RUNS = [replace(RUN, id=f"20261120T013000Z-{number:08}") for number in reversed(range(200))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a history with runs in it."""
    path = tmp_path / "history.sqlite"
    with closing(SqliteHistory(path)) as history:
        for run in RUNS:
            history.put(run)
    return path


def junk(path: Path) -> None:
    path.write_bytes(b"this was never a database " * 400)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20_000])


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def flipped_page(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[4096 * 2 : 4096 * 6] = b"\xa5" * 4096 * 4
    path.write_bytes(raw)


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE bookmarks (address TEXT)")
        raw.commit()


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA user_version = 999")


def without_a_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("DROP TABLE alarm")
        raw.commit()


@pytest.mark.parametrize(
    "spoil", [junk, truncated, cut_in_the_header, flipped_page, foreign, newer, without_a_table]
)
def test_a_file_that_cannot_be_trusted_is_set_aside(
    path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(path)
    spoiled = path.read_bytes()

    with closing(SqliteHistory(path)) as history:
        assert history.was_reset
        assert history.reset_reason
        assert history.runs() == []
        history.put(RUN)

    with closing(SqliteHistory(path)) as history:
        assert not history.was_reset
        assert history.runs() == [RUN]
    assert path.with_name("history.sqlite.damaged-1").read_bytes() == spoiled


def test_an_empty_file_is_a_new_history(path: Path) -> None:
    path.write_bytes(b"")

    with closing(SqliteHistory(path)) as history:
        assert not history.was_reset


def test_a_file_that_is_removed_while_it_is_used_is_made_anew(path: Path) -> None:
    with closing(SqliteHistory(path)) as history:
        assert len(history.runs()) == 200
        path.unlink()

        history.put(RUN)

        assert history.was_reset
        assert history.runs() == [RUN]
        with closing(SqliteHistory(path)) as other:
            assert other.runs() == [RUN]


def test_a_folder_that_is_removed_while_it_is_used_is_made_anew(tmp_path: Path) -> None:
    with closing(SqliteHistory(tmp_path / "state" / "history.sqlite")) as history:
        history.put(RUN)
        shutil.rmtree(tmp_path / "state")

        history.put(RUN)

        assert history.was_reset
        assert history.runs() == [RUN]


def test_damage_that_shows_later_resets_the_history_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_CHECKED_BYTES", 0)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2))

    with closing(SqliteHistory(path)) as history:
        found = history.runs()

        assert found == []
        assert history.was_reset
        history.put(RUN)
        assert history.runs() == [RUN]


@pytest.mark.parametrize(
    ("part", "offset"), [(b"the disk is on fire", 3), (b"2026-05-05T05:05:05", 4)]
)
def test_a_flipped_bit_resets_the_history(path: Path, part: bytes, offset: int) -> None:
    with closing(SqliteHistory(path)) as history:
        history.set_handled(RUN.key, datetime(2026, 5, 5, 5, 5, 5, tzinfo=UTC))
    raw = bytearray(path.read_bytes())
    raw[raw.index(part) + offset] ^= 1
    path.write_bytes(raw)

    with closing(SqliteHistory(path)) as history:
        found = history.runs(), history.handled()

        assert history.was_reset
        assert history.runs() == []
        assert [] in found or {} in found


def test_two_who_find_the_same_damage_make_one_new_history(path: Path) -> None:
    junk(path)

    with ThreadPoolExecutor(8) as pool:
        histories = list(pool.map(SqliteHistory, [path] * 8))
    resets = [history.was_reset for history in histories]
    for history in histories:
        history.close()

    assert resets.count(True) == 1
    assert [each.name for each in path.parent.glob("*.damaged-*")] == ["history.sqlite.damaged-1"]


def test_what_another_process_has_made_anew_is_kept(path: Path) -> None:
    late = SqliteHistory(path)
    path.rename(path.with_name("moved"))
    with closing(SqliteHistory(path)) as first:
        first.put(RUN)

    with closing(late):
        found = late.runs()

    assert late.was_reset
    assert found == [RUN]
    assert list(path.parent.glob("*.damaged-*")) == []


def test_processes_that_write_together_lose_nothing(path: Path) -> None:
    program = (
        "import sys; from dataclasses import replace; from pathlib import Path\n"
        "from snapvault.adapters.histories import layout\n"
        "from snapvault.adapters.histories.sqlite import SqliteHistory\n"
        # Who waits has no turn, so one may wait for as long as the others write.
        "layout.LAYOUT = replace(layout.LAYOUT, busy_seconds=240)\n"
        "history = SqliteHistory(Path(sys.argv[1])); run = history.runs(limit=1)[0]\n"
        "for number in range(50):\n"
        "    history.put(replace(run, id=f'{sys.argv[2]}-{number}'))\n"
    )

    children = [
        subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in "abc"
    ]
    statuses = [child.wait(timeout=300) for child in children]

    assert statuses == [0, 0, 0]
    with closing(SqliteHistory(path)) as history:
        assert len(history.runs()) == 350


def test_a_process_killed_while_it_writes_leaves_whole_calls(path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from snapvault.adapters.histories.sqlite import SqliteHistory\n"
        "history = SqliteHistory(Path(sys.argv[1]))\n"
        "history._file._database.execute('BEGIN IMMEDIATE')\n"
        "history._file._database.execute('DELETE FROM run')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    ended = subprocess.run([sys.executable, "-c", program, str(path)], check=False)

    assert ended.returncode == -signal.SIGKILL
    with closing(SqliteHistory(path)) as history:
        assert history.runs() == RUNS
        assert not history.was_reset


def test_a_state_folder_that_cannot_be_made_is_the_operators_to_mend(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a folder is meant")

    with pytest.raises(ConfigError, match="could not use history") as caught:
        SqliteHistory(tmp_path / "state" / "history.sqlite")

    assert caught.value.hint is not None
    assert "state_dir" in caught.value.hint


@pytest.mark.parametrize("path", ["/proc/self/history.sqlite", "/proc/1/fd/none/history.sqlite"])
def test_a_folder_that_takes_no_files_is_the_operators_to_mend(path: str) -> None:
    with pytest.raises(ConfigError, match="could not use history"):
        SqliteHistory(Path(path))


def test_a_folder_in_the_files_place_is_the_operators_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="could not use history"):
        SqliteHistory(tmp_path)


def test_a_full_disk_is_an_error_and_keeps_what_was_there(path: Path) -> None:
    large = replace(RUN, id="large", counters={f"{n}_bytes": n for n in range(30_000)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    with closing(SqliteHistory(path)) as history:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(StateError, match="could not use history") as caught:
                history.put(large)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)

        assert history.runs() == RUNS
        assert not history.was_reset
    assert f'Look for room in "{path.parent}"' in str(caught.value.hint)


def test_a_history_that_stays_busy_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "LAYOUT", replace(layout.LAYOUT, busy_seconds=0.01))
    with closing(SqliteHistory(path)) as history, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(StateError, match="another process has kept it"):
            history.put(RUN)


def test_a_history_that_need_not_open_now_opens_when_it_can(tmp_path: Path) -> None:
    path = tmp_path / "state" / "history.sqlite"
    (tmp_path / "state").write_text("no folder")
    with closing(SqliteHistory(path, must_open=False)) as history:
        with pytest.raises(ConfigError):
            history.put(RUN)
        (tmp_path / "state").unlink()

        history.put(RUN)

        assert history.get(RUN.id) == RUN
        assert history.resets == 0


def test_a_file_that_cannot_be_made_anew_is_tried_again(path: Path) -> None:
    with closing(SqliteHistory(path)) as history:
        shutil.rmtree(path.parent)
        path.parent.write_text("no folder")
        for _ in range(2):
            with pytest.raises(ConfigError):
                history.put(RUN)
        path.parent.unlink()

        history.put(RUN)

        assert history.resets >= 1


def test_damage_that_cannot_be_set_aside_is_told_until_it_can(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path, __: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with closing(SqliteHistory(path)) as history:
        history.put(RUN)
        with closing(sqlite3.connect(path)) as other:
            other.execute("UPDATE run SET content = 'nonsense'")
            other.commit()
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", refuse)
            for _ in range(2):
                with pytest.raises(StateError, match="no space left"):
                    history.get(RUN.id)

        assert history.get(RUN.id) is None
        assert history.resets > 0
