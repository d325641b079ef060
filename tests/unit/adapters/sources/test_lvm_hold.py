# SPDX-License-Identifier: Apache-2.0
"""Holding volumes when a signal comes at the worst moment, over a device mapper that is slow."""

import os
from pathlib import Path

import pytest

from snapvault.adapters.sources.lvm_hold import held

SLOW = """#!/bin/sh
if [ "$1" = "$INTERRUPTED" ]; then
    sleep 0.2; kill -INT $PPID; sleep 0.2
fi
echo "$@" >>"$0.log"
"""


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What dmsetup has done to the end; for the command $INTERRUPTED it interrupts us."""
    program = tmp_path / "dmsetup"
    program.write_text(SLOW)
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "dmsetup.log"


@pytest.mark.parametrize("moment", ["suspend", "resume"])
def test_volumes_are_resumed_whenever_a_signal_comes(
    moment: str, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERRUPTED", moment)

    with pytest.raises(KeyboardInterrupt), held(["/dev/a", "/dev/b"]):
        pass

    assert done.read_text().splitlines()[-1] == "resume /dev/a /dev/b"


def test_a_signal_while_they_are_held_resumes_them(done: Path) -> None:
    with pytest.raises(KeyboardInterrupt), held(["/dev/a"]):
        raise KeyboardInterrupt

    assert done.read_text().splitlines() == ["suspend /dev/a", "resume /dev/a"]
