# SPDX-License-Identifier: Apache-2.0
"""Restoring disks to new logical volumes."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from snapvault.cli import restore_in_place, restore_machine, restore_new
from snapvault.cli.restored import Restored
from snapvault.cli.session import Session
from snapvault.cli.words import local
from snapvault.errors import ConfigError, RestoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from snapvault.adapters.targets.lvm import LvmRestore, LvmTarget
    from snapvault.adapters.targets.lvm_address import LvmPlace
    from snapvault.engine.vault import Held, Vault
    from snapvault.model.point import StreamRecord

_PREFIX = "lvm:"


def place_of(to: str, paths: "Sequence[str] | None") -> "LvmPlace | None":
    """Return the place that an address names; None if it is none, but a path."""
    if not to.startswith(_PREFIX):
        return None
    from snapvault.wiring import restoring

    if paths:
        raise typer.BadParameter("paths are restored into a folder, not to LVM", param_hint="--to")
    try:
        return restoring.lvm_place(to)
    except ConfigError as error:
        text = f"{error}. {error.hint}" if error.hint else str(error)
        raise typer.BadParameter(text, param_hint="--to") from error


def restore(
    run: Session,
    vault: "Vault",
    held: "Held",
    streams: "tuple[StreamRecord, ...]",
    place: "LvmPlace",
    *,
    named: bool,
    in_place: bool,
    force: bool,
    definition: Path | None,
) -> Restored:
    """Restore disks, each to a new volume; with `force` or `in_place` over those that are there.

    `definition` is the file for the machine's definition, if it is wanted.

    Raises:
        RestoreError: a stream is no disk, a name is taken, there is no room, or LVM refused.
    """
    from snapvault.wiring import restoring

    saved = restore_machine.definition(held) if definition is not None else None
    streams = restore_machine.disks(run, held, streams, named=named, quiet=saved is not None)
    restore_machine.require_disks(held, streams, become="a logical volume")
    if place.name is not None and len(streams) > 1:
        raise RestoreError(
            f'source "{held.point.source}" has {len(streams)} disks, and '
            f'"{place.group}/{place.name}" is one volume',
            hint=f"Name the group alone, lvm:{place.group}, or choose a disk with --stream: "
            + ", ".join(stream.name for stream in streams)
            + ".",
        )
    if definition is not None:
        _require_place(definition, force=force)
    group = restoring.lvm_restore(place)
    names = [place.name_of(held.point.source, stream.name) for stream in streams]
    paths = [group.path_of(name) for name in names]
    if in_place:
        return restore_in_place.restore_to(run, vault, held, streams, paths, force=force)
    new = [not (force and group.is_there(name)) for name in names]
    run.console.note(
        f'restoring source "{held.point.source}" from restore point {held.point.point}, '
        f'taken {local(held.point.taken_at)}, to volume group "{place.group}"'
    )
    if definition is None or saved is None:
        _restore(run, vault, held, streams, paths, group=group, names=names, new=new)
        return Restored(streams, [str(path) for path in paths])
    streams, paths = (*streams, saved), [*paths, definition]
    _restore(run, vault, held, streams, paths, group=group, names=names, new=new)
    done = Restored(streams, [str(path) for path in paths])
    done.lines, done.document, done.each = restore_machine.finish(
        run,
        streams,
        paths,
        restore_machine.RAW,
        definitions={saved.name: definition},
        force=True,
        is_device=True,
    )
    return done


def _require_place(definition: Path, *, force: bool) -> None:
    """Refuse a file that the definition cannot be written to, before a volume is made."""
    from snapvault.wiring import restoring

    restoring.require_free(definition, force=force)
    if not (folder := definition.absolute().parent).is_dir():
        raise RestoreError(
            f'cannot write the definition to "{definition}": folder "{folder}" is not there',
            hint=f'Make it first: mkdir -p "{folder}".',
        )


def _restore(
    run: Session,
    vault: "Vault",
    held: "Held",
    streams: "tuple[StreamRecord, ...]",
    paths: "Sequence[Path]",
    *,
    group: "LvmRestore",
    names: "Sequence[str]",
    new: "Sequence[bool]",
) -> None:
    """Restore streams to paths: the first ones to volumes of these names, some of them new."""
    from snapvault.engine.contents import look_up
    from snapvault.engine.restore import room_needed

    for name, is_new in zip(names, new, strict=True):
        if is_new:
            group.require_free(name)
    contents = look_up(vault, held.point, streams)
    needed = [room_needed(extents, group.grain) for extents in contents.maps]
    sizes = [stream.size for stream in streams]
    rows = zip(sizes, needed, new, strict=False)
    group.require_room([(size, data) for size, data, is_new in rows if is_new])
    made: list[LvmTarget] = []

    def target(number: int) -> "LvmTarget":
        found = group.target(names[number], sizes[number])
        made.append(found)
        return found

    try:
        restore_new.restore(
            run,
            vault,
            contents,
            paths,
            folder=None,
            force=True,
            make={number: target for number, is_new in enumerate(new) if is_new},
        )
    except BaseException:
        for each in made:
            if each.left_behind is not None:
                run.console.warn("lvm.left_behind", each.left_behind)
        raise
