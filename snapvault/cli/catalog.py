# SPDX-License-Identifier: Apache-2.0
"""`snapvault catalog`: this host's index of a vault."""

from typing import Annotated

import typer

from snapvault.cli import points
from snapvault.cli.session import session
from snapvault.units import format_count


def rebuild(
    context: typer.Context,
    vault: Annotated[
        str | None,
        typer.Argument(
            metavar="VAULT", help="Only this vault's catalog; left out: all.", show_default=False
        ),
    ] = None,
) -> None:
    """Forget the catalog and read it from the vault again.

    Needs no private key but this host's own public one, and loses nothing: every manifest
    is fetched and its signature is checked. It also forgets points that were once seen and are
    gone from the vault, and so the warnings about them.

    Example:
      snapvault catalog rebuild
    """
    from snapvault.wiring import vaults

    run = session(context)
    documents = []
    lines = []
    for name in run.vault_names(vault):
        with run.open(name) as opened:
            inventory = vaults.rebuild_catalog(opened)
        points.warn_of_problems(run, inventory)
        sources = inventory.sources()
        documents.append(
            {
                "vault": name,
                "points": len(inventory.held),
                "sources": list(sources),
                "problems": [str(problem) for problem in inventory.problems],
            }
        )
        lines.append(
            f'rebuilt the catalog of vault "{name}": '
            f"{format_count(len(inventory.held), 'restore point')} of "
            f"{format_count(len(sources), 'source')}"
        )
    run.report(documents, lines)
