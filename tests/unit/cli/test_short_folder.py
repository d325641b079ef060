# SPDX-License-Identifier: Apache-2.0
"""Where sockets are when the path of the state is too long for them."""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from snapvault.cli.short_folder import short_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"snapvault-{os.geteuid()}"


def test_a_folder_is_private_gone_with_its_user_and_so_is_one_that_was_left(
    temporary: Path,
) -> None:
    temporary.mkdir(mode=0o700)
    (temporary / "s-left").mkdir()

    with ExitStack() as stack:
        folder = short_folder(stack)
        during = list(temporary.iterdir())
        modes = {path.stat().st_mode & 0o777 for path in (temporary, folder)}

    assert during == [folder]
    assert modes == {0o700}
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("trap", ["open", "link", "file"])
def test_a_folder_that_somebody_else_prepared_is_not_used(
    temporary: Path, tmp_path: Path, trap: str
) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    if trap == "open":
        temporary.mkdir()
        temporary.chmod(0o777)
    elif trap == "link":
        temporary.symlink_to(tmp_path / "theirs")
    else:
        temporary.touch()

    with ExitStack() as stack:
        folder = short_folder(stack)

    assert folder.parent == tmp_path
    assert list((tmp_path / "theirs").iterdir()) == []
