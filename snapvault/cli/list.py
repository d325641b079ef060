# SPDX-License-Identifier: Apache-2.0
"""`snapvault list`: the restore points."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapvault.cli import points
from snapvault.cli.failures import Outcomes
from snapvault.cli.session import Session, session
from snapvault.cli.words import local, point_document, table, told_holds
from snapvault.errors import SnapVaultError
from snapvault.units import format_size

if TYPE_CHECKING:
    from snapvault.engine.vault import Held
    from snapvault.model.notes import Hold

VaultOption = Annotated[
    str | None,
    typer.Option("--vault", metavar="NAME", help="Look into this vault only.", show_default=False),
]


def command(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE", help="Only the restore points of this source.", show_default=False
        ),
    ] = None,
    vault: VaultOption = None,
) -> int:
    """List restore points, oldest first within each source.

    SIZE is what a restore brings back, STORED what the point added to the vault. Only points
    whose manifest is signed by a trusted key are listed; what is wrong with others is
    said on stderr. A column HELD shows which points are held, and why. To prove that the stored
    bytes are intact, use "snapvault verify".

    Examples:
      snapvault list
      snapvault list web01
      snapvault list --json
    """
    run = session(context)
    holds: dict[str, tuple[Hold, ...]] = {}
    found, outcomes, is_damaged = _find(run, source, vault, holds)
    if source is not None and not found and not outcomes.errors and not is_damaged:
        names = run.vault_names(vault)
        known = {each: None for name in names for each in points.inventory_of(run, name).sources()}
        raise points.no_such_source(source, known, ", ".join(names))
    if found or outcomes.done:
        _report(run, found, holds)
    return outcomes.status


def _find(
    run: Session,
    source: str | None,
    vault: str | None,
    holds: "dict[str, tuple[Hold, ...]]",
) -> "tuple[list[tuple[str, Held]], Outcomes, bool]":
    """Return points with their vaults, how it went, and whether there are problems.

    `holds` takes what holds them.
    """
    from snapvault.engine import vault as vaults
    from snapvault.engine.holding import holds_of

    found: list[tuple[str, Held]] = []
    outcomes = Outcomes()
    is_damaged = False
    for name in run.vault_names(vault):
        try:
            with run.open(name) as opened:
                inventory = vaults.sync(opened, source)
                holds.update(holds_of(opened))
        except SnapVaultError as error:
            outcomes.fail(error)
            continue
        outcomes.done += 1
        is_damaged |= bool(inventory.problems)
        points.warn_of_problems(run, inventory)
        found += [(name, held) for held in inventory.held if not held.missing]
    return found, outcomes, is_damaged


def _report(
    run: Session, found: "list[tuple[str, Held]]", holds: "dict[str, tuple[Hold, ...]]"
) -> None:
    documents: list[dict[str, Any]] = [
        point_document(name, held, holds.get(held.point.point, ())) for name, held in found
    ]
    if not found and not run.json:
        run.console.note("there are no restore points yet")
        return
    several = len(run.settings.vaults) > 1
    is_any_held = any(held.point.point in holds for _, held in found)
    header = ["POINT", "SOURCE", "TAKEN", "SIZE", "STORED", "STREAMS"]
    rows = [
        [
            held.point.point,
            held.point.source,
            local(held.point.taken_at),
            format_size(held.point.size),
            format_size(held.stored_bytes),
            ", ".join(stream.name for stream in held.point.streams),
            *([name] if several else []),
            *([told_holds(holds.get(held.point.point, ()))] if is_any_held else []),
        ]
        for name, held in found
    ]
    if several:
        header.append("VAULT")
    if is_any_held:
        header.append("HELD")
    run.report(documents, table(header, rows, right="SIZE STORED"))
