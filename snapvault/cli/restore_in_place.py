# SPDX-License-Identifier: Apache-2.0
"""Restoring disks onto what is there: only what differs is fetched, and written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from snapvault.cli import in_order, restore_machine, restore_new
from snapvault.cli.restored import Restored
from snapvault.cli.session import Session
from snapvault.cli.words import local, size_in_full
from snapvault.errors import RestoreError
from snapvault.units import format_count, format_size

if TYPE_CHECKING:
    from snapvault.adapters.targets.in_place import InPlaceTarget
    from snapvault.engine.comparing import StreamResult
    from snapvault.engine.vault import Held, Vault
    from snapvault.model.point import StreamRecord

_OPTION = "--in-place"


@dataclass(frozen=True, slots=True)
class Done:
    """What was done: `results` has None for a disk that was missing, and was made.

    `fetched` and `full` are numbers of volumes and their bytes, as they are stored: those that
    were fetched, and those that a restore of everything fetches.
    """

    streams: "tuple[StreamRecord, ...]"
    targets: tuple[str, ...]
    results: "tuple[StreamResult | None, ...]"
    fetched: tuple[int, int]
    full: tuple[int, int]

    def lines(self) -> list[str]:
        """Say it to people."""
        rows = zip(self.streams, self.results, strict=True)
        found = [_line(*row) for row in rows]
        volumes, size = self.fetched
        found.append(
            f"fetched {format_size(size)} of {format_count(volumes, 'volume')}; a full restore "
            f"fetches {format_size(self.full[1])} of {self.full[0]}"
        )
        return found

    def of_stream(self, number: int) -> dict[str, Any]:
        """Say to programs what was done with one stream."""
        result = self.results[number]
        size = self.streams[number].size
        return {
            "in_place": result is not None,
            "compared_bytes": result.compared if result else 0,
            "different_bytes": result.different if result else size,
            "written_bytes": result.written if result else size,
            "resized": result.resized if result else False,
        }

    def document(self) -> dict[str, Any]:
        """Say to programs what was fetched for all streams."""
        return {
            "fetched_volumes": self.fetched[0],
            "fetched_bytes": self.fetched[1],
            "full_volumes": self.full[0],
            "full_bytes": self.full[1],
        }


def require_possible(to: str, *, is_ebs: bool, paths: Sequence[str] | None) -> None:
    """Refuse what is no disk that is there."""
    if to == in_order.STDOUT:
        raise typer.BadParameter("stdout holds nothing yet: name a disk", param_hint=_OPTION)
    if is_ebs:
        raise typer.BadParameter("an EBS snapshot cannot be overwritten", param_hint=_OPTION)
    if paths:
        raise typer.BadParameter("whole disks are restored: leave out --path", param_hint=_OPTION)


def restore(
    run: Session,
    vault: "Vault",
    held: "Held",
    streams: "tuple[StreamRecord, ...]",
    to: str,
    *,
    named: bool,
    force: bool,
) -> Restored:
    """Restore disks in place: one to `to`, several in that folder, where those missing are made.

    Raises:
        RestoreError: a target is not there, in use, or does not fit; or a stream is no disk.
    """
    from snapvault.wiring import restoring

    is_machine = not named and len(streams) > 1
    streams = restore_machine.disks(run, held, streams, named=named)
    is_folder = is_machine and restoring.target_kind(Path(to)) == "folder"
    as_file = len(streams) == 1 and not is_folder
    paths = [Path(to)] if as_file else [Path(to) / stream.name for stream in streams]
    _require_there(held, streams, to, as_file=as_file)
    folder = None if as_file else Path(to)
    return restore_to(run, vault, held, streams, paths, folder=folder, force=force)


def restore_to(
    run: Session,
    vault: "Vault",
    held: "Held",
    streams: "tuple[StreamRecord, ...]",
    paths: Sequence[Path],
    *,
    folder: Path | None = None,
    force: bool,
) -> Restored:
    """Restore each disk to its path, in place; those missing in `folder` are made, if it is given.

    Raises:
        RestoreError: a target is not there, in use, or does not fit; or a stream is no disk.
    """
    from contextlib import ExitStack

    from snapvault.engine.contents import look_up
    from snapvault.engine.in_place import require_disks, restore_in_place, volumes_of

    source = held.point.source
    require_disks(source, streams)
    present = [folder is None or path.exists() for path in paths]
    with ExitStack() as stack:
        targets: list[InPlaceTarget] = []
        for stream, path, is_there in zip(streams, paths, present, strict=True):
            if is_there:
                target = _open(run, held, stream, path, force=force)
                stack.callback(target.abort)
                targets.append(target)
        run.console.note(
            f'restoring source "{source}" in place from restore point {held.point.point}, '
            f"taken {local(held.point.taken_at)}"
        )
        contents = look_up(vault, held.point, streams)
        made = contents.only([not each for each in present])
        volumes, size = volumes_of(made)
        if made.streams:
            new = [path for path, is_there in zip(paths, present, strict=True) if not is_there]
            restore_new.restore(run, vault, made, new, folder=folder, force=False)
        done = restore_in_place(vault, contents.only(present), targets)
    results = iter(done.streams)
    told = Done(
        streams,
        tuple(str(path) for path in paths),
        tuple(next(results) if is_there else None for is_there in present),
        (volumes + done.volumes, size + done.volume_bytes),
        volumes_of(contents),
    )
    return Restored(
        streams,
        told.targets,
        each=[told.of_stream(number) for number in range(len(streams))],
        document=told.document(),
        lines=told.lines(),
    )


def _require_there(
    held: "Held", streams: "tuple[StreamRecord, ...]", to: str, *, as_file: bool
) -> None:
    from snapvault.wiring import restoring

    kind = restoring.target_kind(Path(to))
    if kind == "missing":
        raise RestoreError(
            f'cannot restore to "{to}" in place: it does not exist',
            hint="Correct the name, or leave out --in-place to make it.",
        )
    if as_file and kind == "folder":
        raise RestoreError(
            f'cannot restore stream "{streams[0].name}" of source "{held.point.source}" to "{to}" '
            "in place: it is a folder, a disk is meant",
            hint=f'Name the disk in it, such as "{Path(to) / streams[0].name}".',
        )
    if not as_file and kind != "folder":
        raise RestoreError(
            f'source "{held.point.source}" has {len(streams)} streams, which need a folder: '
            f'"{to}" is a {kind}',
            hint="Choose the one to restore there with --stream: "
            + ", ".join(stream.name for stream in streams)
            + ".",
        )


def _open(
    run: Session, held: "Held", stream: "StreamRecord", path: Path, *, force: bool
) -> "InPlaceTarget":
    from snapvault.adapters.half_restored import DEVICES
    from snapvault.adapters.targets.in_place import open_in_place

    words = restore_new.words_of(held.point, stream, path)
    devices = run.settings.state_dir / DEVICES
    target = open_in_place(path, stream.size, words, devices=devices, force=force)
    if target.found_mark is not None:
        point = target.found_mark.get("point")
        what = f" of restore point {point}" if point else ""
        run.console.note(f'"{path}" is half restored: a restore{what} was interrupted')
    if target.bytes_beyond:
        run.console.note(
            f'"{path}" is larger than stream "{stream.name}": its last '
            f"{size_in_full(target.bytes_beyond)} stay as they are"
        )
    return target


def _line(stream: "StreamRecord", result: "StreamResult | None") -> str:
    what = f'stream "{stream.name}"'
    if result is None:
        return f"{what} was missing there, and was made"
    if not result.different and not result.resized:
        done = "nothing differed, nothing was written"
    else:
        done = f"{format_size(result.different)} differed, {format_size(result.written)} written"
        if result.different > result.written:
            done += f", {format_size(result.different - result.written)} made zeros"
        if result.resized:
            done += ", length corrected"
    return f"{what} in place: compared {format_size(stream.size)}, {done}"
