# SPDX-License-Identifier: Apache-2.0
"""Restore disks onto what is there already: only what differs is fetched, and written.

The point's own signature tells what every block has to be. Its hashes, put together, are the
content digest of the manifest, so each block is proven by itself: one that is there already by
being read, one that is fetched before it is written.
"""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np

from snapvault.engine import metadata
from snapvault.engine.comparing import Comparison, Difference, PresentTarget, StreamResult
from snapvault.engine.contents import Contents, require_digest
from snapvault.engine.excerpts import extract_parts
from snapvault.engine.extract import extract
from snapvault.engine.filling import Filling
from snapvault.engine.vault import Vault
from snapvault.errors import IntegrityError, RestoreError, SignatureError
from snapvault.formats import signatures
from snapvault.model import extents
from snapvault.model.extents import FIRST_VOLUME, PARENT, ZERO
from snapvault.model.point import Point, StreamRecord
from snapvault.model.ranges import bytes_in


@dataclass(frozen=True, slots=True)
class Result:
    """What a restore in place did with each stream, and what it fetched for it.

    `volumes` counts those of which anything was fetched, `volume_bytes` what was.
    """

    streams: tuple[StreamResult, ...]
    volumes: int
    volume_bytes: int


def require_disks(source: str, streams: Sequence[StreamRecord]) -> None:
    """Refuse what has no blocks to compare.

    Raises:
        RestoreError: a stream is a dump or an archive.
    """
    for stream in streams:
        if stream.engine != "blocks":
            raise RestoreError(
                f'cannot restore stream "{stream.name}" of source "{source}" in place: '
                "it is no disk",
                hint="Restore it to a new file, without --in-place.",
            )


def volumes_of(contents: Contents) -> tuple[int, int]:
    """Return how many volumes a full restore fetches, and their bytes as they are stored."""
    volumes = {volume for full in contents.maps for volume in full.volumes}
    return len(volumes), sum(contents.volumes[volume].size for volume in volumes)


def restore_in_place(vault: Vault, contents: Contents, targets: Sequence[PresentTarget]) -> Result:
    """Make targets what the point's disks were, one for each stream.

    Can be interrupted at any moment and run again: what is right by then is not fetched again.
    On failure all targets are let go of, as they are.

    Raises:
        IntegrityError: an object is missing or damaged, or what came back is not what was saved.
            No block is written that is not right.
        KeyMissingError: no key here opens it; nothing has changed then.
        RestoreError: a stream is no disk, or a target failed.
    """
    try:
        require_disks(contents.point.source, contents.streams)
        found = _compare(vault, contents, targets)
        result = _fill(vault, contents, targets, found)
        for target in targets:
            target.commit()
    except BaseException:
        for target in targets:
            target.abort()
        raise
    return result


def _compare(
    vault: Vault, contents: Contents, targets: Sequence[PresentTarget]
) -> list[Difference]:
    total = sum(bytes_in(target.data_ranges()) for target in targets)
    found = []
    with ExitStack() as stack:
        files = _signatures(vault, contents, stack)
        progress = vault.events.progress("comparing", total=total)
        stack.callback(progress.close)
        for stream, target, file in zip(contents.streams, targets, files, strict=True):
            work = Comparison(stream, contents.hash_key, target, progress)
            difference, digest = work.run(signatures.pages(file))
            # So these hashes are the manifest's, and a block that fits its hash is proven.
            require_digest(stream, contents.point, digest)
            found.append(difference)
    return found


def _signatures(vault: Vault, contents: Contents, stack: ExitStack) -> list[BinaryIO]:
    """Fetch full signatures into files that have no name any more."""
    vault.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=vault.state, prefix="signatures-") as name:
        folder = Path(name)
        point = replace(contents.point, streams=contents.streams)
        metadata.write_signatures(vault, point, folder)
        return [
            stack.enter_context((folder / f"{stream.name}.sig").open("rb"))
            for stream in contents.streams
        ]


