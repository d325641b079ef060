# SPDX-License-Identifier: Apache-2.0
"""Where the sockets of a machine lie whose own folder has too long a path."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from snapvault.cli import run


def test_sockets_of_a_run_that_was_killed_go_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    deep = tmp_path / ("x" * 100)
    with ExitStack() as stack:
        left = tmp_path / f"{run._short(stack, deep).name}-killed"
    left.mkdir()
    (left / "console").touch()

    with ExitStack() as stack:
        now = run._short(stack, deep)
        there = list(tmp_path.iterdir())

    assert there == [now]
    assert list(tmp_path.iterdir()) == []
