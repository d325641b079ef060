# SPDX-License-Identifier: Apache-2.0
"""How every source of this host stands, for whoever looks: the daemon's page and the terminal."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Final

from snapvault import clock
from snapvault.adapters.locks import holder_of
from snapvault.engine import status as statuses
from snapvault.errors import SnapVaultError
from snapvault.model.policy import Policy
from snapvault.model.runs import Run, RunState, SourceKey
from snapvault.model.settings import Settings
from snapvault.model.status import Status
from snapvault.ports.history import History
from snapvault.wiring.catalogs import known_points
from snapvault.wiring.history import open_history, run_logs
from snapvault.wiring.versions import tool

DAEMON_LOCK: Final = "daemon.lock"
"""The file in the state folder that the one daemon of a host holds."""


def of_host(
    settings: Settings,
    policies: Sequence[Policy],
    problems: Sequence[str],
    *,
    now: datetime | None = None,
    history: History | None = None,
    next_starts: Mapping[SourceKey, datetime] | None = None,
    retries: Mapping[SourceKey, datetime] | None = None,
) -> Status:
    """Return the status of this host; `problems` are those of its policies.

    Asks neither stores nor GnuPG. Without `history` it is opened for the moment; one that cannot
    be used is a problem in what is shown. Without `next_starts` the schedules alone count.
    """
    from snapvault.adapters.recording import is_at_work, lost
    from snapvault.config.zones import zone_named

    moment = now or clock.now()
    told = list(problems)

    def settled(run: Run) -> Run:
        is_gone = run.state is RunState.RUNNING and run.pid is not None and not is_at_work(run)
        return lost(run, moment) if is_gone else run

    memory = statuses.Memory()
    try:
        with ExitStack() as stack:
            opened = history or stack.enter_context(open_history(settings))
            memory = statuses.remember(opened, run_logs(settings), settled)
    except SnapVaultError as error:
        told.append(str(error))
    daemon = holder_of(settings.state_dir / DAEMON_LOCK)
    return statuses.assemble(
        statuses.Host(
            name=os.uname().nodename or "unknown",
            version=tool().removeprefix("snapvault").strip(),
            daemon_pid=daemon.pid if daemon else None,
            daemon_since=daemon.started if daemon else None,
        ),
        policies,
        {name: known_points(settings, name) for name in settings.vaults},
        memory,
        statuses.Outlook(zone_named, next_starts, retries or {}),
        now=moment,
        problems=told,
    )
