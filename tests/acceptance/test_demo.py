# SPDX-License-Identifier: Apache-2.0
"""`make demo`, with a small disk: it does what it says, and leaves nothing behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapvault import clock

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
SMALL = ("--disk-size", "32MiB", "--rows", "2000")


@pytest.fixture
def room() -> Iterator[Path]:
    """A folder for temporary files with a short name, as GnuPG's sockets need it."""
    folder = Path(tempfile.mkdtemp(prefix="svd-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def start(room: Path, *options: str, path: Path | None = None) -> subprocess.Popen[str]:
    programs = os.environ["PATH"] if path is None else f"{path}:{os.environ['PATH']}"
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.demo", *SMALL, *options],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(room), "PATH": programs},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(demo: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = demo.communicate(timeout=240)
    return demo.returncode, output


def processes_of(room: Path) -> list[str]:
    """Return the command lines of processes that work in a folder, or know of it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
            known = line + (process / "environ").read_bytes()
        except OSError:  # ended, or somebody else's
            continue
        if os.fsencode(room) in known:
            found.append(line.decode(errors="replace").replace("\0", " "))
    return found


def left_running(room: Path, *, besides: str | None = None) -> list[str]:
    """Return the command lines of processes that do not end; who was told to takes a moment."""
    deadline = clock.monotonic() + 60
    while True:
        lines = processes_of(room)
        found = [line for line in lines if besides is None or besides not in line]
        if not found or clock.monotonic() > deadline:
            return found
        clock.sleep(0.05)


def test_a_demo_that_is_over_cleans_up(room: Path) -> None:
    # A story of no nights: what was set up is cleared away by the same hands as after three.
    lines = """
from scripts.demo_screen import Screen
from scripts.demo_stage import open_stage
with open_stage(Screen(), room=1, keep=False) as stage:
    print(len(list(stage.folder.iterdir())), "things were made")
"""
    environment = {**os.environ, "TMPDIR": str(room)}

    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=ROOT, env=environment, capture_output=True, check=True
    )

    assert b"things were made" in done.stdout
    assert list(room.iterdir()) == []
    assert left_running(room) == []


@pytest.mark.parametrize(
    ("number", "at"), [(signal.SIGINT, "snapvault backup"), (signal.SIGTERM, "snapvault init")]
)
def test_an_interrupted_demo_cleans_up(room: Path, number: signal.Signals, at: str) -> None:
    demo = start(room)
    assert demo.stdout is not None
    for line in demo.stdout:
        if at in line:
            break

    demo.send_signal(number)

    status, output = finish(demo)
    assert status == 128 + number, output
    assert f"demo: ended by {number.name}" in output
    assert list(room.iterdir()) == []
    assert left_running(room) == []


def test_a_failing_step_is_named_and_the_demo_cleans_up(room: Path) -> None:
    programs = failing(room, "mkfs.ext4")

    status, output = finish(start(room, path=programs))

    assert status == 1
    assert "mkfs.ext4: as broken as can be" in output
    assert "demo: failed: this command ended with exit status 9 instead of 0: mkfs.ext4" in output
    assert list(room.iterdir()) == [programs]
    assert left_running(room) == []


def test_the_demo_shows_three_nights_and_what_is_kept_of_it_can_be_gone_on_with(
    room: Path,
) -> None:
    status, output = finish(start(room, "--keep"))

    assert status == 0, output
    assert output.count("$ snapvault backup\n") == 3
    assert "Refused with exit status 12" in output
    assert output.count("web01 is back, byte for byte") == 2
    assert output.count("shop is back, byte for byte") == 1
    lines = [line for line in output.splitlines() if str(room) not in line]
    assert [line for line in lines if len(line) > 80 and " " in line.strip()] == []
    assert re.search(r"^night 3 stored +web01 .+, shop .+; in ", output, re.MULTILINE)
    by_hand = re.search(r"^To go on by hand:\n((?:    .+\n)+)", output, re.MULTILINE)
    removal = re.search(r"^To remove it all:\n((?:    .+\n)+)", output, re.MULTILINE)
    assert by_hand is not None
    assert removal is not None

    listed = shell(by_hand[1])
    restored = shell(f"{by_hand[1]}\nsnapvault restore shop --to - | tail -n 1")
    backed_up = shell(by_hand[1].replace("/recovery\n", "/host\n").replace("list", "backup web01"))
    running = left_running(room, besides="gpg-agent")
    shell(removal[1])

    assert len(listed.splitlines()) == 7
    assert "COMMIT;" in restored
    assert "stored" in backed_up
    assert running == []
    assert list(room.iterdir()) == []


def failing(room: Path, program: str) -> Path:
    """Return a folder for the path in which a program fails."""
    folder = room / "bin"
    folder.mkdir()
    (folder / program).write_text(f"#!/bin/sh\necho {program}: as broken as can be\nexit 9\n")
    (folder / program).chmod(0o755)
    return folder


def shell(lines: str) -> str:
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", lines],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
