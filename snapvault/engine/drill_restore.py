# SPDX-License-Identifier: Apache-2.0
"""The restore of a drill: the ordinary one, to files of its own, with every byte proven."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from snapvault.engine.contents import Contents
from snapvault.engine.drill_meters import MeasuredTarget
from snapvault.engine.drill_notes import Notes, Tools
from snapvault.engine.restore import restore
from snapvault.errors import KeyMissingError
from snapvault.model.drills import Result, Verdict
from snapvault.model.extents import ZERO
from snapvault.units import format_count, format_size

_FOLDER: Final = "restored"


def data_bytes(contents: Contents) -> list[int]:
    """Return how many bytes of each stream are not zeros."""
    return [
        int(extents.length[extents.place != ZERO].sum()) if len(extents) else 0
        for extents in contents.maps
    ]


def bring_back(
    notes: Notes, tools: Tools, contents: Contents, *, room_beside: int = 0
) -> Mapping[str, Path]:
    """Restore all streams to files; return them by the streams' names.

    `room_beside` are bytes that something else will need in the same folder.

    Raises:
        IntegrityError: an object is missing or damaged.
        KeyMissingError: no key here opens it.
        RestoreError: there is no room.
    """
    needed = data_bytes(contents)
    folder = notes.folder / _FOLDER
    folder.mkdir(mode=0o700)
    tools.require_room(folder, sum(needed) + room_beside, what=f'source "{notes.source.name}"')
    paths = {stream.name: folder / stream.name for stream in contents.streams}
    targets: list[MeasuredTarget] = []
    notes.meters.begin_restore()
    try:
        with notes.phases.restoring(notes.meters):
            for stream, size in zip(contents.streams, needed, strict=True):
                target = tools.open_target(paths[stream.name], stream.size, size)
                targets.append(MeasuredTarget(target, notes.meters))
            restore(notes.vault, contents, targets)
    except KeyMissingError as error:
        raise without_key(notes, error) from error
    finally:
        for each in targets:
            each.abort()
    size = sum(stream.size for stream in contents.streams)
    streams = format_count(len(contents.streams), "stream")
    notes.restored = Result(
        Verdict.PASSED, f"{format_size(size)} in {streams}, all of it proven by its digests"
    )
    return paths


def without_key(notes: Notes, error: KeyMissingError) -> KeyMissingError:
    """Return the error for a key that is missing, with what a drill needs."""
    readers = ", ".join(notes.vault.sealer.recipients)
    return KeyMissingError(
        f'cannot open the data of vault "{notes.vault.name}": {error}',
        hint="A drill needs the secret half of a recovery key: name its GnuPG folder with "
        f'"gnupg_home" under "drill" in the policy, or run it where one is: {readers}.',
    )
