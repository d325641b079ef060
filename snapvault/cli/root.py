# SPDX-License-Identifier: Apache-2.0
"""The program without its commands: the options that all of them share."""

import os
from collections.abc import Callable
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Final

import typer
from typer.core import TyperArgument

from snapvault.cli.console import LOG_VARIABLE, LogFormat
from snapvault.cli.session import DEFAULT_CONFIG, Session

ALONE: Final = ("backup", "restore")
"""Commands that are loaded without the others, which take longer than to back up a small disk."""

SHARED = (
    "--config, --json, --log-format, --quiet and --verbose can also stand here;"
    ' "snapvault --help" says what they do.'
)


def help_of(command: Callable[..., object]) -> str:
    """Return a command's docstring, with its examples kept as they are written."""
    # "\b" on a line of its own keeps the parser from filling the paragraph that follows.
    return cleandoc(command.__doc__ or "").replace("\nExample", "\n\b\nExample")


def _no_type(self: TyperArgument, ctx: typer.Context) -> None:
    """Show nothing."""
    del self, ctx


# QUIRK: Typer 0.29 puts the Python type of each argument into its help: SOURCE <list[str]>.
TyperArgument.display_type_rich = _no_type  # type: ignore[method-assign,assignment] # see above


def _version(wanted: bool) -> None:
    if wanted:
        from snapvault.wiring import versions

        print(versions.tool())
        raise typer.Exit


def options(
    context: typer.Context,
    config: Annotated[
        Path,
        typer.Option(
            "--config",
            metavar="FILE",
            envvar="SNAPVAULT_CONFIG",
            help="The settings file.",
        ),
    ] = Path(DEFAULT_CONFIG),
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="Report as one JSON document on stdout; messages go to stderr."
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Show no progress, only the report and what went wrong."
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Print every event as a line on stderr."),
    ] = False,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            "--log-format",
            envvar=LOG_VARIABLE,
            help="How messages are written on stderr: as text, or each as a JSON object.",
        ),
    ] = LogFormat.TEXT,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Back up disks and dumps, encrypted and incrementally, and restore them.

    The backup host cannot read what it stored: a restore needs a recovery key.
    """
    del version
    # In the environment, so that the processes of a daemon's jobs write as we do.
    os.environ[LOG_VARIABLE] = log_format.value
    context.obj = Session(config=config, json=json, quiet=quiet, verbose=verbose)


def program() -> typer.Typer:
    """Return the program, for commands to be added to."""
    made = typer.Typer(
        name="snapvault",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
    )
    made.callback(
        epilog="Exit statuses: 0 done, 2 wrong usage, 3 partly done, 10 to 20 named failures;"
        " docs/errors.md explains them.",
    )(options)
    return made


def program_with(name: str) -> typer.Typer:
    """Return the program with one of the commands that can stand `ALONE`, and nothing else."""
    command = import_module(f"snapvault.cli.{name}").command
    made = program()
    made.command(name, help=help_of(command), epilog=SHARED)(command)
    return made
