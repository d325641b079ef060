# SPDX-License-Identifier: Apache-2.0
"""What a target's path stands for, and whether there is room."""

import os
from pathlib import Path

import pytest

from snapvault.adapters.targets.opening import TargetKind, kind_of, open_target, require_room
from snapvault.errors import RestoreError, TargetNotEmptyError

TOO_MUCH = 1 << 60


def test_kinds_are_told_apart_and_links_followed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe")

    found = {each.name: kind_of(each) for each in tmp_path.iterdir()}

    assert found == {
        "file": TargetKind.FILE,
        "link": TargetKind.FILE,
        "dangling": TargetKind.MISSING,
        "pipe": TargetKind.STREAM,
    }
    assert kind_of(tmp_path) is TargetKind.FOLDER
    assert kind_of(tmp_path / "missing") is TargetKind.MISSING
    assert kind_of(Path("/dev/null")) is TargetKind.STREAM


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(RestoreError, match="could not look up"):
        kind_of(tmp_path / "file" / "disk.img")


def test_too_little_room_is_told_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(RestoreError) as caught:
        require_room(tmp_path, TOO_MUCH, what='source "orders"')

    assert f'not enough room in "{tmp_path}" for source "orders"' in str(caught.value)
    assert "1024.0 PiB needed" in str(caught.value) or "1.0 EiB needed" in str(caught.value)
    assert "Free at least" in (caught.value.hint or "")


def test_enough_room_is_silent(tmp_path: Path) -> None:
    require_room(tmp_path, 1, what="a test")


def test_room_in_a_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RestoreError, match="does not exist"):
        require_room(tmp_path / "missing", 1, what="a test")


def test_the_mistyped_name_of_a_device_makes_no_file_in_memory() -> None:
    with pytest.raises(RestoreError, match="it is no block device"):
        open_target(Path("/dev/snapvault-no-such-device"), 4096, 4096, force=True)

    assert not Path("/dev/snapvault-no-such-device").exists()


def test_a_sparse_file_needs_room_for_its_data_only(tmp_path: Path) -> None:
    target = open_target(tmp_path / "disk.img", 1 << 43, 4096, force=False)

    target.commit()

    assert (tmp_path / "disk.img").stat().st_size == 1 << 43


def test_nothing_is_created_when_there_is_no_room(tmp_path: Path) -> None:
    with pytest.raises(RestoreError, match="not enough room"):
        open_target(tmp_path / "disk.img", TOO_MUCH, TOO_MUCH, force=False)

    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_is_told_before_the_room(tmp_path: Path) -> None:
    (tmp_path / "disk.img").touch()

    with pytest.raises(TargetNotEmptyError):
        open_target(tmp_path / "disk.img", TOO_MUCH, TOO_MUCH, force=False)


def test_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(RestoreError, match="is a folder"):
        open_target(tmp_path, 3, 3, force=True)
    with pytest.raises(RestoreError, match="in order only"):
        open_target(tmp_path / "pipe", 3, 3, force=True)
