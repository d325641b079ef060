# SPDX-License-Identifier: Apache-2.0
"""Runs: a restore point is made of a source, and what came of it is recorded."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from snapvault import clock
from snapvault.adapters.locks import SourceLock
from snapvault.adapters.stores.metered import MeteredStore
from snapvault.engine.vault import Held, Vault
from snapvault.errors import ConfigError, SnapVaultError
from snapvault.model.policy import Policy, SourceSpec
from snapvault.model.runs import Run, RunState, SourceKey, Trigger
from snapvault.model.settings import Settings
from snapvault.model.usage import NOTHING, Usage
from snapvault.ports.events import Events
from snapvault.ports.jobs import Order
from snapvault.wiring import history, locking, sources, state, vaults, versions

if TYPE_CHECKING:
    from snapvault.adapters.recording import Recording


def back_up(vault: Vault, policy: Policy, spec: SourceSpec, *, is_full: bool = False) -> Held:
    """Make one restore point of a source, as its policy says; one run of a source at a time.

    With `is_full` everything is stored again.

    It takes what its limits and those of the host let it take of the network and the disks. What
    they say of processor time is up to whoever started this process.

    Raises:
        ConfigError: the vault is a copy of another.
        LockHeldError: another run has the source.
        and all that `BackupJob.run` raises.
    """
    from snapvault.adapters.librsync import LibRsync
    from snapvault.adapters.sources.throttled import ThrottledSource
    from snapvault.engine.backup import BackupJob, BackupOptions

    if vault.record.copy is not None:
        raise ConfigError(
            f'vault "{vault.name}" is a copy of another: backups do not go to it',
            hint="Name the vault that it was copied from in the policy. If that is lost, "
            "docs/copies.md says how the copy takes its place.",
        )
    folder = vault.state / "sources" / spec.name
    state.make_private(folder)
    # Here too, so that one source's failure is told as such, and the next source has its turn.
    with (
        state.naming_state(vault.state),
        SourceLock(folder / "lock", source=spec.name) as lock,
        ExitStack() as stack,
    ):
        if lock.left_by is not None:
            vault.events.emit("lock.taken_over", source=spec.name, pid=lock.left_by.pid)
        source = sources.source_of(
            spec,
            policy=policy.name,
            vault=vault.name,
            vault_id=vault.record.vault,
            folder=folder,
            events=vault.events,
        )
        if isinstance(vault.store, MeteredStore) and vault.store.traffic is not None:
            stack.enter_context(vault.store.traffic.of_run(policy.limits))
            source = ThrottledSource(source, vault.store.traffic.read)
        return BackupJob(
            vault=vault,
            source=source,
            rsync=LibRsync(),
            folder=folder,
            options=BackupOptions(
                volume_size=policy.volume_size,
                compression_level=policy.compression_level,
                fine_hashes=policy.fine_hashes,
                host=os.uname().nodename or "unknown",
                tool=versions.tool(),
                hints=policy.hints,
                is_full=is_full,
                rewriting=policy.rewriting,
            ),
        ).run()


def new_run(policy: Policy, spec: SourceSpec, trigger: Trigger = Trigger.MANUAL) -> Run:
    """Return a run of a source that starts now, asked for by hand unless said otherwise."""
    from snapvault.adapters.recording import new_run_id

    now = clock.now()
    key = SourceKey(policy.vault, spec.name)
    return Run(new_run_id(now), key, policy.name, RunState.RUNNING, trigger, now)


def recorded(settings: Settings, run: Run, events: Events) -> "Recording":
    """Return what records a run around the work; history that cannot be written fails nothing."""
    from snapvault.adapters.recording import Recording

    return Recording(
        run,
        history=lambda: history.open_history(settings, events),
        logs=history.run_logs(settings),
        events=events,
    )


def back_up_recorded(
    settings: Settings,
    recording: "Recording",
    vault: Vault,
    policy: Policy,
    spec: SourceSpec,
    *,
    is_full: bool = False,
) -> Held:
    """Make a restore point as `back_up`, and tell the recording what came of it.

    Then renew locks, where that is due: this host is the one that is there every night.
    """
    before = usage_of(vault)
    try:
        held = back_up(replace(vault, events=recording.events), policy, spec, is_full=is_full)
    except BaseException:
        # What it asked of the store was asked, and is paid for.
        recording.count((usage_of(vault) - before).counters())
        raise
    locking.renew_locks(settings, replace(vault, events=recording.events))
    more = (usage_of(vault) - before).counters()
    recording.made(held.point, stored_bytes=held.stored_bytes, more=more)
    return held


@contextmanager
def counting_requests(
    settings: Settings, vault: Vault, events: Events, *, verb: str
) -> Iterator[None]:
    """Count what is asked of the vault's store in this context, where no run and no verify does.

    It counts as of a verb. However it ends; a history that cannot be written fails nothing.
    """
    before = usage_of(vault)
    try:
        yield
    finally:
        try:
            with history.open_history(settings, events) as known:
                known.count_usage(vault.name, verb, usage_of(vault) - before, clock.now())
        except SnapVaultError as error:
            events.emit("history.failed", message=str(error))


def usage_of(vault: Vault) -> Usage:
    """Return what this process has asked of the vault's store."""
    return vault.store.usage() if isinstance(vault.store, MeteredStore) else NOTHING


def record_failure(settings: Settings, run: Run, error: SnapVaultError, events: Events) -> None:
    """Record a run that failed before it could start."""
    with suppress(SnapVaultError), recorded(settings, run, events):
        raise error


def run_order(order: Order, events: Events) -> Run:
    """Carry out an order, record it, and return the run as it ended, whatever happened to it.

    An exception that asks this process to end interrupts the run, and goes no further either.
    """
    recording = recorded(order.settings, order.run, events)
    # What it was is in the run.
    with suppress(BaseException), recording:
        name = order.policy.vault
        with vaults.open_vault(order.settings, name, recording.events) as vault:
            back_up_recorded(order.settings, recording, vault, order.policy, order.source)
    return recording.run
