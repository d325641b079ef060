# SPDX-License-Identifier: Apache-2.0
"""`snapvault mount`: the disks of a restore point and their files, as a folder."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from snapvault.cli import disks
from snapvault.cli.browse import Browsed, browsed
from snapvault.cli.disks import AtOption
from snapvault.cli.list import VaultOption
from snapvault.cli.points import PointArgument
from snapvault.cli.session import Session, session
from snapvault.cli.words import local, point_document
from snapvault.errors import RestoreError
from snapvault.units import format_size


def command(
    context: typer.Context,
    point: PointArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An empty folder.")],
    at: AtOption = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(
            "--stream",
            metavar="NAME",
            help="Show only this disk; can be given several times.",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        str,
        typer.Option(
            "--cache", metavar="SIZE", help="Keep this much of what was fetched, decrypted."
        ),
    ] = "2GiB",
    vault: VaultOption = None,
) -> None:
    """Show the disks of a restore point, and the files on them, as a folder, read-only.

    DIR/files has a folder for each file system that can be looked into (ext2 to ext4, XFS, NTFS,
    FAT, exFAT, HFS+, ISO 9660), DIR/disks each disk, partition and logical volume as one file, for
    other programs: "mount -o loop,ro DIR/disks/root:2.raw" mounts what only the kernel knows. Only
    what is read is fetched, and proven to be what was backed up; what is damaged is an I/O error
    there and a warning here.

    Owners and modes are shown as they were, but only this user sees anything. Links that begin with
    a slash lead out of DIR, as links do.

    The secret half of a recovery key must be on this machine, and FUSE (package fuse3). It runs
    until it is told to end (Ctrl-C, SIGTERM), or until somebody unmounts DIR.

    Examples:
      snapvault mount web01 /mnt/web01
      snapvault mount web01 /mnt/web01 --at "2026-11-20 03:00"
    """
    from snapvault.wiring import browsing

    run = session(context)
    _check(folder)
    with browsed(run, point, vault=vault, at=at, streams=stream or [], cache=cache) as found:
        mount = browsing.mount(
            found.volumes,
            folder.absolute(),
            taken=found.held.point.taken_at.timestamp(),
            failed=lambda error: run.console.warning(str(error)),
        )
        with closing(mount):
            _report(run, found, folder)
            mount.wait()
        disks.say_what_was_fetched(run, found.served)


def _check(folder: Path) -> None:
    from snapvault.wiring import restoring

    kind = restoring.target_kind(folder)
    if kind != "folder":
        raise RestoreError(
            f'cannot mount at "{folder}": '
            + ("it is missing" if kind == "missing" else f"it is a {kind}"),
            hint=f"Make it first: mkdir {folder}."
            if kind == "missing"
            else "Name an empty folder.",
        )
    try:
        is_empty = not any(folder.iterdir())
    except OSError as error:
        raise RestoreError(
            f'cannot mount at "{folder}": {error.strerror}', hint="Name an empty folder of yours."
        ) from error
    if not is_empty:
        raise RestoreError(
            f'cannot mount at "{folder}": it is not empty', hint="Name an empty folder."
        )


def _report(run: Session, found: Browsed, folder: Path) -> None:
    volumes = [
        {
            "name": volume.name,
            "kind": volume.kind,
            "size_bytes": volume.data.size,
            "disk": str(folder / "disks" / f"{volume.name}.raw"),
            "files": str(folder / "files" / volume.name) if volume.files is not None else None,
        }
        for volume in found.volumes
    ]
    document = {**point_document(found.vault, found.held), "volumes": volumes}
    point = found.held.point
    lines = [
        (
            f'source "{point.source}" as of {local(point.taken_at)} is at "{folder}";'
            f' Ctrl-C or "fusermount3 -u {folder}" ends it'
        )
    ]
    for volume, each in zip(found.volumes, volumes, strict=True):
        about = f"{volume.kind or 'unknown'}, {format_size(volume.data.size)}"
        lines.append(f"  {volume.name} ({about}): {each['files'] or each['disk']}")
    run.report(document, lines)
    sys.stdout.flush()
