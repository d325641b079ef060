# SPDX-License-Identifier: Apache-2.0
"""The `rolling` engine: find what changed in a stream of bytes.

Where this host has kept finer hashes, the old stream is laid along the new one. What that does not
find is matched by librsync against the parent's signature, followed by those of what an
unfinished run has already stored, as if they were one old file. Copies from the first part become
PARENT extents, copies from the rest point into those volumes, and only literals are stored.
"""

import hashlib
import secrets
import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from snapvault.engine.aligning import Aligner
from snapvault.engine.anchors import NO_ANCHORS, AnchorIndex, Anchors, Survey
from snapvault.engine.fine import FineHashes, FineWriter
from snapvault.engine.journal import PendingBytes
from snapvault.engine.pipeline import threads
from snapvault.engine.refining import Refiner
from snapvault.engine.rewriting import UNKNOWN
from snapvault.engine.rewriting import OldStream as Known
from snapvault.engine.searching import Searcher
from snapvault.engine.sorted_volumes import SortedVolumes
from snapvault.engine.volumes import Piece
from snapvault.errors import SignatureError
from snapvault.model.extents import FIRST_VOLUME, PARENT, ExtentMap
from snapvault.model.ranges import align
from snapvault.ports.librsync import Rsync, SignatureJob
from snapvault.ports.source import ByteStream

STRONG_LENGTH = 16
"""Bytes kept of a strong sum: two blocks that collide on purpose cost 2^64 tries."""

_CHUNK = 1 << 20  # bytes read at once
_SMALLEST_BLOCK = 2048
_SMALLEST_SEARCHED = 8192  # of streams whose changes are found by finer hashes
_MOST_BLOCKS = 1 << 20  # a loaded signature takes some 50 bytes a block

# magic u32 | block length u32 | strong sum length u32, big-endian; librsync's own format
_HEADER = struct.Struct(">III")
_WEAK_SIZE = 4
_SUM_SIZE = _WEAK_SIZE + STRONG_LENGTH


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


@dataclass(frozen=True, slots=True)
class OldStream:
    """The parent's stream: bytes, block length, and the file with its librsync signature.

    `fine` has its finer hashes and `anchors` its anchors, if this host has kept them.
    """

    size: int
    block_length: int
    signature: Path
    fine: FineHashes | None = None
    anchors: AnchorIndex | None = None


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


@dataclass(frozen=True, slots=True)
class _Span:
    """A part of the virtual old file: where it begins there, and where its bytes really lie."""

    start: int
    length: int
    place: int
    offset: int


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
    _spans: list[_Span] = field(default_factory=list)
    _literal_bytes: int = 0
    _hidden_bytes: int = 0
    _held: _Held | None = None

    def run(self) -> RollResult:
        """Read the stream once and append what is new to the writer.

        Raises:
            SourceError: the stream broke.
        """
        lengths = self._lengths()
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
        rewritten = min(self._hidden_bytes, self._literal_bytes)
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
        file = stack.enter_context(self.fine_hashes.open("wb"))
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
        old = self._old_signature()
        if old is None:
            return lambda data, _: self._literal(memoryview(data)), lambda: None
        if self.parent is None or self.parent.fine is None:
            searcher = self._searcher(stack, old, self._copy, self._literal)
            return lambda data, _: searcher.literal(memoryview(data)), searcher.finish
        fine, hidden = self.parent.fine, self.old.again
        refiner = Refiner(fine, self.parent.size, self._copy, self._literal, hidden=hidden)
        searcher = self._searcher(stack, old, refiner.copy, refiner.literal)
        aligner = Aligner(fine, self.parent.anchors, searcher.copy, searcher.literal, hidden=hidden)

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

    @property
    def _old_length(self) -> int:
        """The block length of what the stream is matched against."""
        return self.parent.block_length if self.parent else self._lengths()[0]

    def _lengths(self) -> tuple[int, ...]:
        has_finer = self.fine_hashes is not None and self.most_fine_hashes > 0
        if self.parent is None:
            return first_lengths(has_finer=has_finer)
        return (block_length_for(self.parent.size, has_finer=has_finer),)

    def _old_signature(self) -> Path | None:
        """Join the signatures of the parent and of what is pending; None when there is neither."""
        length = self._old_length
        path = self.folder / f"{self.stream.name}.old.rsync"
        virtual = 0
        with path.open("wb") as joined:
            if self.parent:
                with self.parent.signature.open("rb") as file:
                    header = file.read(_HEADER.size)
                    if _HEADER.unpack(header)[1:] != (length, STRONG_LENGTH):
                        raise SignatureError("signature has other block lengths than its manifest")
                    joined.write(header)
                    while data := file.read(_CHUNK):
                        joined.write(data)
                self._hide(joined, length)
                self._spans.append(_Span(0, self.parent.size, PARENT, 0))
                virtual = -(-self.parent.size // length) * length
            for held in self.pending:
                header = held.signature[: _HEADER.size]
                if _HEADER.unpack(header)[1:] != (length, STRONG_LENGTH):
                    continue
                if not joined.tell():
                    joined.write(header)
                joined.write(held.signature[_HEADER.size :])
                self._spans.append(
                    _Span(virtual, held.length, self._number(held.volume), held.offset)
                )
                virtual += -(-held.length // length) * length
        return path if self._spans else None

    def _hide(self, joined: BinaryIO, length: int) -> None:
        """Let nothing match the blocks that are to be stored again."""
        if self.parent is None:
            return
        end = joined.tell()
        # With finer hashes what lies around in the same blocks is found all the same.
        is_exact = self.parent.fine is not None and self.parent.fine.is_complete
        blocks = align(self.old.again, length, self.parent.size)
        for begin, stop in blocks:
            for block in range(begin // length, -(-stop // length)):
                joined.seek(_HEADER.size + block * _SUM_SIZE + _WEAK_SIZE)
                joined.write(secrets.token_bytes(STRONG_LENGTH))
            if not is_exact:
                self._hidden_bytes += stop - begin
        if is_exact:
            self._hidden_bytes = sum(stop - begin for begin, stop in self.old.again)
        joined.seek(end)

    def _copy(self, offset: int, length: int) -> None:
        while length:
            number = bisect_right(self._spans, offset, key=lambda span: span.start) - 1
            span = self._spans[number] if number >= 0 else None
            if span is None or offset >= span.start + span.length:
                raise SignatureError("delta copies from beyond the end of the old stream")
            skip = offset - span.start
            take = min(length, span.length - skip)
            self._rows.add(take, span.place, span.offset + skip)
            offset += take
            length -= take

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
