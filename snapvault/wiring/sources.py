# SPDX-License-Identifier: Apache-2.0
"""The sources that policies describe."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from snapvault.engine.vault import read_record
from snapvault.errors import SnapVaultError
from snapvault.model.policy import Policy, SourceSpec
from snapvault.model.settings import Settings, VaultSettings
from snapvault.ports.events import Events
from snapvault.ports.source import Finding, Source
from snapvault.wiring import vaults

# Stands for the id of a vault that is not there yet; no vault has it.
_NO_VAULT: Final = "no-vault"


def source_of(
    spec: SourceSpec, *, policy: str, vault: str, vault_id: str, folder: Path, events: Events
) -> Source:
    """Return the source that a policy describes; nothing is opened yet.

    `policy` and `vault` are names; `folder` is this source's own, in the vault's state.
    """
    from snapvault.adapters.sources.opening import Around, open_source

    return open_source(Around(spec, policy, vault, vault_id, folder, events))


def check_source(
    settings: Settings, policy: Policy, spec: SourceSpec, events: Events
) -> Iterator[Finding]:
    """Look at everything that a backup of a source needs, without making one; changes nothing.

    Works without a vault too: what is wrong with that is not the source's.
    """
    vault_id = _vault_id(settings.vaults[policy.vault])
    source = source_of(
        spec,
        policy=policy.name,
        vault=policy.vault,
        vault_id=vault_id,
        folder=settings.state_dir / vault_id / "sources" / spec.name,
        events=events,
    )
    yield from source.check()


def _vault_id(settings: VaultSettings) -> str:
    with suppress(SnapVaultError):
        record = read_record(vaults.open_objects(settings))
        if record is not None:
            return record.vault
    return _NO_VAULT
