# SPDX-License-Identifier: Apache-2.0
"""Keys of a vault: what each can open, and the vault brought in line with the settings."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from snapvault.engine.vault import Held, Vault
from snapvault.errors import KeyMissingError
from snapvault.model.notes import KeyChange
from snapvault.model.settings import Settings, VaultSettings
from snapvault.wiring import vaults, versions

if TYPE_CHECKING:
    from snapvault.engine.readable import Share
    from snapvault.engine.rekey import Plan


def apply_keys(settings: Settings, vault: Vault, work: "Plan") -> KeyChange | None:
    """Bring a vault in line, as planned. Whatever trusted or recovery key is here signs it.

    Raises:
        KeyMissingError: no key here may sign, or none opens what is to be sealed anew.
        SealError, StoreError: it could not be done; running it again goes on.
    """
    from snapvault.engine import rekey

    try:
        signing = vaults.open_report_keys(settings.vaults[vault.name], vault.sealer)
    except KeyMissingError as error:
        raise KeyMissingError(
            "no key that may sign a change of keys is in this GnuPG home",
            hint="Run it on the host, with its own secret key, or with a recovery key that can "
            "sign.",
        ) from error
    host = os.uname().nodename or "unknown"
    return rekey.apply(vault, work, signing.sign, host=host, tool=versions.tool())


def readable_shares(settings: Settings, vault: Vault, points: Iterable[Held]) -> "list[Share]":
    """Return what each key can open of some points.

    Raises: as `readable.shares`.
    """
    from snapvault.engine.readable import shares

    return shares(vault, points, vaults.open_addressees(settings.vaults[vault.name]))


def names_of(settings: VaultSettings, vault: Vault, fingerprints: Iterable[str]) -> dict[str, str]:
    """Return the user ids of some keys, and of all that the settings name, as far as known here."""
    from snapvault.adapters.sealers.facts import read_facts

    sealer = vault.sealer
    wanted = {*fingerprints, *sealer.recipients, *sealer.trusted}
    found = read_facts(vaults.gnupg_home(settings), wanted)
    return {key: facts.user_id for key, facts in found.items() if facts.user_id}
