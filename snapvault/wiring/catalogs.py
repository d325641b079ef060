# SPDX-License-Identifier: Apache-2.0
"""The local indexes of vaults, and what they tell when the vaults themselves are not asked."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from snapvault import clock
from snapvault.engine import troubles
from snapvault.engine.troubles import Troubles
from snapvault.errors import ConfigError
from snapvault.model.runs import PointSummary
from snapvault.model.settings import Settings
from snapvault.ports.events import Events

if TYPE_CHECKING:
    from snapvault.adapters.catalogs.known import KnownVaults
    from snapvault.adapters.catalogs.sqlite import SqliteCatalog
    from snapvault.adapters.catalogs.summaries import CatalogPoints
    from snapvault.engine.status import VaultPoints


PRUNED: Final = "pruned"
"""The file in a vault's state folder that says when this host pruned it last."""


@contextmanager
def open_catalog(state: Path, name: str, events: Events) -> "Iterator[SqliteCatalog]":
    """Open the catalog of a vault in its state folder; tell if it had to begin anew."""
    from snapvault.adapters.catalogs.sqlite import SqliteCatalog

    with closing(SqliteCatalog(state / "catalog.sqlite")) as catalog:
        if catalog.was_reset:
            events.warn(
                "catalog.reset",
                f'catalog of vault "{name}" was damaged and is rebuilt: {catalog.reset_reason}',
            )
        yield catalog


def known_vaults(settings: Settings) -> "KnownVaults":
    """Return the ids of the vaults that this host has opened."""
    from snapvault.adapters.catalogs.known import KnownVaults

    return KnownVaults(settings.state_dir / "vaults")


def known_points(settings: Settings, name: str) -> "VaultPoints":
    """Return what this host knows of a vault's restore points, without asking store or GnuPG.

    That is what was there when a command last opened the vault: nothing before the first time.
    """
    # A backup opens catalogs too, and asks for no status.
    from snapvault.engine.status import VaultPoints

    chosen = settings.vaults[name]
    vault = known_vaults(settings).find(chosen)
    if vault is None:
        return VaultPoints(chosen.store, (), is_known=False)
    reader = _points_of(settings.state_dir / vault / "catalog.sqlite", name)
    pruned = pruned_at(settings.state_dir / vault)
    wrong = troubles.read(settings.state_dir / vault)
    try:
        return VaultPoints(chosen.store, reader.read(), pruned_at=pruned, troubles=wrong)
    except ConfigError as error:
        return VaultPoints(
            chosen.store, reader.last, problem=str(error), pruned_at=pruned, troubles=wrong
        )


def known_troubles(settings: Settings) -> dict[str, Troubles]:
    """Return what was wrong with each vault when this host last saw it; without asking any."""
    found = {}
    for name, chosen in settings.vaults.items():
        vault = known_vaults(settings).find(chosen)
        if vault is not None:
            found[name] = troubles.read(settings.state_dir / vault)
    return found


def pruned_at(state: Path) -> datetime | None:
    """Return when this host pruned a vault last, from its state folder; None: nobody knows."""
    try:
        return clock.from_text((state / PRUNED).read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None


def point_summaries(settings: Settings, name: str) -> tuple[PointSummary, ...]:
    """Return the restore points of a vault that this host knows of, by source and time."""
    return known_points(settings, name).points


@cache
def _points_of(catalog: Path, name: str) -> "CatalogPoints":
    from snapvault.adapters.catalogs.summaries import CatalogPoints

    return CatalogPoints(catalog, name)
