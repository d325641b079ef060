# SPDX-License-Identifier: Apache-2.0
"""`snapvault files`: look into the disks of a restore point, and bring single files back."""

import stat
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapvault.cli import target_paths
from snapvault.cli.browse import Browsed, browsed
from snapvault.cli.disks import AtOption
from snapvault.cli.in_order import STDOUT
from snapvault.cli.list import VaultOption
from snapvault.cli.points import PointArgument
from snapvault.cli.session import Session, session
from snapvault.cli.words import local, point_document, table
from snapvault.errors import RestoreError
from snapvault.units import format_count, format_size

if TYPE_CHECKING:
    from snapvault.ports.browsing import Entry, FileSystem, Volume

_STEP = 1 << 20  # bytes


def command(  # noqa: PLR0917 - options, which are given by name
    context: typer.Context,
    point: PointArgument,
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH",
            help="A file or a folder: the file system's name, and the path in it, as in"
            " root:1/etc/fstab. Where there is only one file system, /etc/fstab will do.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="TARGET",
            help="Bring the file or the folder back: into this folder, or under this name; - writes"
            " a file to stdout.",
            show_default=False,
        ),
    ] = None,
    at: AtOption = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(
            "--stream",
            metavar="NAME",
            help="Look only at this disk; can be given several times.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that are there, but no folders.")
    ] = False,
    cache: Annotated[
        str,
        typer.Option(
            "--cache", metavar="SIZE", help="Keep this much of what was fetched, decrypted."
        ),
    ] = "512MiB",
    vault: VaultOption = None,
) -> None:
    """List the files on the disks of a restore point, or bring some of them back.

    Without PATH, the partitions and logical volumes are listed, and which of them can be looked
    into: ext2 to ext4, XFS, NTFS, FAT, exFAT, HFS+, ISO 9660. Only what is read is fetched, and
    every block is proven to be what was backed up. Nothing is mounted, and no root is needed;
    owners are restored by root only.

    A file system is seen as it lay on the disk: what was only in its journal when the snapshot was
    taken is missing. For others, and for encrypted ones, see "snapvault mount" and "snapvault run".

    The secret half of a recovery key must be on this machine.

    Examples:
      snapvault files web01
      snapvault files web01 root:1/etc
      snapvault files web01 root:1/etc/fstab --to - --at yesterday
      snapvault files 3f2a lvm:vg0-home/alice --to /srv/restored/
    """
    run = session(context)
    if to is not None and path is None:
        raise typer.BadParameter("say which file or folder to bring back", param_hint="PATH")
    if to == STDOUT and run.json:
        raise typer.BadParameter(
            "stdout takes either the file or the report: leave out --json", param_hint="--to"
        )
    if to is not None:
        target_paths.require_path(to)
    with browsed(run, point, vault=vault, at=at, streams=stream or [], cache=cache) as found:
        if path is None:
            _list_volumes(run, found)
            return
        volume, files, inner = _locate(found, path)
        entry = files.find(inner)
        if entry is None:
            raise _not_there(volume, files, inner)
        if to is None:
            _list(run, found, volume, files, inner, entry)
        elif to == STDOUT:
            _to_stdout(volume, files, inner, entry)
        else:
            _bring_back(run, found, volume, files, inner, entry, to, force=force)


def _list_volumes(run: Session, found: Browsed) -> None:
    rows = [
        (
            volume.name,
            volume.kind or "unknown",
            format_size(volume.data.size),
            "yes" if volume.files is not None else "no",
        )
        for volume in found.volumes
    ]
    document = {
        **point_document(found.vault, found.held),
        "volumes": [
            {
                "name": volume.name,
                "kind": volume.kind,
                "size_bytes": volume.data.size,
                "readable": volume.files is not None,
            }
            for volume in found.volumes
        ],
    }
    header = ("Name", "Kind", "Size", "Files")
    run.report(document, table(header, rows, right="Size"))


def _locate(found: Browsed, path: str) -> "tuple[Volume, FileSystem, str]":
    """Return the file system that a path begins with, and the rest of the path.

    Raises:
        RestoreError: it names none that can be looked into.
    """
    name, _, inner = path.strip("/").partition("/")
    readable = [volume for volume in found.volumes if volume.files is not None]
    names = ", ".join(volume.name for volume in readable)
    chosen = next((volume for volume in found.volumes if volume.name == name), None)
    if path.startswith("/") or (chosen is None and len(readable) == 1 and ":" not in name):
        if len(readable) != 1:
            raise RestoreError(
                f'"{path}" may be in any of {format_count(len(readable), "file system")}',
                hint=f"Put one of their names before it: {names}."
                if readable
                else _look(found.held.point.source),
            )
        chosen, inner = readable[0], path.strip("/")
    if chosen is None:
        raise RestoreError(
            f'restore point {found.held.point.point} has no file system "{name}"',
            hint=f"Those that can be looked into are: {names}."
            if names
            else _look(found.held.point.source),
        )
    if chosen.files is None:
        raise RestoreError(
            f'"{chosen.name}" cannot be looked into: it is {chosen.kind or "of no kind we know"}',
            hint='Use "snapvault mount", which shows it as a file, and mount that.',
        )
    return chosen, chosen.files, _plain(inner)


def _look(source: str) -> str:
    return f'See what there is with "snapvault files {source}".'


