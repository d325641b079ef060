# SPDX-License-Identifier: Apache-2.0
"""What differs between a disk and the same disk a night before, and the least that it takes."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zstandard

from benchmarks import disks

SECTOR = 512  # bytes
_PIECE = 4 << 20
_FRAME = 1 << 20
_PATCH_MEMORY = 3  # times the old file and the new one


@dataclass(frozen=True, slots=True)
class Difference:
    """How many 16 KiB blocks and 512-byte sectors differ, and how much compressing them takes.

    Blocks are compressed in frames of 1 MiB, as one stream would be, and each by itself.
    Sectors are compressed in frames.
    """

    changed_blocks: int
    changed_sectors: int
    alone_in_frames_bytes: int
    alone_one_by_one_bytes: int
    sectors_in_frames_bytes: int


class Watcher:
    """Keeps a copy of a disk and compares the disk with it, night after night."""

    def __init__(self, copy: Path, *, level: int) -> None:
        self._copy = copy
        self._level = level

    def first(self, image: Path) -> None:
        """Copy the disk as it is."""
        with image.open("rb", buffering=0) as new, self._copy.open("wb", buffering=0) as copy:
            copy.truncate(os.fstat(new.fileno()).st_size)
            for start, stop in _pieces(image):
                data = os.pread(new.fileno(), stop - start, start)
                if data.strip(b"\0"):
                    os.pwrite(copy.fileno(), data, start)

    def next(self, image: Path) -> Difference:
        """Say what differs, and copy it."""
        blocks, sectors = _Frames(self._level), _Frames(self._level)
        with image.open("rb", buffering=0) as new, self._copy.open("r+b", buffering=0) as copy:
            for start, stop in sorted({*_pieces(image), *_pieces(self._copy)}):
                data = os.pread(new.fileno(), stop - start, start)
                old = os.pread(copy.fileno(), stop - start, start)
                if data == old:
                    continue
                for at in _differing(data, old, disks.BLOCK):
                    blocks.add(data[at : at + disks.BLOCK])
                for at in _differing(data, old, SECTOR):
                    sectors.add(data[at : at + SECTOR])
                os.pwrite(copy.fileno(), data, start)
        blocks.finish()
        sectors.finish()
        return Difference(
            blocks.count, sectors.count, blocks.in_frames, blocks.one_by_one, sectors.in_frames
        )

    def close(self) -> None:
        """Remove the copy; safe to repeat."""
        self._copy.unlink(missing_ok=True)


def patch_bytes(old: Path, new: Path, *, level: int) -> int | None:
    """Return how long zstd's own patch from one file to the other is.

    None where there is no zstd, or not the memory for it, which is several times the files.
    """
    program = shutil.which("zstd")
    needed = _PATCH_MEMORY * (old.stat().st_size + new.stat().st_size)
    if program is None or _available() < needed:
        return None
    words = ["-q", "-c", f"-{level}", "--long=31", f"--patch-from={old}", str(new)]
    with subprocess.Popen([program, *words], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        size = 0
        while piece := process.stdout.read(_FRAME):
            size += len(piece)
    return size if process.returncode == 0 else None


def _available() -> int:
    """Return how much memory programs can have before others suffer."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def _pieces(path: Path) -> Iterator[tuple[int, int]]:
    """Yield pieces of one length, each at a multiple of it, that hold all that is no hole."""
    size, done = path.stat().st_size, 0
    for start, stop in disks.data_ranges(path):
        for at in range(max(done, start - start % _PIECE), stop, _PIECE):
            done = at + _PIECE
            yield at, min(done, size)


def _differing(new: bytes, old: bytes, length: int) -> Iterator[int]:
    """Yield where pieces of that length differ."""
    whole = len(new) - len(new) % length
    columns = [
        np.frombuffer(each[:whole], np.uint64).reshape(-1, length // 8) for each in (new, old)
    ]
    for index in np.flatnonzero((columns[0] != columns[1]).any(axis=1)):
        yield int(index) * length
    if new[whole:] != old[whole:]:
        yield whole


class _Frames:
    """Compresses pieces, together and one by one, and keeps the lengths alone."""

    def __init__(self, level: int) -> None:
        self._compressor = zstandard.ZstdCompressor(level=level)
        self._frame = bytearray()
        self.count = self.in_frames = self.one_by_one = 0

    def add(self, piece: bytes) -> None:
        self.count += 1
        if len(piece) > SECTOR:
            self.one_by_one += len(self._compressor.compress(piece))
        self._frame += piece
        if len(self._frame) >= _FRAME:
            self.finish()

    def finish(self) -> None:
        if self._frame:
            self.in_frames += len(self._compressor.compress(bytes(self._frame)))
            self._frame.clear()
