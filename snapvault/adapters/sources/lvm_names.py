# SPDX-License-Identifier: Apache-2.0
"""The names and tags of our snapshots, and which of them a dead run left behind."""

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from snapvault import clock
from snapvault.adapters.sources.lvm_commands import Volume

OURS: Final = "snapvault"  # the tag that every snapshot of ours has
RESERVING: Final = "snapvault.reserving"  # the tag of a pool whose metadata snapshot may be ours

# LIMIT: a device-mapper name has at most 127 bytes (Linux): group and volume, with every hyphen
# doubled, a hyphen between them, and "-cow" for the space of a thick snapshot.
_NAME_LENGTH: Final = 127 - len("-") - len("-cow")


def tags_of(owner: str, stream: str) -> frozenset[str]:
    """Return the tags of the snapshots of one owner's stream: any two have tags of their own."""
    text = f"{len(owner)}:{owner}{stream}"
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
    return frozenset((OURS, f"{OURS}.of={digest[:32]}"))


def new_name(origin: Volume, moment: datetime) -> str:
    """Return a name for a snapshot that nobody else thinks of, and that says what it is.

    `snapvault_web01-root_20261120T013000Z_1f2e3d4c`; the origin's name is cut where it is long.
    """
    # Not the first thing in the name: LVM keeps "snapshot" and others at the start for itself.
    end = f"_{clock.to_name(moment)}_{secrets.token_hex(4)}"
    room = _NAME_LENGTH - _mapped_length(origin.group) - len(OURS) - 1 - len(end)
    if room < 0:
        return f"sv{end[-9:]}"
    middle = origin.name
    while _mapped_length(middle) > room:
        middle = middle[:-1]
    return f"{OURS}_{middle}{end}"


def _mapped_length(name: str) -> int:
    return len(name) + name.count("-")


def find_kept(
    volumes: Iterable[Volume], owner: str, marks: Mapping[str, str], streams: Iterable[str]
) -> dict[str, Volume]:
    """Return, by stream, the snapshot that the stream's mark names, where it is ours and there."""
    tagged = {stream: tags_of(owner, stream) for stream in streams}
    return {
        stream: volume
        for volume in volumes
        for stream, tags in tagged.items()
        if _is_ours(volume, tags) and volume.uuid == marks.get(stream)
    }


def find_leftovers(
    volumes: Iterable[Volume], owner: str, marks: Mapping[str, str], streams: Iterable[str]
) -> list[Volume]:
    """Return the snapshots with our tags for these streams that no mark names.

    Nothing but tags and permission counts: not the name, not the origin, not the group.
    """
    tagged = {stream: tags_of(owner, stream) for stream in streams}
    return [
        volume
        for volume in volumes
        for stream, tags in tagged.items()
        if _is_ours(volume, tags) and volume.uuid != marks.get(stream)
    ]


def _is_ours(volume: Volume, tags: frozenset[str]) -> bool:
    """Tell a snapshot of ours; one that may be written to is somebody's disk by now."""
    return tags <= volume.tags and volume.is_read_only
