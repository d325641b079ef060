# SPDX-License-Identifier: Apache-2.0
"""All commands, and the options that they share."""

import os
from collections.abc import Callable
from inspect import cleandoc
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperArgument

from snapvault.cli import (
    backup,
    catalog,
    copy,
    cost,
    daemon,
    doctor,
    drill,
    drill_reports,
    files,
    hold,
    init,
    keys,
    mount,
    notify,
    policy,
    prune,
    repair,
    restore,
    run,
    serve,
    show,
    status,
    verify,
)
from snapvault.cli import (
    list as list_,
)
from snapvault.cli.console import LOG_VARIABLE, LogFormat
from snapvault.cli.session import DEFAULT_CONFIG, Session

SHARED = (
    "--config, --json, --log-format, --quiet and --verbose can also stand here;"
    ' "snapvault --help" says what they do.'
)


def _help(command: Callable[..., object]) -> str:
    """Return a command's docstring, with its examples kept as they are written."""
    # "\b" on a line of its own keeps the parser from filling the paragraph that follows.
    return cleandoc(command.__doc__ or "").replace("\nExample", "\n\b\nExample")


def _no_type(self: TyperArgument, ctx: typer.Context) -> None:
    """Show nothing."""
    del self, ctx


# QUIRK: Typer 0.29 puts the Python type of each argument into its help: SOURCE <list[str]>.
TyperArgument.display_type_rich = _no_type  # type: ignore[method-assign,assignment] # see above

app = typer.Typer(
    name="snapvault",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        from snapvault.wiring import versions

        print(versions.tool())
        raise typer.Exit


@app.callback(
    epilog="Exit statuses: 0 done, 2 wrong usage, 3 partly done, 10 to 20 named failures;"
    " docs/errors.md explains them.",
)
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


_keys = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="List whose keys open a vault, and bring it in line with the settings.",
)
_drill = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Rehearse restores, and show what the rehearsals showed.",
)
_policy = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Check and show policies: what is backed up, when, and for how long it is kept.",
)
_catalog = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Look after the catalog, this host's index of a vault.",
)

app.command(
    "init",
    help=_help(init.command),
    short_help="Create a vault, or join this host to one.",
    epilog=SHARED,
)(init.command)
app.command("backup", help=_help(backup.command), epilog=SHARED)(backup.command)
app.command("list", help=_help(list_.command), epilog=SHARED)(list_.command)
app.command(
    "status",
    help=_help(status.command),
    short_help="Show how each source stands, and what needs attention.",
    epilog=SHARED,
)(status.command)
app.command(
    "show",
    help=_help(show.command),
    short_help="Show one restore point in full.",
    epilog=SHARED,
)(show.command)
app.command(
    "restore",
    help=_help(restore.command),
    short_help="Restore a source as it was at a point in time.",
    epilog=SHARED,
)(restore.command)
app.command(
    "serve",
    help=_help(serve.command),
    short_help="Serve a restore point's disks over NBD, without restoring them.",
    epilog=SHARED,
)(serve.command)
app.command(
    "mount",
    help=_help(mount.command),
    short_help="Show a restore point's disks and their files as a folder.",
    epilog=SHARED,
)(mount.command)
app.command(
    "files",
    help=_help(files.command),
    short_help="List files on a restore point's disks, or bring some back.",
    epilog=SHARED,
)(files.command)
app.command(
    "run",
    help=_help(run.command),
    short_help="Start a machine from its backup, without restoring it.",
    epilog=SHARED,
)(run.command)
app.command(
    "verify",
    help=_help(verify.command),
    short_help="Verify that what the vault holds is whole.",
    epilog=SHARED,
)(verify.command)
app.command(
    "prune",
    help=_help(prune.command),
    short_help="Remove restore points that no rule keeps, and what only they needed.",
    epilog=SHARED,
)(prune.command)
app.command(
    "repair",
    help=_help(repair.command),
    short_help="Mend what is damaged in a vault, as far as it can be.",
    epilog=SHARED,
)(repair.command)
app.command(
    "cost",
    help=_help(cost.command),
    short_help="Show what a vault costs, and what more would take.",
    epilog=SHARED,
)(cost.command)
app.command(
    "hold",
    help=_help(hold.command),
    short_help="Keep a restore point whatever the rules say, or let it go again.",
    epilog=SHARED,
)(hold.command)
app.add_typer(_keys, name="keys", short_help="List the keys of a vault, and change them.")
_keys.command(
    "list",
    help=_help(keys.list_keys),
    short_help="List whose keys open a vault, and what each can open.",
    epilog=SHARED,
)(keys.list_keys)
_keys.command(
    "apply",
    help=_help(keys.apply),
    short_help="Bring a vault in line with the recipients and the signer of the settings.",
    epilog=SHARED,
)(keys.apply)
app.command(
    "copy",
    help=_help(copy.command),
    short_help="Copy restore points to a second vault, elsewhere.",
    epilog=SHARED,
)(copy.command)
app.add_typer(_drill, name="drill", short_help="Rehearse restores, and report.")
_drill.command(
    "run",
    help=_help(drill.run),
    short_help="Rehearse restores now.",
    epilog=SHARED,
)(drill.run)
_drill.command("list", help=_help(drill_reports.list_drills), epilog=SHARED)(
    drill_reports.list_drills
)
_drill.command(
    "report",
    help=_help(drill_reports.report),
    short_help="Show the report of a drill, or of a month, quarter or year.",
    epilog=SHARED,
)(drill_reports.report)
app.add_typer(_policy, name="policy", short_help="Check and show policies.")
_policy.command(
    "check",
    help=_help(policy.check),
    short_help="Check the settings and every policy.",
    epilog=SHARED,
)(policy.check)
_policy.command("list", help=_help(policy.list_policies), epilog=SHARED)(policy.list_policies)
_policy.command("show", help=_help(policy.show), epilog=SHARED)(policy.show)
_policy.command(
    "schema",
    help=_help(policy.schema),
    short_help="Print the JSON schema of a policy file.",
    epilog=SHARED,
)(policy.schema)
app.command(
    "daemon",
    help=_help(daemon.daemon),
    short_help="Back up what the policies say, when they say it.",
    epilog=SHARED,
)(daemon.daemon)
app.command(
    "run-due",
    help=_help(daemon.run_due),
    short_help="Back up what is due now, and end.",
    epilog=SHARED,
)(daemon.run_due)
app.command(
    "notify",
    help=_help(notify.command),
    short_help="Send a test message to those who are to be told.",
    epilog=SHARED,
)(notify.command)
app.command(
    "doctor",
    help=_help(doctor.command),
    short_help="Check everything that a night needs, and say how to mend it.",
    epilog=SHARED,
)(doctor.command)
app.add_typer(_catalog, name="catalog")
_catalog.command("rebuild", help=_help(catalog.rebuild), epilog=SHARED)(catalog.rebuild)
