# SPDX-License-Identifier: Apache-2.0
"""`snapvault daemon` and `snapvault run-due`: what the policies say, when they say it."""

import os
import sys
from typing import TYPE_CHECKING

import typer

from snapvault.cli.session import session

if TYPE_CHECKING:
    from snapvault.daemon.service import Service


def daemon(context: typer.Context) -> int:
    """Back up what the policies say, when they say it, until told to stop.

    Runs in the foreground, as service managers want it: the files in systemd/ start it.
    Events go to stderr, a line each; with --json as JSON. SIGHUP reads settings and policies
    again, without touching what runs; a file that is wrong keeps its old self. SIGTERM ends
    it: backups at work are given the stop_timeout of the settings, and are resumed
    by the next run. The status page is served where daemon.listen says.

    Example:
      snapvault daemon
    """
    return _service(context).run()


def run_due(context: typer.Context) -> int:
    """Back up what is due now, and end: for timers, where nobody wants a daemon.

    Remembers when each source was last due, so that nothing is run twice and what was
    missed is made up for once. What failed is tried again by a later call, as the policy
    says. Call it every few minutes; the timer in systemd/ does. Vaults are pruned once a day.
    The exit status is 3 if a backup failed for good, a prune refused or failed, or a
    policy is wrong.

    Example:
      snapvault run-due
    """
    return _service(context).run_round()


def _service(context: typer.Context) -> "Service":
    from snapvault.adapters.event_log import EventLog
    from snapvault.daemon.service import Service
    from snapvault.wiring import start

    start.lightly(is_short=False)
    _open_standard_streams()
    run = session(context)
    if run.json:
        os.environ["SNAPVAULT_LOG"] = "json"  # for the processes of the jobs as well
    as_json = os.environ.get("SNAPVAULT_LOG") == "json"
    return Service(run.config, EventLog(sys.stderr, as_json=as_json))


def _open_standard_streams() -> None:
    """Have something behind the three standard streams, lest a file of ours comes to be there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # the lowest number that is free is this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
