# SPDX-License-Identifier: Apache-2.0
"""`snapvault serve`: the disks of a restore point as they lie in the vault, over NBD."""

import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from snapvault.cli import disks, points, serve_places, serving
from snapvault.cli.disks import AtOption
from snapvault.cli.list import VaultOption
from snapvault.cli.points import PointArgument
from snapvault.cli.serve_places import Place
from snapvault.cli.session import Session, session
from snapvault.cli.words import local, point_document
from snapvault.units import format_size

if TYPE_CHECKING:
    from snapvault.engine.random_access import OpenPoint
    from snapvault.engine.vault import Held

_FOLDER = "serve-"


def command(
    context: typer.Context,
    point: PointArgument,
    at: AtOption = None,
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
    what is read is fetched, once as long as the cache has room for them.
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
    limit = disks.size_of(cache)
    name, found = disks.find(run, vault, point, moment)
    with ExitStack() as stack:
        streams = disks.disks_of(found, stream or [])
        run.console.subject = found.point.source
        folder = stack.enter_context(own_folder(run.settings.state_dir, _FOLDER))
        served, place = serving.serve(
            stack, run, name, found, streams, folder=folder, limit=limit, place=place
        )
        _report(run, name, found, served, place)
        threading.Event().wait()


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
