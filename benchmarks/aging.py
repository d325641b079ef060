# SPDX-License-Identifier: Apache-2.0
"""A disk that ages: scattered pages, logs that grow and rotate, files that come and go.

Each block holds a number, which says what its bytes are; 0 is zeros. They do not compress, so that
bytes of the disk and bytes stored can be compared.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from snapvault.model.ranges import Range
from snapvault.ports.source import (
    NO_MARKS,
    Changes,
    Consistency,
    DiskStream,
    Finding,
    Outcome,
    Trust,
)

BLOCK: Final = 4096  # bytes
Blocks = NDArray[np.int64]

_SYSTEM_END, _PAGES_END, _LOGS_END = 0.40, 0.65, 0.70  # shares of the disk; the rest is files
_PAGES, _LOGS = 0.60, 0.15  # shares of a night's changes; the rest is files
_HOT_PAGES, _HOT_WRITES = 0.2, 0.8
_FULL = 0.8  # of the room for files
_UPGRADE_EVERY = 30  # nights


def content_of(block: int) -> bytes:
    """Return the bytes of a block that holds a number."""
    return blake3(block.to_bytes(8, "little")).digest(BLOCK) if block else bytes(BLOCK)


class AgingDisk:
    """A disk of so many blocks; `night` lets it age by a day.

    40 % is a system, of which a piece is upgraded once a month; a quarter is a database, and 80 %
    of its writes go to 20 % of its pages; 5 % are logs, written in a ring; and the rest has files,
    of a few blocks mostly: new ones take the room of those that are deleted, which is zeroed.
    """

    def __init__(self, blocks: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._system = np.arange(0, int(blocks * _SYSTEM_END))
        self._pages = np.arange(len(self._system), int(blocks * _PAGES_END))
        hot = self._random.permutation(len(self._pages)) < len(self._pages) * _HOT_PAGES
        self._hot, self._cold = self._pages[hot], self._pages[~hot]
        self._logs = np.arange(int(blocks * _PAGES_END), int(blocks * _LOGS_END))
        self._room = np.arange(int(blocks * _LOGS_END), blocks)
        self._files: list[Blocks] = []
        self._log_at = 0
        self._room_at = int(self._room[0])
        self._next = 1
        self._nights = 0
        self.blocks: Blocks = np.zeros(blocks, dtype=np.int64)
        for part in (self._system, self._pages, self._logs):
            self._write(part)
        self._new_files(int(len(self._room) * _FULL))

    def night(self) -> None:
        """Change 1 to 3 % of the blocks."""
        total = int(len(self.blocks) * self._random.uniform(0.01, 0.03))
        pages, logs = int(total * _PAGES), int(total * _LOGS)
        hot = min(int(pages * _HOT_WRITES), len(self._hot))
        self._write(self._random.choice(self._hot, hot, replace=False))
        self._write(self._random.choice(self._cold, pages - hot, replace=False))
        # The last block of a log is written again the next night.
        ring = (self._log_at + np.arange(logs)) % len(self._logs)
        self._write(self._logs[ring])
        self._log_at = int(ring[-1])
        self._new_files(total - pages - logs)
        self._nights += 1
        if self._nights % _UPGRADE_EVERY == 0:
            size = len(self.blocks) // 100
            start = int(self._random.integers(0, len(self._system) - size))
            self._write(self._system[start : start + size])

    def _new_files(self, blocks: int) -> None:
        while blocks > 0:
            size = min(blocks, 200, 1 + int(self._random.pareto(1.1) * 4))
            while sum(map(len, self._files)) + size > len(self._room) * _FULL:
                victim = self._files.pop(int(self._random.integers(len(self._files))))
                self.blocks[victim] = 0
            free = self._room[self.blocks[self._room] == 0]
            ahead = np.searchsorted(free, self._room_at)
            taken = np.concatenate((free[ahead:], free[:ahead]))[:size]
            self._write(taken)
            self._files.append(taken)
            self._room_at = int(taken[-1]) + 1
            blocks -= size

    def _write(self, blocks: Blocks) -> None:
        self.blocks[blocks] = np.arange(self._next, self._next + len(blocks))
        self._next += len(blocks)


@dataclass(slots=True)
class AgingSource:
    """Backs an aging disk up; it tells what changed since the state of a mark."""

    disk: AgingDisk
    now: datetime
    name: str = "aging"
    _states: dict[str, Blocks] = field(default_factory=dict)

    def check(self) -> Iterator[Finding]:
        """Tell that there is nothing to check."""
        yield Finding("disk", "is there")

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> "_View":
        """Return a view of the disk as it is."""
        before = self._states.get(marks.get("disk", ""))
        mark = self.now.isoformat()
        self._states = {mark: self.disk.blocks.copy()}
        return _View(self.now, _Disk(self._states[mark], before), mark)


@dataclass(slots=True)
class _View:
    taken_at: datetime
    disk: "_Disk"
    mark: str

    @property
    def streams(self) -> tuple[DiskStream, ...]:
        return (self.disk,)

    def finish(self) -> Outcome:
        return Outcome(Consistency.CRASH, {"disk": self.mark})

    def committed(self, point: str) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(slots=True)
class _Disk:
    blocks: Blocks
    before: Blocks | None
    name: str = "disk"

    @property
    def size(self) -> int:
        return len(self.blocks) * BLOCK

    def data_ranges(self) -> Iterator[Range]:
        return iter(_ranges(self.blocks != 0))

    def changes(self) -> Changes | None:
        if self.before is None:
            return None
        return Changes(_ranges(self.blocks != self.before), BLOCK, Trust.TRACKED, "the simulation")

    def read_into(self, offset: int, buffer: memoryview) -> None:
        begin, end = offset // BLOCK, -(-(offset + len(buffer)) // BLOCK)
        data = b"".join(map(content_of, self.blocks[begin:end].tolist()))
        start = offset - begin * BLOCK
        buffer[:] = data[start : start + len(buffer)]


def _ranges(wanted: NDArray[np.bool_]) -> list[Range]:
    edges = (np.flatnonzero(np.diff(wanted, prepend=False, append=False)) * BLOCK).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))
