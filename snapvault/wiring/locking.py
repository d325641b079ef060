# SPDX-License-Identifier: Apache-2.0
"""Locks of a vault, renewed by the policies of this host after a backup or a prune."""

from typing import TYPE_CHECKING

from snapvault.engine import troubles
from snapvault.engine.vault import Vault
from snapvault.errors import SnapVaultError
from snapvault.model.settings import Settings

if TYPE_CHECKING:
    from snapvault.engine.locking import Renewed


def renew_locks(settings: Settings, vault: Vault) -> "Renewed | None":
    """Renew the locks of a vault if that is due; that it fails fails nothing, and alarms.

    What lies hidden in the vault is seen at the same time, and alarms too.
    """
    if vault.lock is None:
        return None
    from snapvault.config.policies import read_policies
    from snapvault.engine import locking
    from snapvault.wiring.pruning import rules_of

    try:
        policies, _ = read_policies(settings)
        done = locking.renew(vault, rules_of(policies, vault.name))
    except SnapVaultError as error:
        told = f"locks could not be renewed: {error}"
        vault.events.warn("locks.failed", told)
        troubles.note(vault.state, troubles.LOCKS, [told])
        return None
    if done is not None:
        hidden = [
            f'object "{name}" was removed or replaced, and its right version lies underneath'
            for name in done.hidden
        ]
        if hidden:
            vault.events.warn("vault.hidden", hidden[0], objects=len(hidden))
        troubles.note(vault.state, troubles.LOCKS, [])
        troubles.note(vault.state, troubles.UNDERNEATH, hidden)
    return done
