# SPDX-License-Identifier: Apache-2.0
"""`snapvault keys`: whose keys open a vault, and the vault brought in line with the settings."""

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapvault.cli.keys_words import Names, applied_lines, document_of, lines_of
from snapvault.cli.session import Session, session
from snapvault.errors import KeyMissingError

if TYPE_CHECKING:
    from snapvault.engine.readable import Share
    from snapvault.engine.rekey import Plan
    from snapvault.engine.vault import Inventory, Vault

_END_OF_FINGERPRINT = re.compile(r"[0-9A-F]{8,64}")

VaultArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="VAULT",
        help="The vault's name in the settings; left out: all.",
        show_default=False,
    ),
]


def list_keys(context: typer.Context, vault: VaultArgument = None) -> None:
    """List the keys of a vault, and what each can open of the newest restore points.

    It is counted over the maps of the newest point of each source, and read from the objects
    themselves, so it tells also of keys that were recipients once. Objects are sealed to
    the keys of their time and stay so: a key that came later opens what was stored since.

    Examples:
      snapvault keys list
      snapvault keys list offsite --json
    """
    run = session(context)
    documents: list[dict[str, Any]] = []
    for name in run.vault_names(vault):
        with run.open(name) as opened:
            document, lines = _listed(run, opened)
        documents.append(document)
        if not run.json:
            run.report(None, lines)
    if run.json:
        run.report(documents, ())


def apply(
    context: typer.Context,
    vault: Annotated[
        str | None,
        typer.Argument(
            metavar="VAULT",
            help="The vault's name in the settings; not needed where there is only one.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what there is to do, and do nothing.")
    ] = False,
    replaces: Annotated[
        str | None,
        typer.Option(
            "--replaces",
            metavar="FINGERPRINT",
            help="The host whose place the settings' signer takes: its fingerprint, or the end of"
            " it. Needed only where several hosts share the vault.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Bring a vault in line with the recipients and the signer that the settings name.

    Edit "recipients" or "signer" in the settings first; this does what is left to do, and running
    it again is safe. The key for block hashes is sealed to the recipients of today, and the next
    backup of each source seals its maps and signatures to them. A new signer, on a new host
    or with a new key, is handed what it needs to go on incrementally: for that it must run where
    the former host's secret key is, or a recovery key.

    What is stored is not sealed again: this host cannot read it. "snapvault keys list" says
    what each key can open, and "snapvault backup --full" stores everything again.

    Examples:
      snapvault keys apply --dry-run
      snapvault keys apply offsite --replaces 3AA5C34371567BD2
    """
    from snapvault.engine import rekey
    from snapvault.engine.vault import sync
    from snapvault.wiring import keys

    run = session(context)
    wanted = _fingerprint(replaces)
    settings = run.vault(vault)
    with run.open(settings.name) as opened:
        inventory = sync(opened)
        _tell_problems(run, inventory)
        work = rekey.plan(opened, inventory, wanted)
        done = not dry_run and not work.is_done
        if done:
            keys.apply_keys(run.settings, opened, work)
        named = keys.names_of(settings, opened, _keys_of(opened, work))
    run.report(
        {
            "vault": settings.name,
            "in_line": work.is_done or done,
            "recipients": list(opened.sealer.recipients),
            "signer": opened.sealer.signer,
            "added": list(work.added),
            "removed": list(work.removed),
            "replaced": work.replaced,
            "handed_over": [held.point.point for held in work.heads],
            "public_keys": list(work.keys),
        },
        applied_lines(settings.name, opened.sealer, work, Names(named), is_rehearsal=dry_run),
    )


def _fingerprint(typed: str | None) -> str | None:
    if typed is None:
        return None
    digits = typed.upper().replace(" ", "").removeprefix("0X")
    if not _END_OF_FINGERPRINT.fullmatch(digits):
        raise typer.BadParameter(
            "expected a fingerprint, or its last 8 digits at least", param_hint="--replaces"
        )
    return digits


def _listed(run: Session, vault: "Vault") -> tuple[dict[str, Any], list[str]]:
    from snapvault.engine import key_changes, rekey
    from snapvault.engine.vault import sync
    from snapvault.wiring import keys

    inventory = sync(vault)
    _tell_problems(run, inventory)
    changes = key_changes.known_changes(vault)
    found: list[Share] | None = None
    newest = [inventory.of(source)[-1] for source in inventory.sources()]
    try:
        found = keys.readable_shares(run.settings, vault, newest)
    except KeyMissingError as error:
        run.console.warning(f"what each key can open is not known on this machine: {error}")
    behind = rekey.is_behind(vault, inventory)
    wanted = {key for share in found or () for key in share.keys}
    wanted |= {held.signer for held in inventory.held}
    named = Names(keys.names_of(run.settings.vaults[vault.name], vault, wanted))
    document = document_of(vault, inventory, changes, found, named, is_behind=behind)
    return document, lines_of(document)


def _tell_problems(run: Session, inventory: "Inventory") -> None:
    for problem in inventory.problems:
        run.console.warning(str(problem))


def _keys_of(vault: "Vault", work: "Plan") -> set[str]:
    found = {*vault.sealer.recipients, vault.sealer.signer, *work.removed, *work.keys}
    return found | ({work.replaced} if work.replaced else set())