def _fill(
    vault: Vault,
    contents: Contents,
    targets: Sequence[PresentTarget],
    found: Sequence[Difference],
) -> Result:
    work = _selected(contents, found).plan()
    beginning = _Beginning(contents.streams, found, targets)
    progress = vault.events.progress("restoring", total=work.data_bytes)
    filling = Filling(contents.streams, found, targets, beginning.happen, progress)
    try:
        raw_sizes = _raw_sizes(contents)
        with filling.joining(work, vault.state):
            had = extract_parts(vault.store, vault.sealer, work, raw_sizes, filling.accept)
            extract(vault.store, vault.sealer, had.rest, filling.deliver)
        fetched = had.fetched_bytes + sum(record.size for record in had.rest.volumes)
        if filling.unsure and not filling.unlike:
            # Whole volumes are right, or their digests name the one that is not.
            again = filling.once_more(contents).plan()
            with filling.joining(again, vault.state):
                extract(vault.store, vault.sealer, again, filling.deliver)
            fetched += sum(record.size for record in again.volumes)
    finally:
        progress.close()
    if unlike := filling.unlike + filling.unsure:
        number, offset = min(unlike)
        raise _unlike(contents.point, contents.streams[number], offset)
    beginning.happen()
    return Result(tuple(each.result for each in found), len(work.volumes), fetched)


def _selected(contents: Contents, found: Sequence[Difference]) -> Contents:
    """Return the contents with maps of nothing but what is to be fetched."""
    maps = []
    for stream, each, full in zip(contents.streams, found, contents.maps, strict=True):
        reduced = extents.compose(each.selection, full)
        if int(reduced.length[reduced.place != ZERO].sum()) != each.result.written:
            raise SignatureError(
                f'map and signature of stream "{stream.name}" of restore point '
                f'"{contents.point.point}" contradict each other'
            )
        maps.append(reduced)
    return replace(contents, maps=tuple(maps))


def _raw_sizes(contents: Contents) -> dict[str, int]:
    """Return how many raw bytes each volume has at least: as many as the whole maps use."""
    sizes: dict[str, int] = {}
    for full in contents.maps:
        ends = np.zeros(FIRST_VOLUME + len(full.volumes), dtype=np.uint64)
        np.maximum.at(ends, full.place, full.offset + full.length)
        for volume, end in zip(full.volumes, ends[FIRST_VOLUME:].tolist(), strict=True):
            sizes[volume] = max(end, sizes.get(volume, 0))
    return sizes


class _Beginning:
    """The moment when targets begin to change, and only those that have to. Safe from threads.

    It comes with the first block that was fetched and is right, or when none is wanted: a wrong
    key, or a store that does not answer, leave everything as it was.
    """

    def __init__(
        self,
        streams: Sequence[StreamRecord],
        found: Sequence[Difference],
        targets: Sequence[PresentTarget],
    ) -> None:
        self._work = [
            (each, target)
            for stream, each, target in zip(streams, found, targets, strict=True)
            if each.result.different or target.present_bytes != stream.size
        ]
        self._lock = Lock()
        self._is_over = False

    def happen(self) -> None:
        """Let it happen, once: what has to be zeros is, and there is room for the rest, then."""
        with self._lock:
            if self._is_over:
                return
            for found, target in self._work:
                target.begin(found.growth)
            for found, target in self._work:
                _make_zeros_and_room(found, target)
            self._is_over = True


def _make_zeros_and_room(found: Difference, target: PresentTarget) -> None:
    for begin, end in found.zeros:
        target.zero(begin, end - begin)
    data = found.selection.place == PARENT
    starts = found.selection.starts()[data].tolist()
    for start, length in zip(starts, found.selection.length[data].tolist(), strict=True):
        target.reserve(start, length)


def _unlike(point: Point, stream: StreamRecord, offset: int) -> IntegrityError:
    return IntegrityError(
        f'stream "{stream.name}" of restore point "{point.point}" is not what was backed up: '
        f"what is stored for offset {offset} does not fit its signature",
        hint="The stored objects are as they were written: report this, and try another point.",
    )
