# SPDX-License-Identifier: Apache-2.0
"""Prunes of this host: by the rules of its policies, with what came of it remembered."""

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from snapvault import clock
from snapvault.engine.files import write_durably
from snapvault.engine.vault import Vault
from snapvault.errors import SnapVaultError
from snapvault.model.policy import Policy
from snapvault.model.prunes import PruneState, PruneSummary
from snapvault.model.settings import Settings
from snapvault.ports.events import Events
from snapvault.wiring import costs, history, runs, state, vaults, versions
from snapvault.wiring.catalogs import PRUNED
from snapvault.wiring.locking import renew_locks

_MOST_REASONS: Final = 20

if TYPE_CHECKING:
    from snapvault.engine.prune import Pruned
    from snapvault.engine.prune_plan import Rules


def rules_of(policies: Sequence[Policy], vault: str) -> "dict[str, Rules]":
    """Return the rules for the sources of a vault; of sources that no policy names there are none.

    Raises:
        ValueError: this host does not know a policy's time zone.
    """
    from snapvault.config.zones import zone_named
    from snapvault.engine.prune_plan import Rules

    found = {}
    for policy in policies:
        if policy.vault == vault or vault in policy.copy_to:
            retention = policy.retention
            if policy.vault != vault and policy.copy_retention is not None:
                retention = policy.copy_retention
            zone = zone_named(policy.schedule.timezone if policy.schedule else None)
            for source in policy.sources:
                found[source.name] = Rules(retention, zone)
    return found


def prune_vault(
    settings: Settings,
    vault: Vault,
    policies: Sequence[Policy],
    events: Events,
    *,
    grace: timedelta | None = None,
    is_rehearsal: bool = False,
    gone: Sequence[str] = (),
) -> "Pruned":
    """Prune a vault by its policies; of points that are `gone` note first that they may be.

    `grace` None: that of the settings.

    Raises:
        NoRestorePointError: a point is not among those that are gone.
        StoreError, SealError, StateError: it could not be done; running it again goes on.
    """
    from snapvault.engine.prune import Options, accept_gone, prune

    options = Options(
        settings.vaults[vault.name].prune_grace if grace is None else grace,
        os.uname().nodename or "unknown",
        versions.tool(),
        is_rehearsal,
        costs.paid_days(settings.vaults[vault.name]),
    )
    with (
        state.naming_state(vault.state),
        runs.counting_requests(settings, vault, events, verb="prune"),
    ):
        if gone and not is_rehearsal:
            accept_gone(vault, gone, options)
        done = prune(vault, rules_of(policies, vault.name), options)
        if not is_rehearsal:
            renew_locks(settings, vault)
        if not is_rehearsal and not done.refusal:
            write_durably(vault.state / PRUNED, [clock.to_text(clock.now()).encode()])
    return done


def prune_recorded(
    settings: Settings,
    name: str,
    policies: Sequence[Policy],
    events: Events,
    *,
    grace: timedelta | None = None,
    gone: Sequence[str] = (),
) -> "Pruned":
    """Prune a vault as `prune_vault`, and remember what came of it.

    Raises: as `open_vault` and `prune_vault`.
    """
    started = clock.monotonic()
    with vaults.open_vault(settings, name, events) as vault:
        done = prune_vault(settings, vault, policies, events, grace=grace, gone=gone)
    reasons = tuple(" ".join(each.split()) for each in (*done.refusal, *done.doubt))
    summary = replace(
        _new_prune(name, PruneState.REFUSED if reasons else PruneState.DONE),
        seconds=clock.monotonic() - started,
        removed=len(done.removed),
        deleted=done.deleted[0],
        deleted_bytes=done.deleted[1],
        waiting=done.waiting[0],
        waiting_bytes=done.waiting[1],
        orphans=done.orphans[0],
        orphan_bytes=done.orphans[1],
        reasons=reasons[:_MOST_REASONS],
    )
    history.record_prune(settings, summary, events)
    return done


def record_failure(
    settings: Settings, name: str, error: SnapVaultError, seconds: float, events: Events
) -> None:
    """Remember a prune that failed."""
    summary = replace(
        _new_prune(name, PruneState.FAILED),
        seconds=seconds,
        reasons=(" ".join(str(error).split()),),
        hint=error.hint,
        retryable=error.retryable,
    )
    history.record_prune(settings, summary, events)


def _new_prune(name: str, ended: PruneState) -> PruneSummary:
    """Return a prune that has just ended, and of which no more is known."""
    from snapvault.adapters.recording import new_run_id

    now = clock.now()
    return PruneSummary(new_run_id(now), name, now, 0.0, ended)
