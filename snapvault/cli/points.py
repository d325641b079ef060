# SPDX-License-Identifier: Apache-2.0
"""Finding sources and restore points in the vaults of the settings."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import typer

from snapvault import clock
from snapvault.cli.session import Session
from snapvault.cli.words import local
from snapvault.errors import ConfigError, NoRestorePointError, SnapVaultError

if TYPE_CHECKING:
    from datetime import datetime

    from snapvault.engine.vault import Inventory


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
        if any(held.point.source == source for held in inventory.held):
            holding.append(name)
    if len(holding) == 1:
        return holding[0]
    if holding:
        raise ConfigError(
            f'source "{source}" is in several vaults: {", ".join(holding)}',
            hint="Name one of them with --vault.",
        )
    if failed:
        raise failed[0]
    raise no_such_source(source, known, ", ".join(names))


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
