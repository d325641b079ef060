# SPDX-License-Identifier: Apache-2.0
"""The disks of a restore point, read at random: what `serve`, `files`, `mount` and `run` share."""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapvault.cli import points
from snapvault.cli.session import Session
from snapvault.errors import (
    IntegrityError,
    KeyMissingError,
    NoRestorePointError,
    RestoreError,
    SnapVaultError,
)
from snapvault.units import format_count, format_size, parse_size

if TYPE_CHECKING:
    from datetime import datetime

    from snapvault.engine.random_access import OpenPoint
    from snapvault.engine.vault import Held, Inventory, Vault
    from snapvault.model.point import StreamRecord

_ID = re.compile(r"[0-9A-Fa-f]+")  # all of one, or its beginning

AtOption = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME",
        help="Of a source, the newest restore point taken at or before this time: 2026-11-20,"
        ' "2026-11-20 03:00", yesterday, "3 days ago", 2026-11-20T03:00:00Z.',
        show_default=False,
    ),
]


def size_of(text: str) -> int:
    """Return the bytes that --cache names.

    Raises:
        BadParameter: it is no size.
    """
    try:
        size = parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--cache") from error
    if size <= 0:
        raise typer.BadParameter("a cache has some room", param_hint="--cache")
    return size


def find(
    run: Session, vault: str | None, wanted: str, moment: "datetime | None"
) -> "tuple[str, Held]":
    """Return the restore point that is meant, and the name of its vault."""
    from snapvault.model import selection

    inventories = _inventories(run, vault)
    holding = [name for name, each in inventories.items() if each.of(wanted)]
    if holding:
        name = holding[0] if len(holding) == 1 else points.find_vault(run, vault, wanted)
        inventory = inventories[name]
        if moment is None and inventory.problems:
            raise IntegrityError(
                f'cannot tell which restore point of source "{wanted}" is the newest: '
                f"{inventory.problems[0]}",
                hint=f'Look at "snapvault list {wanted}", then name a point, or a time with --at.',
            )
        held = inventory.of(wanted)
        there = [each.point for each in held]
        chosen = (
            selection.newest(there, wanted)
            if moment is None
            else selection.at(there, wanted, moment)
        )
    else:
        if moment is not None or not _ID.fullmatch(wanted):
            known = {each: None for inv in inventories.values() for each in inv.sources()}
            raise points.no_such_source(wanted, known, ", ".join(inventories))
        everything = points.without_copies(
            (name, each)
            for name, inventory in inventories.items()
            for each in inventory.held
            if not each.missing
        )
        chosen = _by_id([each.point for _, each in everything], wanted)
        name, _ = next(each for each in everything if each[1].point is chosen)
        inventory = inventories[name]
    points.warn_of_problems(run, inventory)
    return name, next(each for each in inventory.held if each.point is chosen)


def _inventories(run: Session, vault: str | None) -> "dict[str, Inventory]":
    found: dict[str, Inventory] = {}
    failed: dict[str, SnapVaultError] = {}
    for name in run.vault_names(vault):
        try:
            found[name] = points.inventory_of(run, name)
        except SnapVaultError as error:
            failed[name] = error
    if not found and len(failed) == 1:
        raise next(iter(failed.values()))  # told once
    for name, failure in failed.items():
        run.console.warning(f'cannot look into vault "{name}": {failure}')
    if not found:
        raise next(iter(failed.values()))
    return found


def _by_id(there: "Sequence[Any]", wanted: str) -> Any:
    from snapvault.model import selection

    try:
        return selection.by_id(there, wanted.lower())
    except NoRestorePointError as error:
        sources = ", ".join(sorted({each.source for each in there}))
        more = f" Or name a source: {sources}." if sources else ""
        raise NoRestorePointError(str(error), hint=f"{error.hint or ''}{more}".strip()) from error


def disks_of(held: "Held", wanted: Sequence[str]) -> "tuple[StreamRecord, ...]":
    """Return the streams to serve: all disks, or those that were named."""
    disks = {stream.name: stream for stream in held.point.streams if stream.engine == "blocks"}
    about = f'source "{held.point.source}" at restore point {held.point.point}'
    if not disks:
        raise RestoreError(
            f"{about} has no disk, and only disks can be read at random",
            hint='Bring its streams back with "snapvault restore".',
        )
    for name in wanted:
        if name not in disks:
            raise RestoreError(
                f'{about} has no disk "{name}"', hint=f"Its disks are: {', '.join(disks)}."
            )
    return tuple(stream for name, stream in disks.items() if not wanted or name in wanted)


def open_disks(
    vault: "Vault", held: "Held", streams: "tuple[StreamRecord, ...]", folder: Path, limit: int
) -> "AbstractContextManager[OpenPoint]":
    """Open disks of a restore point for reading at random; as the engine's `open_point`."""
    from snapvault.engine.contents import look_up
    from snapvault.engine.random_access import open_point

    return open_point(vault, look_up(vault, held.point, streams), folder=folder, limit=limit)


def prove(vault: "Vault", served: "OpenPoint") -> None:
    """Read one block, so that a key that is not here is told now, and not to a guest."""
    for disk in served.disks:
        if disk.first_data is None:
            continue
        try:
            disk.read(disk.first_data, 1)
        except KeyMissingError as error:
            readers = ", ".join(vault.sealer.recipients)
            raise KeyMissingError(
                f'cannot open the data of vault "{vault.name}" on this machine: {error}',
                hint="That is how it should be on a backup host. Do this on a machine whose"
                f" gnupg_home has the secret half of a recovery key: {readers}.",
            ) from error
        except IntegrityError:
            pass  # it was told, and the other blocks may be what somebody needs
        return


def say_what_was_fetched(run: Session, served: "OpenPoint") -> None:
    """Say how much of the vault was fetched to serve what was read."""
    cache = served.cache
    fetched, size = cache.fetched, cache.fetched_bytes
    run.console.emit("point.fetched", volumes=fetched, of=cache.volumes, size_bytes=size)
    run.console.note(
        f"fetched {format_size(size)} of {fetched:,} of {format_count(cache.volumes, 'volume')}"
    )
