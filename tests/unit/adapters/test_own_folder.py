# SPDX-License-Identifier: Apache-2.0
"""Folders that last as long as their process."""

import signal
import subprocess
import sys
from pathlib import Path

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
