# SPDX-License-Identifier: Apache-2.0
"""Restore points: what a manifest says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """An object as stored: its name, its size in bytes and its SHA-256 (lower-case hex)."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One link of a log of maps or signatures: the point that wrote it, and its bytes in clear."""

    point: str
    size: int


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """One stream at one point.

    `kind` is `disk` or `bytes`, `engine` `blocks` or `rolling`. `block_size` is in bytes: of the
    blocks that are hashed, or librsync's block length. `digest` is lower-case hex:
    for `blocks` the BLAKE3 of all block hashes, for `rolling` the SHA-256 of the stream.
    `map_log` and `signature_log` go from the last full one to this point's own changes.
    `mark` is what the platform calls the state that was read (a snapshot's id), for the next
    run; None where it has no name for it. `facts` are texts that the source gave along.
    """

    name: str
    kind: str
    engine: str
    size: int
    block_size: int
    digest: str
    map_log: tuple[LogEntry, ...]
    signature_log: tuple[LogEntry, ...]
    mark: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ParentRecord:
    """The point before: its id, and name and SHA-256 of its manifest as stored."""

    point: str
    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Point:
    """One committed state of a source.

    `sequence` counts the points of a source from 1 on, so that order does not hang on clocks.
    `objects` are all metadata objects the point needs, `lists` its lists of volumes; together
    they vouch for every byte. Counters are whole numbers with their unit in the name.
    """

    vault: str
    source: str
    point: str
    sequence: int
    taken_at: datetime
    finished_at: datetime
    parent: ParentRecord | None
    consistency: str
    streams: tuple[StreamRecord, ...]
    hash_key: ObjectRecord
    objects: tuple[ObjectRecord, ...]
    lists: tuple[ObjectRecord, ...]
    host: str
    tool: str
    counters: Mapping[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all streams."""
        return sum(stream.size for stream in self.streams)

    def stream(self, name: str) -> StreamRecord | None:
        """Return the stream of that name."""
        return next((stream for stream in self.streams if stream.name == name), None)

    def object(self, name: str) -> ObjectRecord | None:
        """Return the metadata object of that name."""
        return next((record for record in self.objects if record.name == name), None)
