# SPDX-License-Identifier: Apache-2.0
"""`snapvault serve`: the disks of a restore point as they lie in the vault, over NBD."""

import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapvault.cli import points, serve_places
from snapvault.cli.list import VaultOption
from snapvault.cli.serve_places import Place
from snapvault.cli.session import Session, session
from snapvault.cli.words import local, point_document
from snapvault.errors import (
    IntegrityError,
    KeyMissingError,
    NoRestorePointError,
    RestoreError,
    SnapVaultError,
)
from snapvault.units import format_count, format_size, parse_size

if TYPE_CHECKING:
    import socket
    from datetime import datetime

    from snapvault.adapters.nbd_server import NbdServer
    from snapvault.engine.random_access import OpenPoint
    from snapvault.engine.vault import Held, Inventory, Vault
    from snapvault.model.point import StreamRecord

_FOLDER = "serve-"


def command(
    context: typer.Context,
    point: Annotated[
        str,
        typer.Argument(
            metavar="POINT",
            help='The id of a restore point, or the beginning of it, as "snapvault list" shows it;'
            " or a source, which means its newest one.",
        ),
    ],
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="TIME",
            help="Of a source, the newest point taken at or before this time: 2026-11-20,"
            ' "2026-11-20 03:00", yesterday, "3 days ago", 2026-11-20T03:00:00Z.',
            show_default=False,
        ),
    ] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(
            "--stream",
            metavar="NAME",
            help="Serve only this disk; can be given several times.",
            show_default=False,
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="ADDRESS",
            help="unix:PATH for a socket that only this user can open, or 127.0.0.1:PORT, which all"
            " users of this machine can read; port 0 is a free one. Left out: a socket in a private"
            " folder.",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        str,
        typer.Option(
            "--cache",
            metavar="SIZE",
            help="Keep this much of what was fetched, decrypted, below state_dir.",
        ),
    ] = "2GiB",
    vault: VaultOption = None,
) -> None:
    """Serve the disks of a restore point over NBD, read-only, without restoring them first.

    A machine can be started from its backup within seconds, or one file fetched out of it: only
    the volumes that are read from are fetched, once as long as the cache has room for them.
    Each disk is an export named like its stream; a single one is also the default export. Every
    block is proven to be what was backed up before it is given to a client. What is damaged or
    cannot be fetched is an I/O error there, a warning here, and tried again when it is read again.

    The secret half of a recovery key must be on this machine. The cache holds data of the backup
    in clear, in files below state_dir that have no name and are gone when this ends, however it
    ends; it must take at least one volume. NBD itself has no password: whoever can connect
    reads everything. So serving ends at this machine: use ssh to reach it from another.

    It runs until it is told to end (Ctrl-C, SIGTERM). What is written to a machine that runs
    with snapshot=on goes to a temporary file of QEMU and is gone when QEMU ends.

    Examples:
      snapvault serve web01
      snapvault serve web01 --at "2026-11-20 03:00" --stream root --cache 8GiB
      snapvault serve 3f2a --listen unix:/run/web01.nbd
    """
    from snapvault.adapters.own_folder import own_folder

    run = session(context)
    moment = points.moment_of(at)
    place = serve_places.parse(listen)
    limit = _size(cache)
    name, found = _find(run, vault, point, moment)
    with ExitStack() as stack:
        opened = stack.enter_context(run.open(name))
        held, streams = found, _disks(found, stream or [])
        run.console.subject = held.point.source
        folder = stack.enter_context(own_folder(run.settings.state_dir, _FOLDER))
        served = stack.enter_context(_open(opened, held, streams, folder, limit))
        _prove(opened, served)
        listener, place = serve_places.listen(stack, place, folder)
        server: NbdServer = stack.enter_context(_server(listener, served, run))
        # ORDER: clients first, then what they wait for: none is told of an error that is none.
        stack.callback(served.cache.close)
        stack.callback(server.hang_up)
        stack.callback(_say_what_was_fetched, run, served)
        _report(run, name, held, served, place)
        threading.Event().wait()


def _size(text: str) -> int:
    try:
        size = parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--cache") from error
    if size <= 0:
        raise typer.BadParameter("a cache has some room", param_hint="--cache")
    return size


