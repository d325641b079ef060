# SPDX-License-Identifier: Apache-2.0
"""What only saves work never fails a backup for want of room."""

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from snapvault.engine.spare_file import SpareFile

ROOM = 10_000  # bytes


@contextmanager
def little_room() -> Iterator[None]:
    """Let no file of this process grow beyond `ROOM`: pytest's own neither, so in tests alone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_it_holds_what_was_written(tmp_path: Path) -> None:
    numbers = np.arange(3, dtype="<u8")

    with SpareFile(tmp_path / "file") as file:
        file.write(b"head")
        file.write(numbers.data)

    assert (tmp_path / "file").read_bytes() == b"head" + numbers.tobytes()


@pytest.mark.parametrize("fits", ["nothing of it", "a part of it"])
def test_what_has_no_room_leaves_an_empty_file(fits: str, tmp_path: Path) -> None:
    size = ROOM if fits == "nothing of it" else ROOM - 1

    with little_room(), SpareFile(tmp_path / "file") as file:
        file.write(bytes(size))
        file.write(b"more")
        file.write(b"")
        file.write(b"m")

    assert (tmp_path / "file").read_bytes() == b""


def test_a_file_that_cannot_be_made_takes_everything(tmp_path: Path) -> None:
    with SpareFile(tmp_path / "missing" / "file") as file:
        file.write(b"data")

    assert not (tmp_path / "missing").exists()


def test_nobody_else_can_read_it_whatever_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with SpareFile(tmp_path / "file") as file:
            file.write(b"key")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
