# SPDX-License-Identifier: Apache-2.0
"""From words to a command."""

import subprocess
import sys
from pathlib import Path

import pytest

from snapvault.cli.main import _global_first
from snapvault.cli.words import table

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        (["list", "--json"], ["--json", "list"]),
        (["list", "--config", "f", "web01"], ["--config", "f", "list", "web01"]),
        (["list", "--config=f", "-v"], ["--config=f", "-v", "list"]),
        (["backup", "--", "--json"], ["backup", "--", "--json"]),
        (["list", "--config"], ["list", "--config"]),
    ],
)
def test_shared_options_go_before_the_command(typed: list[str], parsed: list[str]) -> None:
    assert _global_first(typed) == parsed


def test_tables_align_numbers_right_and_show_no_trailing_space() -> None:
    assert table(["NAME", "SIZE"], [["a", "1"], ["long", "100"]], right="SIZE") == [
        "NAME  SIZE",
        "a        1",
        "long   100",
    ]


@pytest.mark.integration
def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from snapvault.cli.main import main; main(['--help']);"
        "heavy = {'numpy', 'boto3', 'pydantic', 'rich', 'gnupg', 'sqlite3'};"
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stderr.strip() == ""
