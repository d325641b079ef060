# SPDX-License-Identifier: Apache-2.0
"""The disks of a machine that `run` starts: from the vault, or from a folder where it was kept."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from snapvault.cli import disks, serving
from snapvault.cli.serve_places import Place
from snapvault.cli.session import Session
from snapvault.cli.words import local
from snapvault.errors import RestoreError, SnapVaultError
from snapvault.ports.machine import MachineDisk

if TYPE_CHECKING:
    from datetime import datetime

    from snapvault.adapters.machines.kept import KeptMachine, Origin
    from snapvault.engine.vault import Held


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody typed: an id or a source, at a time; some of its disks, or all."""

    point: str
    moment: "datetime | None"
    vault: str | None
    streams: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Attached:
    """What a machine is started from; `volumes` of the vault are needed, None: not any more."""

    origin: "Origin"
    disks: tuple[MachineDisk, ...]
    volumes: int | None


def attach(
    stack: ExitStack,
    run: Session,
    wanted: Wanted,
    *,
    kept: "KeptMachine | None",
    folder: Path,
    sockets: Path,
    limit: int,
) -> Attached:
    """Find the restore point, and serve its disks, from a cache in `folder`, if they are needed.

    Raises:
        RestoreError: the folder has a machine of another restore point, or other disks of it.
    """
    before = kept.origin if kept else None
    if kept is not None and before is not None and _is_meant(wanted, before):
        _require_same_disks(kept, before, wanted.streams)
        run.console.subject = before.source
        if kept.is_independent():
            return Attached(before, _kept_disks(kept, before), None)
        vault = before.vault if before.vault in run.settings.vaults else None
        try:
            name, held = disks.find(run, wanted.vault or vault, before.point, None)
        except SnapVaultError as error:
            error.add_note(
                f'the machine in folder "{kept.folder}" still needs the vault: not all of it was'
                " fetched"
            )
            raise
    else:
        name, held = disks.find(run, wanted.vault, wanted.point, wanted.moment)
    if kept is not None and before is not None:
        _require_same_point(kept, before, held)
        _require_same_disks(kept, before, wanted.streams)
    origin = before or _origin(name, held, wanted.streams)
    run.console.subject = origin.source
    chosen = disks.disks_of(held, origin.disks)
    served, place = serving.serve(
        stack, run, name, held, chosen, folder=folder, limit=limit, place=Place()
    )
    if kept is not None:
        if before is None:
            kept.begin(origin)
        return Attached(origin, _kept_disks(kept, origin, place), served.cache.volumes)
    # Overlays that may become large belong below state_dir, wherever the sockets are.
    overlays = None if sockets == folder else folder
    found = tuple(
        MachineDisk(disk, place.uri(disk), overlay=overlays and overlays / f"{disk}.qcow2")
        for disk in origin.disks
    )
    return Attached(origin, found, served.cache.volumes)


def _origin(vault: str, held: "Held", streams: tuple[str, ...]) -> "Origin":
    from snapvault.adapters.machines.kept import Origin

    point = held.point
    chosen = tuple(dict.fromkeys(streams)) or tuple(
        stream.name for stream in disks.disks_of(held, ())
    )
    return Origin(vault, point.source, point.point, point.taken_at, chosen)


def _kept_disks(
    kept: "KeptMachine", origin: "Origin", place: Place | None = None
) -> tuple[MachineDisk, ...]:
    return tuple(
        MachineDisk(disk, place.uri(disk) if place else "", overlay=kept.overlay(disk))
        for disk in origin.disks
    )


def _is_meant(wanted: Wanted, origin: "Origin") -> bool:
    """Tell whether a kept machine is what was asked for, without a look into the vault.

    The name of a source means the machine that is there: a newer point may have come since.
    """
    if wanted.moment is not None:
        return False
    return wanted.point == origin.source or origin.point.startswith(wanted.point.lower())


def _require_same_point(kept: "KeptMachine", origin: "Origin", held: "Held") -> None:
    if held.point.point != origin.point:
        raise RestoreError(
            f'folder "{kept.folder}" has a machine of another restore point: {origin.point} of'
            f' source "{origin.source}", taken at {local(origin.taken_at)}',
            hint=f'Go on with it by "snapvault run {origin.point} --keep {kept.folder}", or name'
            " another folder.",
        )


def _require_same_disks(kept: "KeptMachine", origin: "Origin", streams: tuple[str, ...]) -> None:
    if streams and tuple(dict.fromkeys(streams)) != origin.disks:
        raise RestoreError(
            f'the machine in folder "{kept.folder}" has other disks: {", ".join(origin.disks)}',
            hint="Leave out --stream, or name another folder.",
        )
