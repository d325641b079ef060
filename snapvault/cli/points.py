# SPDX-License-Identifier: Apache-2.0
"""Finding sources and restore points in the vaults of the settings."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from snapvault import clock
from snapvault.cli.session import Session
from snapvault.cli.words import local
from snapvault.errors import ConfigError, IntegrityError, NoRestorePointError, SnapVaultError

if TYPE_CHECKING:
    from datetime import datetime

    from snapvault.engine.vault import Held, Inventory

PointArgument = Annotated[
    str,
    typer.Argument(
        metavar="POINT",
        help='The id of a restore point, or the beginning of it, as "snapvault list" shows it;'
        " or a source, which means its newest one.",
    ),
]


def inventory_of(session: Session, vault: str, source: str | None = None) -> "Inventory":
    """Return what a vault holds (of one source, or all)."""
    from snapvault.engine import vault as vaults

    with session.open(vault) as opened:
        return vaults.sync(opened, source)


def warn_of_problems(session: Session, inventory: "Inventory") -> None:
    """Say what is wrong with a vault's manifests, and what it means for what is shown."""
    for problem in inventory.problems:
        session.console.warning(str(problem))


def find_vault(session: Session, wanted: str | None, source: str) -> str:
    """Return the vault that a source's restore points are in: the named or the only one, or look.

    Raises:
        ConfigError: there is no such vault, or several have the source and none was named.
        NoRestorePointError: no vault has it.
    """
    names = session.vault_names(wanted)
    if len(names) == 1:
        return names[0]
    holding: list[str] = []
    vaults: set[str] = set()
    known: dict[str, None] = {}
    failed: list[SnapVaultError] = []
    for name in names:
        try:
            inventory = inventory_of(session, name)
        except SnapVaultError as error:
            session.console.warning(f'cannot look into vault "{name}": {error}')
            failed.append(error)
            continue
        known.update(dict.fromkeys(inventory.sources()))
        found = [held.point for held in inventory.held if held.point.source == source]
        vaults.update(point.vault for point in found)
        if found:
            holding.append(name)
    if len(vaults) == 1:
        return holding[0]  # the others are copies of it, or it is itself one
    if holding:
        raise ConfigError(
            f'source "{source}" is in several vaults: {", ".join(holding)}',
            hint="Name one of them with --vault.",
        )
    if failed:
        raise failed[0]
    raise no_such_source(source, known, ", ".join(names))


def find_point(session: Session, wanted: str | None, named: str) -> "tuple[str, Held]":
    """Return the newest point of a source, or the one with an id, and the name of its vault.

    A source whose name reads like an id goes first. Says what is wrong with manifests.

    Raises:
        NoRestorePointError: neither is there; the nearest are named.
        ConfigError: several vaults have the source, and none was named.
        IntegrityError: one of the source's manifests is wrong: which is the newest is unknown.
    """
    from snapvault.model import selection

    inventories = _inventories(session, session.vault_names(wanted))
    holding = [name for name, inventory in inventories.items() if inventory.of(named)]
    if holding:
        name = holding[0] if len(holding) == 1 else find_vault(session, wanted, named)
        inventory = inventory_of(session, name, named)
        if inventory.problems:
            raise IntegrityError(
                f'cannot tell which restore point of source "{named}" is the newest: '
                f"{inventory.problems[0]}",
                hint=f'Look at "snapvault list {named}", then name a point.',
            )
        newest = selection.newest([held.point for held in inventory.of(named)], named)
        return name, next(held for held in inventory.held if held.point is newest)
    for inventory in inventories.values():
        warn_of_problems(session, inventory)
    there = [
        (name, held)
        for name, inventory in inventories.items()
        for held in inventory.held
        if not held.missing
    ]
    there = without_copies(there)
    try:
        chosen = selection.by_id([held.point for _, held in there], named.lower())
    except NoRestorePointError as error:
        sources = ", ".join(sorted({held.point.source for _, held in there}))
        more = f" Or name a source: {sources}." if sources else ""
        raise NoRestorePointError(str(error), hint=f"{error.hint or ''}{more}".strip()) from error
    return next(each for each in there if each[1].point is chosen)


def without_copies(there: "Iterable[tuple[str, Held]]") -> "list[tuple[str, Held]]":
    """Leave out points that a vault before has too: copies of a vault hold the same ones."""
    first: dict[str, tuple[str, Held]] = {}
    for name, held in there:
        first.setdefault(held.point.point, (name, held))
    return list(first.values())


def _inventories(session: Session, names: Iterable[str]) -> "dict[str, Inventory]":
    """Return what each vault holds; one that cannot be looked into is told, and left out.

    Raises:
        SnapVaultError: none of them can be looked into.
    """
    found: dict[str, Inventory] = {}
    failed: list[SnapVaultError] = []
    for name in names:
        try:
            found[name] = inventory_of(session, name)
        except SnapVaultError as error:
            failed.append(error)
            session.console.warning(f'cannot look into vault "{name}": {error}')
    if failed and not found:
        raise failed[0]
    return found


def require_source(session: Session, vault: str, inventory: "Inventory", source: str) -> None:
    """Refuse a source that a vault has nothing of; the nearest is named.

    Raises:
        NoRestorePointError: there is neither a point nor a trace of one.
    """
    if inventory.of(source) or inventory.problems:
        return
    raise no_such_source(source, inventory_of(session, vault).sources(), vault)


def no_such_source(source: str, known: Iterable[str], where: str) -> NoRestorePointError:
    """Return the error of a source that no vault has a point of."""
    from snapvault.config.problems import nearest_hint, quoted

    names = list(known)
    return NoRestorePointError(
        f"there is no restore point of source {quoted(source)} in vault {quoted(where)}",
        hint=nearest_hint(source, names, what="sources with restore points")
        or 'The vault has no restore point at all; "snapvault backup" makes one.',
    )


def each_vault(session: Session, wanted: str | None) -> Iterator[str]:
    """Yield the named vault, or all."""
    yield from session.vault_names(wanted)


def moment_of(at: str | None) -> "datetime | None":
    """Read what a person typed after --at; None if nothing was.

    Raises:
        typer.BadParameter: it is no moment, or lies in the future.
    """
    if at is None:
        return None
    from snapvault.config.zones import local_zone
    from snapvault.model.moments import parse_moment

    now = clock.now()
    try:
        moment = parse_moment(at, now=now, zone=local_zone())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--at") from error
    if moment > now:
        raise typer.BadParameter(
            f'"{at}" is in the future; it is {local(now)} now', param_hint="--at"
        )
    return moment
