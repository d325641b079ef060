# SPDX-License-Identifier: Apache-2.0
"""What `snapvault doctor` finds of locks, and of what was removed or replaced underneath."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from snapvault.cli.findings import Finding, failed
from snapvault.cli.words import local
from snapvault.errors import IntegrityError, SnapVaultError, StoreError, StoreUnavailableError
from snapvault.model.locking import LockMode
from snapvault.units import format_duration

if TYPE_CHECKING:
    from snapvault.engine.vault import Vault
    from snapvault.model.settings import VaultSettings
    from snapvault.ports.versions import LockProof


def look_at_locks(settings: "VaultSettings") -> Iterator[Finding]:
    """Prove on a probe that the store locks; nothing where the settings do not ask for locks."""
    lock = settings.object_lock
    if lock is None:
        return
    from snapvault.wiring import vaults

    check = f"{settings.name}: object lock"
    try:
        proof = vaults.prove_lock(settings)
    except SnapVaultError as error:
        yield failed(check, error)
        return
    left = f"; {_left(proof)}" if proof.left else ""
    yield Finding(
        check,
        "ok",
        f"{lock.mode.value}, for {format_duration(lock.period.total_seconds())}: a probe could "
        f"be neither deleted nor its lock shortened{left}",
    )
    rights = f"{settings.name}: rights"
    if proof.may_bypass and lock.mode is LockMode.GOVERNANCE:
        yield Finding(
            rights,
            "warn",
            "these credentials may end locks early, so whoever takes this host can destroy the "
            "past",
            "Take s3:BypassGovernanceRetention from them: docs/immutability.md has the policies.",
        )
    elif proof.may_delete:
        yield Finding(
            rights, "ok", "these credentials may delete what is not locked, as prune has to"
        )
    else:
        yield Finding(rights, "ok", "these credentials cannot delete anything")


def look_underneath(vault: "Vault") -> Iterator[Finding]:
    """Look for manifests and notes that are hidden, though this host may never have seen them."""
    from snapvault.engine import uncovering

    try:
        hidden = uncovering.hidden_records(vault)
    except StoreUnavailableError:
        raise
    except StoreError:
        return  # a store without versions, or credentials that may not see them
    if hidden:
        more = f", and {len(hidden) - 1} more" if len(hidden) > 1 else ""
        yield Finding(
            f"{vault.name}: underneath",
            "fail",
            f'object "{hidden[0].name}" is {hidden[0].told}{more}',
            'Run "snapvault repair --dry-run" to see all of them.',
            IntegrityError.exit_status,
        )


def _left(proof: "LockProof") -> str:
    names = ", ".join(f'"{name}"' for name, _ in proof.left)
    until = max(moment for _, moment in proof.left)
    return (
        f"{names} could not be removed: locked until {local(until)} at the latest, and then the "
        "next doctor, or a lifecycle rule, removes it"
    )
