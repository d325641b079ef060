# SPDX-License-Identifier: Apache-2.0
"""What `snapvault repair` does to a vault, step by step."""

from snapvault.engine import underneath
from snapvault.engine.repair import Step
from snapvault.engine.vault import Vault, read_record
from snapvault.errors import IntegrityError
from snapvault.formats import names
from snapvault.formats import vault as vault_format
from snapvault.model.settings import Settings, VaultSettings
from snapvault.ports.versions import Version
from snapvault.wiring import vaults


def steps_for(settings: Settings, vault: Vault) -> tuple[Step, ...]:
    """Return the steps for a vault, in their order."""
    from snapvault.engine import mending, uncovering

    del settings, vault
    return (
        Step(uncovering.NAME, uncovering.uncover),
        Step(mending.KIT, mending.write_kit_again),
        Step(mending.DATA, mending.look_at_data),
    )


def uncover_record(settings: VaultSettings, *, is_rehearsal: bool) -> str | None:
    """Bring back `vault.json`, without which no vault can be opened; return how, if it was hidden.

    Raises:
        StoreError: the store could not be asked.
        IntegrityError: what lies underneath is no `vault.json`.
    """
    if read_record(vaults.open_objects(settings)) is not None:
        return None
    versions = vaults.open_underneath(settings)
    if versions is None:
        return None
    own = [each for each in versions.versions(names.VAULT) if each.name == names.VAULT]
    candidates = [each for each in own if not each.is_marker]

    def is_right(version: Version) -> bool:
        try:
            vault_format.decode(underneath.content_of(versions, version))
        except IntegrityError:
            return False
        return True

    one = underneath.choose(own, candidates, is_right, is_cheap=True)
    if one is None:
        return None
    return one.told if is_rehearsal else underneath.uncover(versions, one)