def _find(
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
        if moment is not None:
            known = {each: None for inv in inventories.values() for each in inv.sources()}
            raise points.no_such_source(wanted, known, ", ".join(inventories))
        everything = [
            (name, each)
            for name, inventory in inventories.items()
            for each in inventory.held
            if not each.missing
        ]
        chosen = _by_id([each.point for _, each in everything], wanted)
        name, _ = next(each for each in everything if each[1].point is chosen)
        inventory = inventories[name]
    points.warn_of_problems(run, inventory)
    return name, next(each for each in inventory.held if each.point is chosen)


def _inventories(run: Session, vault: str | None) -> "dict[str, Inventory]":
    found: dict[str, Inventory] = {}
    failed: list[SnapVaultError] = []
    for name in run.vault_names(vault):
        try:
            found[name] = points.inventory_of(run, name)
        except SnapVaultError as error:
            failed.append(error)
            run.console.warning(f'cannot look into vault "{name}": {error}')
    if not found:
        raise failed[0]
    return found


def _by_id(there: "Sequence[Any]", wanted: str) -> Any:
    from snapvault.model import selection

    try:
        return selection.by_id(there, wanted.lower())
    except NoRestorePointError as error:
        sources = ", ".join(sorted({each.source for each in there}))
        more = f" Or name a source: {sources}." if sources else ""
        raise NoRestorePointError(str(error), hint=f"{error.hint or ''}{more}".strip()) from error


def _disks(held: "Held", wanted: Sequence[str]) -> "tuple[StreamRecord, ...]":
    """Return the streams to serve: all disks, or those that were named."""
    disks = {stream.name: stream for stream in held.point.streams if stream.engine == "blocks"}
    about = f'source "{held.point.source}" at restore point {held.point.point}'
    if not disks:
        raise RestoreError(
            f"{about} has no disk, and only disks can be served",
            hint='Bring its streams back with "snapvault restore".',
        )
    for name in wanted:
        if name not in disks:
            raise RestoreError(
                f'{about} has no disk "{name}"', hint=f"Its disks are: {', '.join(disks)}."
            )
    return tuple(stream for name, stream in disks.items() if not wanted or name in wanted)


def _open(
    vault: "Vault", held: "Held", streams: "tuple[StreamRecord, ...]", folder: Path, limit: int
) -> Any:
    from snapvault.engine.contents import look_up
    from snapvault.engine.random_access import open_point

    return open_point(vault, look_up(vault, held.point, streams), folder=folder, limit=limit)


def _prove(vault: "Vault", served: "OpenPoint") -> None:
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
                hint="That is how it should be on a backup host. Serve on a machine whose"
                f" gnupg_home has the secret half of a recovery key: {readers}.",
            ) from error
        except IntegrityError:
            pass  # it was told, and the other blocks may be what somebody needs
        return


def _server(listener: "socket.socket", served: "OpenPoint", run: Session) -> "NbdServer":
    from snapvault.adapters.nbd_server import NbdServer

    return NbdServer(listener, served.disks, run.console)


def _report(run: Session, vault: str, held: "Held", served: "OpenPoint", place: Place) -> None:
    document = {
        **point_document(vault, held),
        "socket": str(place.path) if place.path else None,
        "address": None if place.path else place.address,
        "volumes": served.cache.volumes,
        "exports": [
            {
                "name": disk.name,
                "size_bytes": disk.size,
                "uri": place.uri(disk.name),
                "commands": place.commands(disk.name),
            }
            for disk in served.disks
        ],
    }
    where = f'socket "{place.path}"' if place.path else place.address
    about = f'serving source "{held.point.source}" as of {local(held.point.taken_at)}'
    lines = [f"{about} (restore point {held.point.point}) at {where}; Ctrl-C ends it"]
    for disk in served.disks:
        lines += ["", f'disk "{disk.name}", {format_size(disk.size)}: {place.uri(disk.name)}']
        lines += [f"  {each}" for each in place.commands(disk.name).values()]
    run.report(document, lines)
    sys.stdout.flush()


def _say_what_was_fetched(run: Session, served: "OpenPoint") -> None:
    cache = served.cache
    run.console.note(
        f"fetched {cache.fetched:,} of {format_count(cache.volumes, 'volume')}, "
        f"{format_size(cache.fetched_bytes)} of data"
    )
