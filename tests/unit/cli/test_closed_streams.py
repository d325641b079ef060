# SPDX-License-Identifier: Apache-2.0
"""Standard streams that the caller closed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("--version >&-", 0, ""),
        ("--version <&- >&- 2>&-", 0, ""),
        ("list <&- 2>&-", 10, ""),
        ("restore web01 --to - >&-", 16, "stdout: it is closed"),
    ],
)
def test_closed_standard_streams_are_no_bug(words: str, status: int, said: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m snapvault --config /nowhere/snapvault.yaml {words}', sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == status
    assert said in done.stderr
    assert done.stdout == ""
