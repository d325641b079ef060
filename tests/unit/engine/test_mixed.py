# SPDX-License-Identifier: Apache-2.0
"""The file in which blocks are put together: its room is there, or a restore says what it lacks."""

import resource
import signal
from contextlib import closing, suppress
from pathlib import Path

import pytest

from snapvault.engine import mixed
from snapvault.errors import RestoreError

MIB = 1 << 20


def test_the_room_is_taken_before_anything_is_written_to_it(tmp_path: Path) -> None:
    with closing(mixed._file_of(MIB, tmp_path)):
        (taken,) = sizes_of_open_files(tmp_path)

    assert taken >= MIB


def test_without_room_it_says_how_much_is_needed_and_where(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB - 1, hard))
    try:
        with pytest.raises(RestoreError, match=r"could not take 1\.0 MiB in folder") as caught:
            mixed._file_of(MIB, tmp_path / "state")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)

    assert str(tmp_path / "state") in str(caught.value)
    assert "state_dir" in (caught.value.hint or "")
    assert list((tmp_path / "state").iterdir()) == []


def sizes_of_open_files(folder: Path) -> list[int]:
    """Return the bytes that files of a folder take on the disk which this process has open."""
    found = []
    for path in list(Path("/proc/self/fd").iterdir()):
        with suppress(FileNotFoundError):  # that of the listing itself
            if str(path.readlink()).startswith(f"{folder}/"):
                found.append(path.stat().st_blocks * 512)
    return found
