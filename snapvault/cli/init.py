# SPDX-License-Identifier: Apache-2.0
"""`snapvault init`: create a vault, or join this host to it."""

from typing import TYPE_CHECKING, Annotated

import typer

from snapvault import clock
from snapvault.cli.session import Session, session

if TYPE_CHECKING:
    from snapvault.adapters.sealers.facts import KeyFacts
    from snapvault.model.settings import VaultSettings
    from snapvault.ports.sealer import Sealer


def command(
    context: typer.Context,
    vault: Annotated[
        str | None,
        typer.Argument(
            metavar="VAULT",
            help="The vault's name in the settings; not needed where there is only one.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Create the vault that the settings describe, or join this host to it.

    The bucket must exist; a folder is made. All keys are checked first. Where the vault was
    made by another host, this host is added to it, and nothing else changes.

    Examples:
      snapvault init
      snapvault init offsite
    """
    from snapvault.wiring import vaults

    run = session(context)
    settings = run.vault(vault)
    started = clock.now()
    record, traits = vaults.init(settings)
    sealer = vaults.open_keys(settings)
    facts = vaults.key_facts(settings, sealer)
    joined = record.created_at < started
    opening = [key for key in sealer.recipients if key in facts and facts[key].opens_here]
    document = {
        "vault": settings.name,
        "id": record.vault,
        "store": settings.store,
        "joined": joined,
        "create_only": traits.create_only,
        "recipients": list(sealer.recipients),
        "signer": sealer.signer,
        "recovery_keys_here": opening,
    }
    run.report(document, _lines(settings, record.vault, joined, traits.create_only, sealer, facts))
    for fingerprint in opening:
        _warn(run, fingerprint, facts, own=fingerprint == sealer.signer)


def _lines(
    settings: "VaultSettings",
    vault: str,
    joined: bool,
    create_only: bool,
    sealer: "Sealer",
    facts: "dict[str, KeyFacts]",
) -> list[str]:
    made = "joined this host to vault" if joined else "created vault"
    kept = (
        "the store refuses to replace objects; what is written stays as it is"
        if create_only
        else "the store lets objects be replaced; SnapVault looks before every put, so that it "
        "never replaces one itself, but the store does not stop others"
    )
    readers = [f"  can restore       {_key(each, facts)}" for each in sealer.recipients]
    return [
        f'{made} "{settings.name}" at {settings.store}',
        f"  vault id          {vault}",
        f"  create-only       {kept}",
        *readers,
        f"  signs here        {_key(sealer.signer, facts)}",
        "",
        "Keep these fingerprints on paper: on the day of the disaster they tell your keys apart.",
        "Keep the secret halves of the keys that can restore away from this host, in two places:",
        "without one of them nobody can read what is backed up.",
    ]


def _key(fingerprint: str, facts: "dict[str, KeyFacts]") -> str:
    found = facts.get(fingerprint)
    groups = " ".join(fingerprint[at : at + 4] for at in range(0, len(fingerprint), 4))
    return f"{groups}  {found.user_id}" if found else groups


def _warn(run: Session, fingerprint: str, facts: "dict[str, KeyFacts]", *, own: bool) -> None:
    if own:
        run.console.warning(
            f"THIS HOST'S OWN KEY {fingerprint} ({facts[fingerprint].user_id}) IS AMONG THE "
            "RECIPIENTS. Whoever takes this host can read all its backups. Name a recovery key "
            "there whose secret half is on a machine of its own, and begin a new vault with it."
        )
        return
    run.console.warning(
        f"THE SECRET KEY OF {fingerprint} ({facts[fingerprint].user_id}) IS ON THIS HOST. "
        "Whoever takes this host can read all its backups. Move it to a machine of its own, "
        f'then remove it here with "gpg --delete-secret-keys {fingerprint}".'
    )
