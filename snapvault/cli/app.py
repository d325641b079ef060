# SPDX-License-Identifier: Apache-2.0
"""All commands."""

import typer

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
from snapvault.cli.root import SHARED, help_of, program

app = program()
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
    help=help_of(init.command),
    short_help="Create a vault, or join this host to one.",
    epilog=SHARED,
)(init.command)
app.command("backup", help=help_of(backup.command), epilog=SHARED)(backup.command)
app.command("list", help=help_of(list_.command), epilog=SHARED)(list_.command)
app.command(
    "status",
    help=help_of(status.command),
    short_help="Show how each source stands, and what needs attention.",
    epilog=SHARED,
)(status.command)
app.command(
    "show",
    help=help_of(show.command),
    short_help="Show one restore point in full.",
    epilog=SHARED,
)(show.command)
app.command(
    "restore",
    help=help_of(restore.command),
    short_help="Restore a source as it was at a point in time.",
    epilog=SHARED,
)(restore.command)
app.command(
    "serve",
    help=help_of(serve.command),
    short_help="Serve a restore point's disks over NBD, without restoring them.",
    epilog=SHARED,
)(serve.command)
app.command(
    "mount",
    help=help_of(mount.command),
    short_help="Show a restore point's disks and their files as a folder.",
    epilog=SHARED,
)(mount.command)
app.command(
    "files",
    help=help_of(files.command),
    short_help="List files on a restore point's disks, or bring some back.",
    epilog=SHARED,
)(files.command)
app.command(
    "run",
    help=help_of(run.command),
    short_help="Start a machine from its backup, without restoring it.",
    epilog=SHARED,
)(run.command)
app.command(
    "verify",
    help=help_of(verify.command),
    short_help="Verify that what the vault holds is whole.",
    epilog=SHARED,
)(verify.command)
app.command(
    "prune",
    help=help_of(prune.command),
    short_help="Remove restore points that no rule keeps, and what only they needed.",
    epilog=SHARED,
)(prune.command)
app.command(
    "repair",
    help=help_of(repair.command),
    short_help="Mend what is damaged in a vault, as far as it can be.",
    epilog=SHARED,
)(repair.command)
app.command(
    "cost",
    help=help_of(cost.command),
    short_help="Show what a vault costs, and what more would take.",
    epilog=SHARED,
)(cost.command)
app.command(
    "hold",
    help=help_of(hold.command),
    short_help="Keep a restore point whatever the rules say, or let it go again.",
    epilog=SHARED,
)(hold.command)
app.add_typer(_keys, name="keys", short_help="List the keys of a vault, and change them.")
_keys.command(
    "list",
    help=help_of(keys.list_keys),
    short_help="List whose keys open a vault, and what each can open.",
    epilog=SHARED,
)(keys.list_keys)
_keys.command(
    "apply",
    help=help_of(keys.apply),
    short_help="Bring a vault in line with the recipients and the signer of the settings.",
    epilog=SHARED,
)(keys.apply)
app.command(
    "copy",
    help=help_of(copy.command),
    short_help="Copy restore points to a second vault, elsewhere.",
    epilog=SHARED,
)(copy.command)
app.add_typer(_drill, name="drill", short_help="Rehearse restores, and report.")
_drill.command(
    "run",
    help=help_of(drill.run),
    short_help="Rehearse restores now.",
    epilog=SHARED,
)(drill.run)
_drill.command("list", help=help_of(drill_reports.list_drills), epilog=SHARED)(
    drill_reports.list_drills
)
_drill.command(
    "report",
    help=help_of(drill_reports.report),
    short_help="Show the report of a drill, or of a month, quarter or year.",
    epilog=SHARED,
)(drill_reports.report)
app.add_typer(_policy, name="policy", short_help="Check and show policies.")
_policy.command(
    "check",
    help=help_of(policy.check),
    short_help="Check the settings and every policy.",
    epilog=SHARED,
)(policy.check)
_policy.command("list", help=help_of(policy.list_policies), epilog=SHARED)(policy.list_policies)
_policy.command("show", help=help_of(policy.show), epilog=SHARED)(policy.show)
_policy.command(
    "schema",
    help=help_of(policy.schema),
    short_help="Print the JSON schema of a policy file.",
    epilog=SHARED,
)(policy.schema)
app.command(
    "daemon",
    help=help_of(daemon.daemon),
    short_help="Back up what the policies say, when they say it.",
    epilog=SHARED,
)(daemon.daemon)
app.command(
    "run-due",
    help=help_of(daemon.run_due),
    short_help="Back up what is due now, and end.",
    epilog=SHARED,
)(daemon.run_due)
app.command(
    "notify",
    help=help_of(notify.command),
    short_help="Send a test message to those who are to be told.",
    epilog=SHARED,
)(notify.command)
app.command(
    "doctor",
    help=help_of(doctor.command),
    short_help="Check everything that a night needs, and say how to mend it.",
    epilog=SHARED,
)(doctor.command)
app.add_typer(_catalog, name="catalog")
_catalog.command("rebuild", help=help_of(catalog.rebuild), epilog=SHARED)(catalog.rebuild)
