# SPDX-License-Identifier: Apache-2.0
"""Looking with librsync for old blocks in literals that are long enough to hold one."""

from collections.abc import Callable

from snapvault.formats.delta import Copy, DeltaReader
from snapvault.ports.librsync import DeltaJob, Sums


class Searcher:
    """Passes commands on, in order; a literal of a block and more is searched for old blocks.

    `load` gives the sums of the old stream, in blocks of `block_length` bytes; it is called when
    there is something to search, and once. `close` frees them, whatever happened.
    """

    def __init__(
        self,
        load: Callable[[], Sums],
        block_length: int,
        copy: Callable[[int, int], None],
        literal: Callable[[memoryview], None],
    ) -> None:
        self._load = load
        self._block_length = block_length
        self._to_copy = copy
        self._to_literal = literal
        self._sums: Sums | None = None
        self._job: DeltaJob | None = None
        self._reader = DeltaReader()
        self._held: list[memoryview] = []
        self._held_bytes = 0

    def copy(self, offset: int, length: int) -> None:
        """Take a copy of old bytes."""
        self.finish()
        self._to_copy(offset, length)

    def literal(self, data: memoryview) -> None:
        """Take a piece of a literal."""
        if self._job is not None:
            self._job.feed(data)
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes < self._block_length:
            return
        if self._sums is None:
            self._sums = self._load()
        self._reader = DeltaReader()
        self._job = self._sums.delta(self._take)
        for piece in self._let_go():
            self._job.feed(piece)

    def finish(self) -> None:
        """Take the end of a literal, which is that of the stream or before a copy."""
        if self._job is not None:
            self._job.finish()
            self._reader.finish()
            self._job = None
        for piece in self._let_go():
            self._to_literal(piece)

    def close(self) -> None:
        """Free what the library holds; safe to repeat."""
        if self._job is not None:
            self._job.close()
        if self._sums is not None:
            self._sums.close()

    def _let_go(self) -> list[memoryview]:
        held, self._held, self._held_bytes = self._held, [], 0
        return held

    def _take(self, delta: bytes) -> None:
        for command in self._reader.feed(delta):
            if isinstance(command, Copy):
                self._to_copy(command.offset, command.length)
            else:
                self._to_literal(command)
