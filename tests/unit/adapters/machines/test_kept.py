# SPDX-License-Identifier: Apache-2.0
"""Folders in which machines are kept."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from snapvault.adapters.machines.kept import Origin, open_folder
from snapvault.errors import LockHeldError, RestoreError, TargetNotEmptyError

ORIGIN = Origin("offsite", "web01", "3f2a", datetime(2026, 11, 20, 3, tzinfo=UTC), ("root", "data"))


def test_a_folder_remembers_what_its_machine_was_started_from(tmp_path: Path) -> None:
    with open_folder(tmp_path / "made") as machine:
        first = machine.origin
        machine.begin(ORIGIN)
    with open_folder(tmp_path / "made") as machine:
        again = machine.origin

    assert first is None
    assert again == ORIGIN
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700


def test_a_machine_without_overlays_still_needs_the_vault(tmp_path: Path) -> None:
    with open_folder(tmp_path / "made") as machine:
        machine.begin(ORIGIN)

        assert not machine.is_independent()


def test_a_folder_is_used_by_one_machine_at_a_time(tmp_path: Path) -> None:
    with (
        open_folder(tmp_path / "made"),
        pytest.raises(LockHeldError, match="runs already"),
        open_folder(tmp_path / "made"),
    ):
        pass


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").write_text("dear")

    with pytest.raises(TargetNotEmptyError, match="something else"), open_folder(tmp_path):
        pass

    assert [path.name for path in tmp_path.iterdir()] == ["letters"]


def test_what_is_no_folder_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")

    with (
        pytest.raises(RestoreError, match="file exists") as caught,
        open_folder(tmp_path / "letter"),
    ):
        pass

    assert "Name a folder that is empty or does not exist" in str(caught.value.hint)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", json.dumps({"format": 2, "disks": ["root"]}), '{"format": 1}']
)
def test_a_record_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "machine.json").write_text(text)

    with pytest.raises(RestoreError, match=r"machine\.json"), open_folder(tmp_path):
        pass


@pytest.mark.parametrize("fails", [True, False])
def test_a_folder_that_was_made_for_nothing_is_gone(tmp_path: Path, *, fails: bool) -> None:
    try:
        with open_folder(tmp_path / "made"):
            if fails:
                raise RestoreError("no key")
    except RestoreError:
        pass

    assert list(tmp_path.iterdir()) == []
