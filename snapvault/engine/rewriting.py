# SPDX-License-Identifier: Apache-2.0
"""What is known of the parent's volumes, and what of them tonight's run stores again.

All of it comes from what a run has at hand anyway: the parent's full maps, the manifests of the
points there are, and this host's copies of their lists. So there is no state to lose, and a run
that follows a killed one chooses the same.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from snapvault.engine.commit import kept_list
from snapvault.engine.fine import is_complete
from snapvault.engine.head import Head
from snapvault.engine.vault import Held, Vault
from snapvault.formats import names
from snapvault.model import rewriting
from snapvault.model.extents import FIRST_VOLUME, U64, ExtentMap
from snapvault.model.point import StreamRecord
from snapvault.model.ranges import Range, bytes_in, union
from snapvault.model.rewriting import Lifetime, VolumeState

CREDIT = "rewriting_credit_bytes"
"""The counter of a point that tells what the next run may store again."""

REWRITTEN = "rewritten_bytes"

_WORTH_SORTING = 2  # volumes that a night fills

Kinds = NDArray[np.uint8]


def _all_long(_: int, count: int) -> Kinds:
    return np.full(count, Lifetime.LONG, dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class OldStream:
    """One stream of the parent: what of it is stored again, and what is known of the rest.

    `again` are ranges of the parent's stream, sorted and disjoint. `lifetimes` takes an offset and
    a number of blocks, and tells how long what replaces them is expected to live.
    """

    again: Sequence[Range] = ()
    lifetimes: Callable[[int, int], Kinds] = _all_long
    proven: Lifetime = Lifetime.LONG


UNKNOWN = OldStream()


@dataclass(frozen=True, slots=True)
class Rewriting:
    """What a run stores again, and how it sorts what it stores.

    `credit` is what it may store again, in bytes; `share` of what it changes is for later runs.
    """

    share: float = 0.0
    credit: int = 0
    point_bytes: int = 0
    streams: Mapping[str, OldStream] = field(default_factory=dict)

    def of(self, stream: str) -> OldStream:
        """Return what is known of a stream; nothing of one that the parent does not have."""
        return self.streams.get(stream, UNKNOWN)

    def counters(self, *, changed: int, rewritten: int) -> dict[str, int]:
        """Return what the manifest tells of it."""
        credit = rewriting.credit_after(
            self.credit,
            share=self.share if self.streams else 0.0,
            changed=changed,
            rewritten=rewritten,
            point_bytes=self.point_bytes,
        )
        return {REWRITTEN: rewritten, CREDIT: credit}


def plan(
    vault: Vault,
    parent: Head | None,
    points: Sequence[Held],
    *,
    share: float,
    volume_size: int,
    bad: Container[str] = frozenset(),
) -> Rewriting:
    """Decide what the next run stores again; `points` are all there are of its source.

    `share` is of what nights store, 0: nothing ever. `volume_size` is in raw bytes. `bad` are names
    of objects that are missing or damaged: what lies in such volumes is stored again, at any cost.
    """
    if parent is None:
        return Rewriting(share)
    lost = frozenset(
        volume
        for extents in parent.maps.values()
        for volume in extents.volumes
        if names.volume(volume) in bad
    )
    ages = _ages(vault, parent, points)
    states = list(_states(vault, parent, ages))
    credit = parent.held.point.counters.get(CREDIT, 0) if share else 0
    sound = [state for state in states if state.volume not in lost]
    chosen = rewriting.choose(sound, credit) | lost
    stored = parent.held.point.counters.get("changed_bytes", 0)
    sorts = stored >= _WORTH_SORTING * volume_size
    again: dict[str, Sequence[Range]] = {}
    for stream in parent.held.point.streams:
        extents = parent.maps[stream.name]
        dead = tuple(_ranges(extents, chosen))
        again[stream.name] = dead
        if share and stream.engine == "rolling":
            again[stream.name] = tuple(union(dead, _crowded(extents)))
            # Paid for by nobody: what a map may have is a limit, not a matter of thrift.
            credit += bytes_in(again[stream.name]) - bytes_in(dead)
    return Rewriting(
        share=share,
        credit=credit,
        point_bytes=sum(state.live for state in states),
        streams={
            stream.name: OldStream(
                again[stream.name],
                _lifetimes(parent.maps[stream.name], stream.block_size, ages)
                if sorts
                else _all_long,
                Lifetime.PROVEN if sorts else Lifetime.LONG,
            )
            for stream in parent.held.point.streams
        },
    )


@dataclass(frozen=True, slots=True)
class _Ages:
    """How long volumes are known, back from the parent; `old` are as old as anything here."""

    known: Mapping[str, timedelta]
    old: frozenset[str]
    oldest: timedelta

    def of(self, volume: str) -> timedelta:
        return self.known.get(volume, self.oldest)

    def lifetime_after(self, volume: str) -> Lifetime:
        """Tell how long what replaces a block of a volume will live."""
        is_known = volume in self.known and volume not in self.old
        return rewriting.expected_lifetime(self.known[volume] if is_known else None)


def _ages(vault: Vault, parent: Head, points: Sequence[Held]) -> _Ages:
    """Find the oldest point that names each volume.

    Only in lists that this host has a copy of: to fetch others would cost more than a guess does.
    """
    newest = parent.held.point
    known: dict[str, timedelta] = {}
    old: frozenset[str] = frozenset()
    oldest = timedelta(0)
    seen: set[str] = set()
    by_age = sorted((held.point for held in points), key=lambda point: point.taken_at)
    by_age = [point for point in by_age if point.taken_at <= newest.taken_at]
    # How much older than that a volume is makes no difference: one such point tells of them all.
    begin = newest.taken_at - rewriting.OLD
    first = max(0, sum(point.taken_at < begin for point in by_age) - 1)
    for point in by_age[first:]:
        age = newest.taken_at - point.taken_at
        for record in point.lists:
            if record.sha256 in seen:
                continue
            seen.add(record.sha256)
            for volume in kept_list(vault, record) or ():
                known.setdefault(volume.volume, age)
        if not old:
            old, oldest = frozenset(known), age
    return _Ages(known, old, oldest)


def _states(vault: Vault, parent: Head, ages: _Ages) -> Iterator[VolumeState]:
    """Yield what is known of every volume that the parent uses.

    How many raw bytes a volume holds is written down nowhere. It is at least what lies before the
    last byte in use, and what it takes as stored, but for the little that sealing adds.
    """
    live: dict[str, int] = {}
    cost: dict[str, int] = {}
    raw: dict[str, int] = {}
    for stream in parent.held.point.streams:
        extents = parent.maps[stream.name]
        for column, found in (
            (live, _sums(extents, extents.length)),
            (cost, _sums(extents, _to_be_stored(extents, _unit(parent, stream)))),
        ):
            for volume, count in found.items():
                column[volume] = column.get(volume, 0) + count
        for volume, end in _ends(extents).items():
            raw[volume] = max(raw.get(volume, 0), end)
    for record in parent.held.point.lists:
        for each in kept_list(vault, record) or ():
            if each.volume in raw:
                raw[each.volume] = max(raw[each.volume], each.size)
    for volume, used in live.items():
        yield VolumeState(volume, raw[volume], used, cost[volume], ages.of(volume))


def _sums(extents: ExtentMap, weights: U64) -> dict[str, int]:
    sums = np.bincount(
        extents.place.astype(np.int64),
        weights=weights,
        minlength=FIRST_VOLUME + len(extents.volumes),
    )[FIRST_VOLUME:].tolist()
    return {volume: int(each) for volume, each in zip(extents.volumes, sums, strict=True) if each}


def _unit(parent: Head, stream: StreamRecord) -> int:
    """Return the unit in which a stream's bytes are stored again.

    Those of a disk are its blocks. Of others it is librsync's blocks, unless this host's finer
    hashes find what lies around.
    """
    if stream.engine == "blocks":
        return stream.block_size
    fine = parent.fine_hashes.get(stream.name)
    return 1 if fine is not None and is_complete(fine, stream.size) else stream.block_size


def _to_be_stored(extents: ExtentMap, unit_bytes: int) -> U64:
    """Return the bytes that each extent takes when it is stored again: units, whole."""
    if unit_bytes == 1:
        return extents.length
    unit = np.uint64(unit_bytes)
    starts = extents.starts()
    ends = starts + extents.length
    if not ((starts % unit).any() or (ends[:-1] % unit).any()):
        return extents.length
    first, after = starts // unit, (ends + unit - np.uint64(1)) // unit
    # A block that has several extents in a volume is stored again once.
    order = np.argsort(extents.place, kind="stable")
    before, now = order[:-1], order[1:]
    again = (extents.place[before] == extents.place[now]) & (after[before] > first[now])
    first[now[again]] += np.uint64(1)
    blocks: U64 = (after - first) * unit
    return blocks


def _ends(extents: ExtentMap) -> dict[str, int]:
    """Return where the last byte in use of each volume ends."""
    ends = np.zeros(FIRST_VOLUME + len(extents.volumes), dtype=np.uint64)
    np.maximum.at(ends, extents.place, extents.offset + extents.length)
    return dict(zip(extents.volumes, ends[FIRST_VOLUME:].tolist(), strict=True))


def _ranges(extents: ExtentMap, chosen: frozenset[str]) -> Iterator[Range]:
    """Yield the ranges of a stream that lie in chosen volumes."""
    wanted = np.zeros(FIRST_VOLUME + len(extents.volumes), dtype=bool)
    wanted[FIRST_VOLUME:] = [volume in chosen for volume in extents.volumes]
    rows = np.flatnonzero(wanted[extents.place])
    starts = extents.starts()[rows]
    ends = starts + extents.length[rows]
    begin = end = -1
    for next_begin, next_end in zip(starts.tolist(), ends.tolist(), strict=True):
        if next_begin != end:
            if end > begin:
                yield begin, end
            begin = next_begin
        end = next_end
    if end > begin:
        yield begin, end


def _crowded(extents: ExtentMap) -> Iterator[Range]:
    """Yield the zones of a dump that are stored again so that its map gets no longer."""
    size = extents.size
    counts = np.bincount((extents.starts() // np.uint64(rewriting.ZONE)).astype(np.int64))
    for zone in rewriting.crowded(counts.tolist(), rewriting.most_extents(size)):
        yield zone * rewriting.ZONE, min((zone + 1) * rewriting.ZONE, size)


def _lifetimes(extents: ExtentMap, block_size: int, ages: _Ages) -> Callable[[int, int], Kinds]:
    starts = extents.starts()
    size = np.uint64(extents.size)
    table = np.full(FIRST_VOLUME + len(extents.volumes), Lifetime.LONG, dtype=np.uint8)
    table[FIRST_VOLUME:] = [ages.lifetime_after(volume) for volume in extents.volumes]

    def of(offset: int, count: int) -> Kinds:
        at = np.uint64(offset) + np.arange(count, dtype=np.uint64) * np.uint64(block_size)
        kinds = np.full(count, Lifetime.LONG, dtype=np.uint8)
        inside = at < size
        rows = np.searchsorted(starts, at[inside], side="right") - 1
        kinds[inside] = table[extents.place[rows]]
        return kinds

    return of
