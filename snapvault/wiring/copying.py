# SPDX-License-Identifier: Apache-2.0
"""Copies of vaults: two vaults of the settings, one of which gets what the other has."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from snapvault.adapters.locks import SourceLock
from snapvault.adapters.stores.metered import MeteredStore
from snapvault.engine import copy_target
from snapvault.engine.vault import Vault
from snapvault.errors import ConfigError, LockHeldError, SnapVaultError
from snapvault.model.policy import Limits
from snapvault.model.settings import Settings
from snapvault.ports.events import Events
from snapvault.wiring import copy_notes, runs, state, vaults, versions

if TYPE_CHECKING:
    from snapvault.engine.copy_plan import Choice
    from snapvault.engine.copying import Copied

_FOLDER = "copying"


def copy_vault(
    settings: Settings,
    source: Vault,
    to: str,
    choice: "Choice",
    events: Events,
    *,
    limits: Limits | None = None,
) -> "Copied":
    """Copy what a vault of the settings lacks; it is made if its store is empty.

    `limits` are those of a policy that asks for it.

    Raises:
        ConfigError: the other vault is something else, or the settings do not fit.
        LockHeldError: another copy to it is at work on this host.
        StoreError, SealError, StateError: it could not be done; running it again goes on.
    """
    from snapvault.engine.copying import Options, copy

    _require_two(settings, source, to)
    chosen = settings.vaults[to]
    store = vaults.open_objects(chosen)
    if copy_target.find(source, to, store, vaults.open_keys(chosen)) is None:
        copy_target.begin(source, store)
        events.emit("copy.begun", vault=source.name, to=to)
    with vaults.open_vault(settings, to, events) as target, ExitStack() as stack:
        # Again: of two hosts that begin at once, one was quicker.
        copy_target.find(source, to, target.store, target.sealer)
        stack.enter_context(state.naming_state(target.state))
        stack.enter_context(_alone(target))
        stack.enter_context(runs.counting_requests(settings, source, events, verb="copy"))
        stack.enter_context(runs.counting_requests(settings, target, events, verb="copy"))
        if isinstance(target.store, MeteredStore) and target.store.traffic is not None:
            stack.enter_context(target.store.traffic.of_run(limits or Limits()))
        folder = target.state / _FOLDER
        state.make_private(folder)
        options = Options(
            folder, chosen.prune_grace, os.uname().nodename or "unknown", versions.tool()
        )
        done = copy(source, target, choice, options)
    if done.is_whole:
        copy_notes.succeeded(settings, to)
    else:
        reasons = [*done.problems, *(each.reason for each in done.left_out)]
        is_damaged = done.problems or any(each.is_damaged for each in done.left_out)
        copy_notes.failed(settings, to, reasons[0], None, retryable=not is_damaged)
    return done


def note_failure(settings: Settings, to: str, error: SnapVaultError) -> None:
    """Note that a copy failed, for the status, and for who tries it again."""
    copy_notes.failed(settings, to, str(error), error.hint, retryable=error.retryable)


def rehearse_copy(
    settings: Settings, source: Vault, to: str, choice: "Choice", events: Events
) -> "Copied":
    """Say what a copy would do now; nothing is written.

    Raises:
        ConfigError: the other vault is something else, or the settings do not fit.
        StoreError: a side could not be read.
    """
    from snapvault.engine.copy_plan import NOTHING, look_at_target
    from snapvault.engine.copying import rehearse

    _require_two(settings, source, to)
    chosen = settings.vaults[to]
    store, sealer = vaults.open_objects(chosen), vaults.open_keys(chosen)
    with runs.counting_requests(settings, source, events, verb="copy"):
        if copy_target.find(source, to, store, sealer) is None:
            return rehearse(source, NOTHING, choice)
        with vaults.open_vault(settings, to, events) as target:
            return rehearse(source, look_at_target(target), choice)


def _require_two(settings: Settings, source: Vault, to: str) -> None:
    if to == source.name:
        raise ConfigError(
            f'vault "{to}" cannot be copied to itself',
            hint="Name another vault of the settings, with a store of its own.",
        )
    one, other = settings.vaults[source.name], settings.vaults[to]
    if (one.store, one.endpoint_url) == (other.store, other.endpoint_url):
        raise ConfigError(
            f'vaults "{source.name}" and "{to}" have the same store in the settings',
            hint=f'Give "{to}" a store of its own.',
        )


@contextmanager
def _alone(target: Vault) -> Iterator[None]:
    """Be the only copy to a vault on this host: two would send everything twice."""
    lock = SourceLock(target.state / "copy.lock", source=target.name)
    try:
        lock.__enter__()
    except LockHeldError as error:
        raise LockHeldError(
            f'another copy to vault "{target.name}" is at work on this host', hint=error.hint
        ) from error
    try:
        yield
    finally:
        lock.__exit__(None, None, None)
