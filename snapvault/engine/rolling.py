# SPDX-License-Identifier: Apache-2.0
"""The `rolling` engine: find what changed in a stream of bytes.

Where this host has kept finer hashes, the old stream is laid along the new one. What that does not
find is matched by librsync against the parent's signature, followed by those of what an
unfinished run has already stored, as if they were one old file. Copies from the first part become
PARENT extents, copies from the rest point into those volumes, and only literals are stored.
"""

import hashlib
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from snapvault.engine.aligning import Aligner
from snapvault.engine.anchors import NO_ANCHORS, Anchors, Survey
from snapvault.engine.fine import FineWriter
from snapvault.engine.fine_sums import GRAIN
from snapvault.engine.journal import PendingBytes
from snapvault.engine.old_file import STRONG_LENGTH, OldFile, OldStream
from snapvault.engine.pipeline import threads
from snapvault.engine.refining import Refiner
from snapvault.engine.rewriting import UNKNOWN
from snapvault.engine.rewriting import OldStream as Known
from snapvault.engine.searching import Searcher
from snapvault.engine.sorted_volumes import SortedVolumes
from snapvault.engine.spare_file import SpareFile
from snapvault.engine.volumes import Piece
from snapvault.model.extents import FIRST_VOLUME, ExtentMap
from snapvault.model.rewriting import most_extents
from snapvault.ports.librsync import Rsync, SignatureJob
from snapvault.ports.source import ByteStream

_CHUNK = 1 << 20  # bytes read at once
_WORTH = 2 * GRAIN  # bytes of a copy that are worth two more extents
_WORTH_OF_FULL = 32 * GRAIN  # where a night has brought as many as a map may have
_SMALLEST_BLOCK = 2048
_SMALLEST_SEARCHED = 8192  # of streams whose changes are found by finer hashes
_MOST_BLOCKS = 1 << 20  # a loaded signature takes some 50 bytes a block


def block_length_for(size: int, *, has_finer: bool) -> int:
    """Return the block length for a stream of about that many bytes; a power of two.

    The signature goes into the vault every night. Where there are finer hashes, it serves what
    they do not find, and a host that has lost them: there it can be smaller.
    """
    length = _SMALLEST_SEARCHED if has_finer else _SMALLEST_BLOCK
    while length * _MOST_BLOCKS < size:
        length *= 2
    return length


def first_lengths(*, has_finer: bool) -> tuple[int, int]:
    """Return block lengths to try at once for a stream whose size nobody knows.

    One is for 2 GiB, or 8 GiB, and less; the other for what is beyond.
    """
    smallest = block_length_for(0, has_finer=has_finer)
    return smallest, 64 * smallest


@dataclass(slots=True)
class RollResult:
    """What a stream brought: the changes to the parent's map (a full map when there is none).

    `digest` is the stream's SHA-256 in lower-case hex; `signature` is the new signature's file.
    """

    changes: ExtentMap
    size: int
    digest: str
    block_length: int
    signature: Path
    changed_bytes: int
    rewritten_bytes: int


class _Rows:
    """A map in the making. Takes 20 bytes of memory an extent, however many pieces that came in."""

    def __init__(self) -> None:
        self._length = array("Q")
        self._place = array("I")
        self._offset = array("Q")

    def add(self, length: int, place: int, offset: int) -> None:
        """Add an extent, or make the last one longer if this one continues it."""
        if (
            self._place
            and self._place[-1] == place
            and self._offset[-1] + self._length[-1] == offset
        ):
            self._length[-1] += length
            return
        self._length.append(length)
        self._place.append(place)
        self._offset.append(offset)

    def __len__(self) -> int:
        return len(self._length)

    def to_map(self, volumes: tuple[str, ...]) -> ExtentMap:
        return ExtentMap(
            np.array(self._length, dtype=np.uint64),
            np.array(self._place, dtype=np.uint32),
            np.array(self._offset, dtype=np.uint64),
            volumes,
        )


class _Held:
    """What one volume holds of the stream, with its signature in the making."""

    def __init__(self, volume: str, offset: int, rsync: Rsync, block_length: int) -> None:
        self.volume = volume
        self._offset = offset
        self._length = 0
        self._signature = bytearray()
        self._job = rsync.signature(
            self._signature.extend, block_length=block_length, strong_length=STRONG_LENGTH
        )

    def add(self, data: memoryview) -> None:
        self._length += len(data)
        self._job.feed(data)

    def finish(self) -> PendingBytes:
        self._job.finish()
        return PendingBytes(self.volume, self._offset, self._length, bytes(self._signature))


def _sink(file: BinaryIO) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        file.write(data)

    return write


