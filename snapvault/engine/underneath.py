# SPDX-License-Identifier: Apache-2.0
"""Objects that are hidden: removed or replaced, with the right version still there underneath.

Where a store keeps versions, whoever deletes an object only lays a marker over it, and whoever
replaces one puts another version on top. While its lock holds, nobody can take away the right one.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from snapvault.errors import IntegrityError, ObjectMissingError, SnapVaultError
from snapvault.model.point import ObjectRecord
from snapvault.ports.versions import StoreVersions, Version

_PIECE = 1 << 20  # bytes
_CHEAP = 1 << 20  # bytes up to which the SHA-256 of a version is always compared

STILL_THERE = "removed, but still there underneath"
REPLACED = "replaced, but the right one is still there underneath"

Versions = Mapping[str, Sequence[Version]]


@dataclass(frozen=True, slots=True)
class Hidden:
    """An object whose right version is hidden by those of `above`, of which one is the latest."""

    name: str
    right: Version
    above: tuple[Version, ...]

    @property
    def told(self) -> str:
        """What happened to it, for messages."""
        latest = next((each for each in self.above if each.is_latest), None)
        return STILL_THERE if latest is None or latest.is_marker else REPLACED


def told(one: Hidden) -> str:
    """Say what happened to an object, and what brings it back."""
    return f'{one.told} ("snapvault repair" brings it back)'


def by_name(found: Iterable[Version]) -> dict[str, list[Version]]:
    """Sort versions by the objects they are of."""
    grouped: dict[str, list[Version]] = defaultdict(list)
    for each in found:
        grouped[each.name].append(each)
    return dict(grouped)


def look_up(versions: StoreVersions | None, records: Iterable[ObjectRecord]) -> dict[str, Hidden]:
    """Return those of some objects that are hidden, by name; a request for each.

    Nothing where the store keeps no versions, or does not show them to these credentials.
    """
    found: dict[str, Hidden] = {}
    if versions is None:
        return found
    for record in records:
        try:
            own = [each for each in versions.versions(record.name) if each.name == record.name]
            one = hidden(versions, own, record)
        except SnapVaultError:
            continue  # it is told as missing
        if one is not None:
            found[record.name] = one
    return found


def hidden(versions: StoreVersions, own: Sequence[Version], record: ObjectRecord) -> Hidden | None:
    """Return how an object is hidden; None: it is not, or the right version is gone.

    `own` are its versions as listed. Only what lies above another version of its size is read,
    but for small objects.

    Raises:
        StoreError: a version could not be read.
    """

    def is_right(version: Version) -> bool:
        return digest_of(versions, version) == record.sha256

    candidates = [each for each in own if not each.is_marker and each.size == record.size]
    return choose(own, candidates, is_right, is_cheap=record.size <= _CHEAP)


def choose(
    own: Sequence[Version],
    candidates: Sequence[Version],
    is_right: Callable[[Version], bool],
    *,
    is_cheap: bool,
) -> Hidden | None:
    """Return how an object is hidden, given the versions that may be the right one, oldest last.

    The oldest that is right counts: names are never used twice, so others can only have been put
    over it. Where there is but one candidate, it is asked only if that is cheap.
    """
    latest = next((each for each in own if each.is_latest), None)
    if latest is None or not candidates:
        return None
    if len(own) == 1 or (latest in candidates and is_same(latest, candidates[-1])):
        return None
    for each in reversed(candidates):
        if (len(candidates) > 1 or is_cheap) and not is_right(each):
            continue
        if each is latest or is_same(latest, each):
            return None
        return Hidden(each.name, each, tuple(other for other in own if other is not each))
    return None


def digest_of(versions: StoreVersions, version: Version) -> str:
    """Return the SHA-256 of a version, read whole."""
    digest = hashlib.sha256()
    try:
        with versions.open_version(version) as readable:
            while piece := readable.read(_PIECE):
                digest.update(piece)
    except (ObjectMissingError, IntegrityError):
        return ""
    return digest.hexdigest()


def content_of(versions: StoreVersions, version: Version, *, at_most: int = 64 << 20) -> bytes:
    """Return the bytes of a small version; none of one that is not small.

    Raises:
        StoreError: it could not be read.
    """
    if version.size > at_most:
        return b""
    pieces = []
    with versions.open_version(version) as readable:
        while piece := readable.read(_PIECE):
            pieces.append(piece)
    return b"".join(pieces)


def uncover(versions: StoreVersions, one: Hidden) -> str:
    """Bring the right version of an object back, and return how that was done.

    What hides it is removed; where that is refused, the right version is put on top once more.

    Raises:
        StoreError: neither could be done.
    """
    refused = versions.remove(one.above)
    if not refused:
        markers = all(each.is_marker for each in one.above)
        return "the delete marker was removed" if markers else "what lay over it was removed"
    # What could not be removed need not be what hides it.
    now = [each for each in versions.versions(one.name) if each.name == one.name]
    latest = next((each for each in now if each.is_latest), None)
    if latest is not None and latest.id == one.right.id:
        return "what lay over it was removed"
    versions.bring_back(one.right)
    return "it was copied on top, as what lies over it cannot be removed"


def is_same(one: Version, other: Version) -> bool:
    """Tell whether two versions hold the same bytes, as far as the store says so."""
    if one.is_marker or other.is_marker or one.size != other.size:
        return False
    return one.id == other.id or (one.etag != "" and one.etag == other.etag)
