# SPDX-License-Identifier: Apache-2.0
"""Restoring a folder tree, or a part of it, from the archive that it is stored as."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from snapvault.cli import in_order
from snapvault.cli.restored import Restored
from snapvault.cli.session import Session
from snapvault.cli.words import local, size_in_full
from snapvault.errors import RestoreError
from snapvault.units import format_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from snapvault.engine.contents import Contents
    from snapvault.engine.vault import Held, Vault
    from snapvault.model.point import StreamRecord

ALL = (".",)
_SHOWN = 3  # paths, in a report


def wanted(
    held: "Held", streams: "tuple[StreamRecord, ...]", to: str, paths: "Sequence[str]"
) -> tuple[str, ...]:
    """Return the paths to unpack, relative to the tree; empty if this is another restore.

    Raises:
        RestoreError: paths are wanted of what has none.
    """
    if not paths:
        can_be = to != in_order.STDOUT and len(streams) == 1 and _is_tree(streams[0])
        return ALL if can_be and _is_folder(to) else ()
    if to == in_order.STDOUT:
        raise typer.BadParameter(
            "paths are restored into a folder, not to stdout", param_hint="--to"
        )
    trees = [stream for stream in streams if _is_tree(stream)]
    if len(streams) > 1 and trees:
        raise RestoreError(
            f'source "{held.point.source}" has {len(streams)} streams: choose the one with the '
            "path with --stream",
            hint="Folder trees are: " + ", ".join(tree.name for tree in trees) + ".",
        )
    if len(streams) > 1:
        has_disk = any(stream.engine == "blocks" for stream in streams)
        raise RestoreError(
            f'source "{held.point.source}" has no folder tree, and only those have paths',
            hint=f'Look for the path on its disks with "snapvault files {held.point.source}".'
            if has_disk
            else "Leave out --path to restore all of it.",
        )
    if not trees:
        raise RestoreError(
            f'stream "{streams[0].name}" of source "{held.point.source}" is no folder tree, '
            "and has no paths",
            hint="Leave out --path to restore all of it.",
        )
    return tuple(dict.fromkeys(_relative(path, trees[0].facts.get("path", "")) for path in paths))


def restore(
    run: Session,
    vault: "Vault",
    held: "Held",
    streams: "tuple[StreamRecord, ...]",
    to: str,
    paths: tuple[str, ...],
    *,
    force: bool,
) -> Restored:
    """Unpack paths of the one stream into the folder `to`, which is made if it is missing.

    Raises:
        RestoreError: it is no folder or has no room, a path is not in the tree, or something is
            in the way.
    """
    from snapvault.engine import sequence
    from snapvault.wiring import restoring

    (stream,) = streams
    folder = Path(to)
    kind = restoring.target_kind(folder)
    if kind not in {"folder", "missing"}:
        raise RestoreError(
            f'cannot unpack stream "{stream.name}" of source "{held.point.source}" into "{to}": '
            f"it is a {kind}, a folder is meant",
            hint="Name a folder; one that is missing is made.",
        )
    run.console.note(
        f'restoring {part_of(paths)}source "{held.point.source}" from restore point '
        f"{held.point.point}, taken {local(held.point.taken_at)}"
    )
    contents, order, spool = in_order.arrange(run, vault, held, (stream,))
    if paths == ALL:
        what = f'source "{held.point.source}"'
        restoring.require_room(_existing(folder), _data_bytes(contents), what=what)
    with restoring.tree_target(folder, paths, force=force, events=run.console) as target:
        again = True
        while again:
            sequence.stream_out(vault, contents, order, spool, target.write)
            again = target.end_pass()
        if missing := target.missing():
            raise _not_there(held, stream, missing, target.near)
        target.commit()
        taken = target.taken
    return Restored(
        streams,
        [to],
        part_of(paths),
        f"{format_count(taken.files, 'file')}, {size_in_full(taken.size)}",
        each=[{"paths": list(paths), "files": taken.files, "size_bytes": taken.size}],
    )


def part_of(paths: tuple[str, ...]) -> str:
    """Return what part of a tree some paths are, for a sentence; nothing if they are all of it."""
    if not paths or paths == ALL:
        return ""
    from snapvault.config.problems import quoted

    shown = ", ".join(quoted(path) for path in paths[:_SHOWN])
    more = len(paths) - _SHOWN
    return f"{shown}{f' and {more} more' if more > 0 else ''} of "


def _is_folder(to: str) -> bool:
    from snapvault.wiring import restoring

    return to.endswith("/") or restoring.target_kind(Path(to)) == "folder"


def _is_tree(stream: "StreamRecord") -> bool:
    return stream.facts.get("format") == "tar"


def _relative(path: str, tree: str) -> str:
    """Return a path relative to the tree; it may be given as it was on the machine."""
    from posixpath import normpath

    if ".." in path.split("/") or not path:
        raise typer.BadParameter(
            f'"{path}" is no path in a folder tree' if path else "a path cannot be empty",
            param_hint="--path",
        )
    # Two slashes at the beginning may mean something to POSIX, but not here.
    plain = normpath("/" + path.lstrip("/") if path.startswith("/") else path)
    if not plain.startswith("/"):
        return plain
    root = normpath(tree or "/")
    if plain == root:
        return "."
    inside = "/" if root == "/" else f"{root}/"
    if not plain.startswith(inside):
        raise typer.BadParameter(
            f'"{path}" is not below "{tree}", the folder that was backed up', param_hint="--path"
        )
    return plain.removeprefix(inside)


def _existing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.absolute().parents) if each.is_dir())


def _data_bytes(contents: "Contents") -> int:
    from snapvault.model.extents import ZERO

    (extents,) = contents.maps
    return int(extents.length[extents.place != ZERO].sum()) if len(extents) else 0


def _not_there(
    held: "Held", stream: "StreamRecord", missing: "Sequence[str]", near: "Sequence[str]"
) -> RestoreError:
    from snapvault.config.problems import nearest_hint, quoted

    named = ", ".join(quoted(path) for path in missing[:_SHOWN])
    hint = nearest_hint(missing[0], near, what="paths") if near else None
    return RestoreError(
        f'stream "{stream.name}" of source "{held.point.source}" has no path {named} '
        f"at restore point {held.point.point}",
        hint=hint
        if hint and hint.startswith("Did")
        else "Restore the archive to a file, and look at what it holds: tar -tf FILE.",
    )
