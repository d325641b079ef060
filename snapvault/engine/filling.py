# SPDX-License-Identifier: Apache-2.0
"""Writing what was fetched where it belongs, on targets that are there: proven blocks only."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from snapvault.engine.comparing import Difference, PresentTarget
from snapvault.engine.contents import Contents
from snapvault.engine.extract import Pieces, Plan
from snapvault.engine.mixed import Assembly, block_of, is_part
from snapvault.model.extents import PARENT, ZERO, compose, from_rows
from snapvault.model.point import StreamRecord
from snapvault.ports.events import Progress

Spot = tuple[int, int]
"""A stream's number, and the offset of a block."""


@dataclass(slots=True)
class Filling:
    """Holds each block against its hash and writes it. Used from several threads.

    `begin` is called before anything is written, and often. `unsure` are blocks that were put
    together and do not fit: it may be that a part of one came from a part of a volume, which
    nothing proves. `unlike` are blocks that do not fit though their volumes are read as a whole.
    """

    streams: Sequence[StreamRecord]
    found: Sequence[Difference]
    targets: Sequence[PresentTarget]
    begin: Callable[[], None]
    progress: Progress
    unsure: list[Spot] = field(default_factory=list)
    unlike: list[Spot] = field(default_factory=list)
    _joined: list[Assembly] = field(default_factory=list)

    @contextmanager
    def joining(self, work: Plan, folder: Path) -> Iterator[None]:
        """Put blocks of a plan together meanwhile; `folder` is for a nameless file."""
        with ExitStack() as stack:
            self._joined = [
                stack.enter_context(Assembly(work, number, stream, folder))
                for number, stream in enumerate(self.streams)
            ]
            yield

    def deliver(self, number: int, pieces: Pieces, data: memoryview) -> None:
        """Take pieces out of a volume that is read as a whole."""
        at = 0
        for offset, length in pieces:
            piece = data[at : at + length]
            at += length
            if is_part(self.streams[number], offset, length):
                self._join(number, offset, piece)
            elif not self._write_if_right(number, offset, piece):
                # If its volume is damaged that fails by its own digest, which names it.
                self.unlike.append((number, offset))
        self.progress.advance(len(data))

    def accept(self, number: int, offset: int, piece: memoryview) -> bool:
        """Take a piece that nothing has proven; return whether it may be what belongs there."""
        if is_part(self.streams[number], offset, len(piece)):
            self._join(number, offset, piece)
        elif not self._write_if_right(number, offset, piece):
            return False
        self.progress.advance(len(piece))
        return True

    def once_more(self, contents: Contents) -> Contents:
        """Return contents with nothing but the blocks that are unsure, which are no more then."""
        spots, self.unsure = sorted(self.unsure), []
        maps = []
        for number, (stream, full) in enumerate(zip(contents.streams, contents.maps, strict=True)):
            rows, at = [], 0
            for begin, length in [block_of(stream, each[1]) for each in spots if each[0] == number]:
                if begin > at:
                    rows.append((begin - at, ZERO, 0))
                rows.append((length, PARENT, begin))
                at = begin + length
            if stream.size > at:
                rows.append((stream.size - at, ZERO, 0))
            maps.append(compose(from_rows(rows, ()), full))
        return replace(contents, maps=tuple(maps))

    def _join(self, number: int, offset: int, piece: memoryview) -> None:
        whole = self._joined[number].take(offset, piece)
        if whole is not None and not self._write_if_right(number, *whole):
            self.unsure.append((number, whole[0]))

    def _write_if_right(self, number: int, offset: int, piece: memoryview) -> bool:
        if not self.found[number].fits(offset, piece):
            return False
        self.begin()
        self.targets[number].write(offset, piece)
        return True
