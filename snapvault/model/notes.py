# SPDX-License-Identifier: Apache-2.0
"""What hosts note in a vault for each other: holds of points, prunes, changes of keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from snapvault.model.point import ObjectRecord


@dataclass(frozen=True, slots=True)
class Hold:
    """Somebody holds a point; or, with `ends`, lets it go: the ids of the holds that are over."""

    id: str
    point: str
    source: str
    at: datetime
    host: str
    reason: str = ""
    ends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RemovedPoint:
    """A point that a prune took away: its id and source, name and SHA-256 of its manifest.

    One that is `absent` was never here, as far as the writer knew: a copy says why it is not.
    """

    point: str
    source: str
    name: str
    sha256: str
    reason: str
    absent: bool = False


@dataclass(frozen=True, slots=True)
class PruneRecord:
    """What one prune was about to do when it wrote this down.

    `points` are those whose manifests it then removed. `doomed` are names of objects that no
    other manifest named: to be deleted after the grace, unless one does by then.
    """

    id: str
    at: datetime
    host: str
    tool: str
    grace: timedelta
    points: tuple[RemovedPoint, ...]
    doomed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HandedHead:
    """The newest point of a source, its maps and signatures sealed to another host.

    `sizes` are the bytes of each stream's full map and full signature in clear.
    """

    source: str
    point: str
    maps: ObjectRecord
    signatures: ObjectRecord
    sizes: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class KeyChange:
    """From now on a host, `signer`, seals to `recipients`, and hashes with the key in `hash_key`.

    The objects of `same` hold the very same key for block hashes. `added` are the recipients that
    were none before.
    """

    id: str
    at: datetime
    host: str
    tool: str
    signer: str
    recipients: tuple[str, ...]
    hash_key: ObjectRecord
    same: tuple[ObjectRecord, ...]
    heads: tuple[HandedHead, ...] = ()
    added: tuple[str, ...] = ()
