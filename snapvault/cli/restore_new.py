# SPDX-License-Identifier: Apache-2.0
"""Restoring disks and dumps to new files, or over the whole of a block device."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from snapvault import clock
from snapvault.cli.session import Session
from snapvault.errors import RestoreError

if TYPE_CHECKING:
    from snapvault.adapters.half_restored import Mark
    from snapvault.engine.contents import Contents
    from snapvault.engine.vault import Vault
    from snapvault.model.point import Point, StreamRecord
    from snapvault.ports.target import Target


def restore(
    run: Session,
    vault: "Vault",
    contents: "Contents",
    paths: Sequence[Path],
    *,
    folder: Path | None,
    force: bool,
    formats: Sequence[str] = (),
    make: "Mapping[int, Callable[[int], Target]]" = MappingProxyType({}),
) -> None:
    """Restore each stream to its path; with several, in `folder`, which is made if it is missing.

    `formats` are those of the files, raw unless they are given. `make` makes the targets of the
    streams, by their number, that are no files or devices yet.

    Raises:
        RestoreError: a target is not free, or there is no room.
    """
    from snapvault.engine.restore import restore as restore_all
    from snapvault.model.extents import ZERO
    from snapvault.wiring import restoring

    needed = [
        int(extents.length[extents.place != ZERO].sum()) if len(extents) else 0
        for extents in contents.maps
    ]
    made = _make_folder(folder) if folder is not None else []
    targets: list[Any] = []
    try:
        if folder is not None:
            restoring.require_room(folder, sum(needed), what=f'source "{contents.point.source}"')
        for number, (stream, path) in enumerate(zip(contents.streams, paths, strict=True)):
            if number in make:
                targets.append(make[number](number))
                continue
            target = restoring.target_of(
                path,
                stream.size,
                needed[number],
                force=force,
                image_format=formats[number] if formats else "raw",
            )
            targets.append(target)
        with ExitStack() as stack:
            for stream, path in zip(contents.streams, paths, strict=True):
                stack.enter_context(_marked(run, contents.point, stream, path))
            restore_all(vault, contents, targets)
    except BaseException:
        for target in targets:
            target.abort()
        for path in reversed(made):
            _remove_if_empty(path)
        raise


@contextmanager
def _marked(run: Session, point: "Point", stream: "StreamRecord", path: Path) -> Iterator[None]:
    """Mark a device while it is half restored, as one is that is restored in place."""
    from snapvault.wiring import restoring

    mark = mark_of(run, path)
    if restoring.target_kind(path) == "block device":
        mark.set(words_of(point, stream, path))
    yield
    # What an interrupted restore in place left is over, too: all of it is new.
    mark.clear()


def mark_of(run: Session, path: Path) -> "Mark":
    """Return the mark that says that a target is half restored."""
    from snapvault.adapters import half_restored

    return half_restored.mark_of(path, run.settings.state_dir / half_restored.DEVICES)


def words_of(point: "Point", stream: "StreamRecord", path: Path) -> dict[str, str]:
    """Return what the mark of a target says."""
    return {
        "target": str(path.absolute()),
        "source": point.source,
        "stream": stream.name,
        "point": point.point,
        "since": clock.to_text(clock.now()),
    }


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it; return the new ones, outermost first."""
    missing = []
    path = folder
    while not path.exists() and path != path.parent:
        missing.append(path)
        path = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RestoreError(
            f'could not make folder "{folder}": {(error.strerror or str(error)).lower()}',
            hint="Name a folder that this user can write to.",
        ) from error
    return missing[::-1]


def _remove_if_empty(folder: Path) -> None:
    from contextlib import suppress

    with suppress(OSError):
        folder.rmdir()