@dataclass(slots=True)
class Roll:
    """One stream to be read against its parent, if it has one.

    `folder` takes the signature files. `on_stored` is told when bytes go into another volume, and
    gets what will say, once that volume is complete, which of this stream's bytes it holds.
    `fine_hashes` takes at most `most_fine_hashes` bytes of the stream's finer hashes, and
    `anchors` its anchors.
    """

    stream: ByteStream
    parent: OldStream | None
    pending: tuple[PendingBytes, ...]
    rsync: Rsync
    writer: SortedVolumes
    folder: Path
    on_stored: Callable[[str, Callable[[], PendingBytes]], None]
    on_read: Callable[[int], None]
    fine_hashes: Path | None = None
    anchors: Path | None = None
    most_fine_hashes: int = 0
    old: Known = UNKNOWN
    _rows: _Rows = field(default_factory=_Rows)
    _volumes: dict[str, int] = field(default_factory=dict)
    _joined: OldFile = field(init=False)
    _literal_bytes: int = 0
    _held: _Held | None = None

    def run(self) -> RollResult:
        """Read the stream once and append what is new to the writer.

        Raises:
            SourceError: the stream broke.
        """
        lengths = self._lengths()
        self._joined = OldFile(
            self.folder / f"{self.stream.name}.old.rsync",
            self._old_length,
            self.parent,
            self.pending,
            self._number,
            self.old.again,
        )
        sha256 = hashlib.sha256()
        size = 0
        with ExitStack() as stack:
            signatures = [self._signature(stack, length) for length in lengths]
            fine = self._fine_writer(stack)
            survey = self._survey()
            feed, finish = self._matcher(stack)
            aside = stack.enter_context(threads(1, "signature"))

            def sign(data: bytes) -> None:
                sha256.update(data)
                if fine is not None:
                    fine.feed(data)
                for _, job in signatures:
                    job.feed(data)

            with self.stream.open() as readable:
                while data := readable.read(_CHUNK):
                    signing = aside.submit(sign, data)
                    try:
                        feed(data, survey.feed(data) if survey else NO_ANCHORS)
                    finally:
                        signing.result()
                    size += len(data)
                    self.on_read(len(data))
            finish()
            for _, job in signatures:
                job.finish()
            if fine is not None:
                fine.finish()
            if survey and self.anchors:
                survey.write(self.anchors)
        # Where a hidden block did change, it counts as stored again: what that may cost stays true.
        rewritten = min(self._joined.hidden_bytes, self._literal_bytes)
        length = next((each for each in lengths if each * _MOST_BLOCKS >= size), lengths[-1])
        return RollResult(
            self._rows.to_map(tuple(self._volumes)),
            size,
            sha256.hexdigest(),
            length,
            self._signature_path(length),
            self._literal_bytes - rewritten,
            rewritten,
        )

    def _signature_path(self, length: int) -> Path:
        return self.folder / f"{self.stream.name}.{length}.rsync"

    def _signature(self, stack: ExitStack, length: int) -> tuple[int, SignatureJob]:
        file = stack.enter_context(self._signature_path(length).open("wb"))
        job = self.rsync.signature(_sink(file), block_length=length, strong_length=STRONG_LENGTH)
        return length, job

    def _fine_writer(self, stack: ExitStack) -> FineWriter | None:
        if self.fine_hashes is None or not self.most_fine_hashes:
            return None
        file = stack.enter_context(SpareFile(self.fine_hashes))
        return FineWriter(file, self.most_fine_hashes)

    def _survey(self) -> Survey | None:
        if self.anchors is None or not self.most_fine_hashes:
            return None
        if self.parent is None:
            return Survey(None, 0)
        return Survey(self.parent.anchors, self.parent.size)

    def _matcher(
        self, stack: ExitStack
    ) -> tuple[Callable[[bytes, Anchors], None], Callable[[], None]]:
        """Return what takes the stream's bytes with its anchors, and what takes its end."""
        old = self._joined.signature
        if old is None:
            return lambda data, _: self._literal(memoryview(data)), lambda: None
        if self.parent is None or self.parent.fine is None:
            searcher = self._searcher(stack, old, self._copy, self._literal)
            return lambda data, _: searcher.literal(memoryview(data)), searcher.finish
        fine, hidden = self.parent.fine, self.old.again
        refiner = Refiner(
            fine, self.parent.size, self._copy, self._literal, hidden=hidden, worth=self._worth
        )
        searcher = self._searcher(stack, old, refiner.copy, refiner.literal)

        def again(offset: int, data: memoryview) -> None:
            searcher.finish()
            refiner.again(offset, data)

        aligner = Aligner(
            fine,
            self.parent.anchors,
            searcher.copy,
            searcher.literal,
            again,
            hidden=hidden,
            worth=self._worth,
        )

        def finish() -> None:
            aligner.finish()
            searcher.finish()
            refiner.finish()

        return aligner.feed, finish

    def _searcher(
        self,
        stack: ExitStack,
        old: Path,
        copy: Callable[[int, int], None],
        literal: Callable[[memoryview], None],
    ) -> Searcher:
        searcher = Searcher(lambda: self.rsync.sums(old), self._old_length, copy, literal)
        stack.callback(searcher.close)
        return searcher

    def _worth(self) -> int:
        """Return how many bytes of a copy are worth two more extents tonight."""
        is_full = self.parent is not None and len(self._rows) > most_extents(self.parent.size)
        return _WORTH_OF_FULL if is_full else _WORTH

    @property
    def _old_length(self) -> int:
        """The block length of what the stream is matched against."""
        return self.parent.block_length if self.parent else self._lengths()[0]

    def _lengths(self) -> tuple[int, ...]:
        has_finer = self.fine_hashes is not None and self.most_fine_hashes > 0
        if self.parent is None:
            return first_lengths(has_finer=has_finer)
        return (block_length_for(self.parent.size, has_finer=has_finer),)

    def _copy(self, offset: int, length: int) -> None:
        for extent in self._joined.find(offset, length):
            self._rows.add(*extent)

    def _literal(self, data: memoryview) -> None:
        self._literal_bytes += len(data)
        self.writer.append(data, unit=1, on_piece=self._on_piece)

    def _on_piece(self, piece: Piece) -> None:
        number = self._number(piece.volume)
        self._rows.add(piece.length, number, piece.offset)
        if self._held is None or self._held.volume != piece.volume:
            self._held = _Held(piece.volume, piece.offset, self.rsync, self._old_length)
            self.on_stored(piece.volume, self._held.finish)
        self._held.add(piece.data)

    def _number(self, volume: str) -> int:
        return FIRST_VOLUME + self._volumes.setdefault(volume, len(self._volumes))
