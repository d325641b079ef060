# SPDX-License-Identifier: Apache-2.0
"""How every source of this host stands, for whoever looks: the daemon's page and the terminal."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from typing import Final

from snapvault import clock
from snapvault.adapters.locks import holder_of
from snapvault.engine import status as statuses
from snapvault.engine.status import VaultPoints
from snapvault.errors import SnapVaultError
from snapvault.model.copies import CopyStatus, behind, is_alarm
from snapvault.model.notices import NotifierStanding
from snapvault.model.policy import Policy
from snapvault.model.runs import Run, RunState
from snapvault.model.settings import Settings
from snapvault.model.status import Following, Status, Watched
from snapvault.ports.history import History
from snapvault.wiring import copy_notes
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
    watched: Sequence[Watched] | None = None,
    notifiers: Sequence[NotifierStanding] | None = None,
) -> Status:
    """Return the status of this host; `problems` are those of its policies.

    Asks neither stores nor GnuPG. Without `history` it is opened for the moment; one that cannot
    be used is a problem in what is shown. `watched` and `notifiers` are of the daemon that asks;
    without them what a daemon at work has left counts, and else the schedules alone.
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
    if watched is None:
        own = statuses.scheduled(policies, zone_named, memory.seen, now=moment)
        pid = daemon.pid if daemon else None
        watched, unread = _followed(own, memory.following, daemon=pid)
        told += unread
    standings = memory.notifiers if notifiers is None else tuple(notifiers)
    memory = replace(
        memory, notifiers=tuple(each for each in standings if each.name in settings.notify)
    )
    return statuses.assemble(
        statuses.Host(
            name=os.uname().nodename or "unknown",
            version=tool().removeprefix("snapvault").strip(),
            daemon_pid=daemon.pid if daemon else None,
            daemon_since=daemon.started if daemon else None,
        ),
        watched,
        _with_copies(settings, policies),
        memory,
        now=moment,
        problems=told,
    )


def _with_copies(settings: Settings, policies: Sequence[Policy]) -> dict[str, VaultPoints]:
    """Return what is known of each vault, and how those stand that policies have copies in."""
    found = {name: known_points(settings, name) for name in settings.vaults}
    asked: dict[tuple[str, str], list[Policy]] = {}
    for policy in policies:
        for to in policy.copy_to if policy.enabled else ():
            asked.setdefault((policy.vault, to), []).append(policy)
    for (vault, to), asking in asked.items():
        if vault in found and to in found:
            names = {source.name for policy in asking for source in policy.sources}
            lacking = behind(found[vault].points, found[to].points, names)
            note = copy_notes.read(settings, to)
            is_wrong = note is not None and is_alarm(note, asking[0].retry)
            found[to] = replace(found[to], copy=CopyStatus(vault, lacking, note, is_wrong))
    return found


def _followed(
    own: Sequence[Watched], left: Following | None, *, daemon: int | None
) -> tuple[list[Watched], list[str]]:
    """Return the sources as whoever follows them has them, and what a daemon has not read yet.

    `own` are those of the policies as they are now.
    """
    if left is None or (daemon != left.pid if daemon is not None else not left.is_round):
        return list(own), []
    by_key = {each.key: each for each in left.sources}
    if daemon is None:
        again = {key: each.retry_at for key, each in by_key.items()}
        return [replace(each, retry_at=again.get(each.key)) for each in own], []
    # A policy whose file is broken now counts as it was when the daemon read it.
    unread = [each for each in own if each.key not in by_key]
    sources = sorted((*left.sources, *unread), key=lambda each: (each.policy, each.key.source))
    names = sorted({each.policy for each in unread if each.enabled})
    told = [
        f'the daemon does not follow policy "{name}" yet: tell it to read its files again,'
        " or start it again"
        for name in names
    ]
    return [replace(each, next_start=None) if each in unread else each for each in sources], told
