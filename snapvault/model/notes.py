# SPDX-License-Identifier: Apache-2.0
"""What hosts note in a vault for each other: holds of restore points, and what a prune did."""

from dataclasses import dataclass
from datetime import datetime, timedelta


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
    """A point that a prune took away: its id and source, name and SHA-256 of its manifest."""

    point: str
    source: str
    name: str
    sha256: str
    reason: str


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
