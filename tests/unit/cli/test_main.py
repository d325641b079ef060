# SPDX-License-Identifier: Apache-2.0
"""From words to a command."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import typer.core
import typer.main

from snapvault.cli import root
from snapvault.cli.app import app
from snapvault.cli.main import _dispatch, _global_first
from snapvault.cli.words import table

ROOT = Path(__file__).parents[3]


def every_command() -> list[list[str]]:
    """Return the words of each command, and of each that is below another."""
    found: list[list[str]] = [[]]
    pending: list[tuple[list[str], typer.core.TyperGroup]] = [([], typer.main.get_group(app))]
    while pending:
        words, group = pending.pop()
        for name, command in group.commands.items():
            found.append([*words, name])
            if isinstance(command, typer.core.TyperGroup):
                pending.append(([*words, name], command))
    return found


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        (["list", "--json"], ["--json", "list"]),
        (["list", "--config", "f", "web01"], ["--config", "f", "list", "web01"]),
        (["list", "--config=f", "-v"], ["--config=f", "-v", "list"]),
        (["backup", "--", "--json"], ["backup", "--", "--json"]),
        (["list", "--config"], ["--config"]),
    ],
)
def test_shared_options_go_before_the_command(typed: list[str], parsed: list[str]) -> None:
    assert _global_first(typed) == parsed


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["lists"], 'snapvault: no such command "lists"\nhint: Did you mean "list"?\n'),
        (["--jsno"], 'snapvault: no such option "--jsno"\nhint: Did you mean "--json"?\n'),
        (["list", "-x"], 'snapvault: no such option "-x"\nhint: Run "snapvault list --help"'),
        (["list", "a", "b"], "snapvault: too much: b\nhint: Run"),
        (["list", "--config"], 'snapvault: option "--config" requires an argument\nhint: Run'),
        (
            ["verify", "--sample", "much"],
            'snapvault: invalid value for "--sample": expected a number\nhint: Run',
        ),
        (
            ["--config", "f", "-v", "restore", "a", "--to"],
            'snapvault: option "--to" requires an argument\nhint: Run "snapvault restore --help"',
        ),
        (
            ["drill", "run", "--policy"],
            'snapvault: option "--policy" requires an argument\nhint: Run "snapvault drill run',
        ),
        (
            ["restore", "a", "--to", "o", "--stream", "b", "--stream", "c"],
            'snapvault: invalid value for "--stream": expected one stream, found 2',
        ),
        (
            ["restore", "a", "--to", "lvn:vg0"],
            (
                'snapvault: invalid value for "--to": "lvn:vg0" is no place that is known; '
                'a path of that name is "./lvn:vg0"\nhint: Did you mean "lvm:"?\n'
            ),
        ),
        (["restore", "a", "--to", ""], 'snapvault: invalid value for "--to": expected a path'),
    ],
)
def test_a_wrong_command_line_is_told_in_a_line_and_a_hint(
    typed: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _dispatch(typed) == 2

    assert capsys.readouterr().err.startswith(said)


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


@pytest.mark.integration
def test_a_backup_loads_no_more_than_it_needs() -> None:
    code = (
        "import sys; from snapvault.cli.main import main; main(['backup', '--help'])\n"
        "import snapvault.config.policies, snapvault.config.settings, snapvault.engine.backup\n"
        "import snapvault.wiring.runs, snapvault.wiring.vaults\n"
        "import snapvault.adapters.histories.sqlite, snapvault.adapters.stores.s3_store\n"
        "from snapvault.config.strict import Shape\n"
        "ours = {'snapvault.cli.app', 'snapvault.cli.restore', 'snapvault.model.objectives'}\n"
        "heavy = {'apscheduler', 'asyncio', 'boto3', 's3transfer', 'jinja2', 'rich'} | ours\n"
        "built = {each.__name__ for each in Shape.__subclasses__() if each.__pydantic_complete__}\n"
        "print(*sorted(heavy & set(sys.modules) | built), file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stderr.strip() == ""


def test_a_command_alone_is_used_as_it_is_among_all(capsys: pytest.CaptureFixture[str]) -> None:
    shown: dict[str, set[str]] = {}
    for program in (app, *(root.program_with(name) for name in root.ALONE)):
        for name in root.ALONE:
            with suppress(typer.TyperException):
                program([name, "--help"], prog_name="snapvault", standalone_mode=False)
                shown.setdefault(name, set()).add(capsys.readouterr().out)

    assert [len(each) for each in shown.values()] == [1] * len(root.ALONE)


def test_no_help_speaks_of_python(capsys: pytest.CaptureFixture[str]) -> None:
    commands = every_command()

    for words in commands:
        _dispatch([*words, "--help"])
    said = capsys.readouterr().out

    assert len(commands) > 15
    assert said.count("Usage: snapvault") == len(commands)
    assert "list[" not in said
    assert "<str>" not in said
