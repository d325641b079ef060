# SPDX-License-Identifier: Apache-2.0
"""What librsync matches a stream against: the old stream, and what an unfinished run has stored.

Their signatures are joined, as if they were of one old file.
"""

import secrets
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from snapvault.engine.anchors import AnchorIndex
from snapvault.engine.fine import FineHashes
from snapvault.engine.journal import PendingBytes
from snapvault.errors import SignatureError
from snapvault.model.extents import PARENT
from snapvault.model.ranges import Range, align, bytes_in

STRONG_LENGTH: Final = 16
"""Bytes kept of a strong sum: two blocks that collide on purpose cost 2^64 tries."""

_CHUNK: Final = 1 << 20  # bytes read at once

# magic u32 | block length u32 | strong sum length u32, big-endian; librsync's own format
_HEADER: Final = struct.Struct(">III")
_WEAK_SIZE: Final = 4
_SUM_SIZE: Final = _WEAK_SIZE + STRONG_LENGTH


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


@dataclass(frozen=True, slots=True)
class _Span:
    """A part of the virtual old file: where it begins there, and where its bytes really lie."""

    start: int
    length: int
    place: int
    offset: int


class OldFile:
    """The joined signature, in a file, and where the bytes of the old file really lie.

    Nothing matches the blocks of `hidden`, parts of the parent's stream that are to be stored
    again; `hidden_bytes` are how many bytes that hides. `number` names a volume in the map.
    """

    def __init__(
        self,
        path: Path,
        length: int,
        parent: OldStream | None,
        pending: Sequence[PendingBytes],
        number: Callable[[str], int],
        hidden: Sequence[Range],
    ) -> None:
        self._path = path
        self._length = length
        self._spans: list[_Span] = []
        self._end = 0
        self.hidden_bytes = 0
        with path.open("wb") as joined:
            if parent:
                self._add_parent(joined, parent, hidden)
            for held in pending:
                self._add_pending(joined, held, number)

    @property
    def signature(self) -> Path | None:
        """The file; None if there is nothing to match against."""
        return self._path if self._spans else None

    def find(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield length, place and offset of the extents that a part of the old file is.

        Raises:
            SignatureError: it has no such part.
        """
        while length:
            number = bisect_right(self._spans, offset, key=lambda span: span.start) - 1
            span = self._spans[number] if number >= 0 else None
            if span is None or offset >= span.start + span.length:
                raise SignatureError("delta copies from beyond the end of the old stream")
            skip = offset - span.start
            take = min(length, span.length - skip)
            yield take, span.place, span.offset + skip
            offset += take
            length -= take

    def _add_parent(self, joined: BinaryIO, parent: OldStream, hidden: Sequence[Range]) -> None:
        with parent.signature.open("rb") as file:
            header = file.read(_HEADER.size)
            if _HEADER.unpack(header)[1:] != (self._length, STRONG_LENGTH):
                raise SignatureError("signature has other block lengths than its manifest")
            joined.write(header)
            while data := file.read(_CHUNK):
                joined.write(data)
        self._hide(joined, parent, hidden)
        self._add(parent.size, PARENT, 0)

    def _add_pending(
        self, joined: BinaryIO, held: PendingBytes, number: Callable[[str], int]
    ) -> None:
        header = held.signature[: _HEADER.size]
        if _HEADER.unpack(header)[1:] != (self._length, STRONG_LENGTH):
            return
        if not joined.tell():
            joined.write(header)
        joined.write(held.signature[_HEADER.size :])
        self._add(held.length, number(held.volume), held.offset)

    def _add(self, length: int, place: int, offset: int) -> None:
        self._spans.append(_Span(self._end, length, place, offset))
        self._end += -(-length // self._length) * self._length

    def _hide(self, joined: BinaryIO, parent: OldStream, hidden: Sequence[Range]) -> None:
        end = joined.tell()
        # With finer hashes what lies around in the same blocks is found all the same.
        is_exact = parent.fine is not None and parent.fine.is_complete
        blocks = list(align(hidden, self._length, parent.size))
        for begin, stop in blocks:
            for block in range(begin // self._length, -(-stop // self._length)):
                joined.seek(_HEADER.size + block * _SUM_SIZE + _WEAK_SIZE)
                joined.write(secrets.token_bytes(STRONG_LENGTH))
        self.hidden_bytes = bytes_in(hidden if is_exact else blocks)
        joined.seek(end)
