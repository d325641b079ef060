# SPDX-License-Identifier: Apache-2.0
"""Folders that last as long as their process."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from snapvault.adapters.own_folder import own_folder

ROOT = Path(__file__).parents[3]
HOLD = """
import sys
from pathlib import Path
from snapvault.adapters.own_folder import own_folder
with own_folder(Path(sys.argv[1]), "own-") as folder:
    (folder / "file").write_text("content")
    print(folder, flush=True)
    sys.stdin.read()
"""


def hold(parent: Path) -> "tuple[subprocess.Popen[str], Path]":
    """Have another process keep a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(parent)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_private_and_gone_at_the_end(tmp_path: Path) -> None:
    with own_folder(tmp_path, "own-") as folder:
        (folder / "file").write_text("content")
        mode = folder.stat().st_mode & 0o777

    assert mode == 0o700
    assert not folder.exists()


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    process, left = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (left / "file").exists()

    with own_folder(tmp_path, "own-") as folder:
        there = list(tmp_path.iterdir())

    assert there == [folder]


def test_the_folder_of_a_process_that_runs_stays(tmp_path: Path) -> None:
    process, other = hold(tmp_path)
    (tmp_path / "else").mkdir()

    with own_folder(tmp_path, "own-"):
        content = (other / "file").read_text()
    process.communicate("")

    assert content == "content"
    assert [path.name for path in tmp_path.iterdir()] == ["else"]


def test_nobody_who_locks_the_parent_is_waited_for(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    made: list[Path] = []

    def make() -> None:
        with own_folder(tmp_path, "own-") as folder:
            made.append(folder)

    making = threading.Thread(target=make, daemon=True)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    making.start()
    making.join(60)
    was_made = list(made)
    os.close(descriptor)
    making.join(60)

    assert len(was_made) == 1


def test_a_folder_that_is_taken_for_abandoned_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock
    taken: list[Path] = []

    def remove_then_lock(descriptor: int, how: int) -> None:
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].rmdir()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", remove_then_lock)

    with own_folder(tmp_path, "own-") as folder:
        there = list(tmp_path.iterdir())

    assert there == [folder]
    assert taken != [folder]
