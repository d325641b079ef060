# SPDX-License-Identifier: Apache-2.0
"""Targets that are taken for paths, and those that were hardly meant as one."""

from pathlib import Path

import pytest
import typer

from snapvault.cli.target_paths import require_path


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("s3://backups/web01", "expected a path, found the address"),
        ("file:///srv/web01", 'a path of that name is "./file:///srv/web01"'),
        ("~/restored", "the shell did not replace"),
        ("lvn:vg0", 'Did you mean "lvm:"'),
        ("LVM:vg0/root", 'Did you mean "lvm:"'),
        ("esb:eu-west-1", 'Did you mean "ebs:"'),
    ],
)
def test_what_was_hardly_meant_as_a_path_is_refused(to: str, said: str) -> None:
    with pytest.raises(typer.BadParameter, match=said):
        require_path(to, places=("lvm", "ebs"))


def test_paths_with_odd_names_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lvn:vg0").mkdir()

    for to in ("./s3://x", "./~/x", "lvn:vg0", "web01:1", "a~", "/srv/lvn:x", "2026-11-20T03:00"):
        require_path(to, places=("lvm", "ebs"))