def _plain(path: str) -> str:
    from posixpath import normpath

    if ".." in path.split("/"):
        raise typer.BadParameter('".." leads nowhere in a file system', param_hint="PATH")
    return normpath("/" + path).strip("/")


def _not_there(volume: "Volume", files: "FileSystem", path: str) -> RestoreError:
    from snapvault.config.problems import nearest_hint
    from snapvault.ports.browsing import EntryKind

    parent, _, name = path.rpartition("/")
    folder = files.find(parent)
    hint = None
    if folder is not None and folder.kind is EntryKind.FOLDER:
        names = [entry.name for entry in files.list(parent)]
        near = nearest_hint(name, names, what="names there") if names else None
        hint = near if near and near.startswith("Did") else None
    elif folder is not None and folder.kind is EntryKind.LINK:
        hint = f'"{parent}" is a link to "{folder.target}", and links are not followed.'
    return RestoreError(
        f'there is no "{path}" in "{volume.name}"',
        hint=hint or f'Look at what is there: list "{volume.name}/{parent}".'.replace('/"', '"'),
    )


def _list(
    run: Session,
    found: Browsed,
    volume: "Volume",
    files: "FileSystem",
    path: str,
    entry: "Entry",
) -> None:
    from snapvault.ports.browsing import EntryKind

    entries = files.list(path) if entry.kind is EntryKind.FOLDER else [entry]
    document = {
        **point_document(found.vault, found.held),
        "volume": volume.name,
        "path": path,
        "entries": [_document(each) for each in entries],
    }
    run.report(document, _lines(entries))


def _lines(entries: "Sequence[Entry]") -> list[str]:
    """Return lines as ls writes them."""
    rows = [
        (
            _mode(entry),
            str(entry.owner),
            str(entry.group),
            str(entry.size),
            local(_moment(entry)),
            _shown(entry),
        )
        for entry in entries
    ]
    header = ("Mode", "Owner", "Group", "Bytes", "Modified", "Name")
    return table(header, rows, right="Bytes") if rows else ["(empty)"]


def _shown(entry: "Entry") -> str:
    target = f" -> {entry.target}" if entry.target else ""
    text = f"{entry.name}{target}"
    # Names come from a guest: what a terminal would obey is shown as a question mark.
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _mode(entry: "Entry") -> str:
    from snapvault.ports.browsing import EntryKind

    types = {
        EntryKind.FILE: stat.S_IFREG,
        EntryKind.FOLDER: stat.S_IFDIR,
        EntryKind.LINK: stat.S_IFLNK,
        EntryKind.OTHER: stat.S_IFCHR,
    }
    return stat.filemode(types[entry.kind] | entry.mode)


def _moment(entry: "Entry") -> datetime:
    try:
        return datetime.fromtimestamp(entry.modified, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _document(entry: "Entry") -> dict[str, Any]:
    return {
        "name": entry.name.encode(errors="surrogateescape").decode(errors="replace"),
        "kind": entry.kind.value,
        "size_bytes": entry.size,
        "mode": f"{entry.mode:04o}",
        "owner": entry.owner,
        "group": entry.group,
        "modified_at": _moment(entry).isoformat().replace("+00:00", "Z"),
        "target": entry.target.encode(errors="surrogateescape").decode(errors="replace") or None,
    }


def _to_stdout(volume: "Volume", files: "FileSystem", path: str, entry: "Entry") -> None:
    from snapvault.ports.browsing import EntryKind

    if entry.kind is not EntryKind.FILE:
        raise RestoreError(
            f'"{volume.name}/{path}" is a {entry.kind.value}, and only a file goes to stdout',
            hint="Name a folder with --to.",
        )
    for at in range(0, entry.size, _STEP):
        sys.stdout.buffer.write(files.read(entry, at, _STEP))
    sys.stdout.flush()


def _bring_back(
    run: Session,
    found: Browsed,
    volume: "Volume",
    files: "FileSystem",
    path: str,
    entry: "Entry",
    to: str,
    *,
    force: bool,
) -> None:
    from snapvault.wiring import browsing, restoring

    target = _target(volume, path, to)
    left_out: list[str] = []
    with restoring.tree_target(target.parent, (".",), force=force, events=run.console) as tree:
        count, size = browsing.archive(
            files, path, entry, target.name, write=tree.write, left_out=left_out.append
        )
        tree.end_pass()
        tree.commit()
    for each in left_out:
        run.console.warning(f'"{volume.name}/{each}" is a device, a socket or a pipe: left out')
    point = found.held.point
    said = (
        f'restored "{volume.name}/{path}" of source "{point.source}" as of'
        f" {local(point.taken_at)} to {target}: {format_count(count, 'file')},"
        f" {format_size(size)}"
    )
    document = {
        **point_document(found.vault, found.held),
        "volume": volume.name,
        "path": path,
        "target": str(target),
        "files": count,
        "size_bytes": size,
    }
    run.report(document, [said])


def _target(volume: "Volume", path: str, to: str) -> Path:
    """Return the name under which something is brought back, which need not be there."""
    from snapvault.wiring import restoring

    folder = Path(to)
    own = path.rpartition("/")[2] or volume.name
    is_folder = to.endswith("/") or restoring.target_kind(folder) == "folder"
    target = folder / own if is_folder else folder
    return target.absolute()
