# SPDX-License-Identifier: Apache-2.0
"""Disks to back up: a real ext4 file system in a sparse file, and nights that change it."""

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard
from blake3 import blake3

from benchmarks import ext4
from benchmarks.measure import BenchmarkError

BLOCK = 16 << 10  # bytes: what a night's change is counted in
_PIECE = 1 << 20
_GRAIN = 64 << 10  # zeros of this length count as a hole, whoever wrote them
_LONGEST_RUN = 64  # blocks
_SMALLEST_EDIT = 512  # bytes


def make(image: Path, size: int, files: Sequence[tuple[Path, int]], *others: str) -> None:
    """Make an ext4 file system of `size` bytes that holds files of this machine under their paths.

    `others` are paths of empty files.

    Raises:
        BenchmarkError: a program is missing or failed, or there is no room.
    """
    ext4.make(image, size)
    script = ext4.Script()
    sources = [(path, str(path)) for path, _ in files]
    for source, path in (*sources, *((Path("/dev/null"), path) for path in others)):
        script.folder(path.rpartition("/")[0])
        script.write(source, path)
    script.run(image, ext4.FIRST_DAY)


def data_ranges(image: Path) -> Iterator[tuple[int, int]]:
    """Yield the half-open ranges of a file that are no holes, in order."""
    with image.open("rb") as file:
        descriptor, end = file.fileno(), os.fstat(file.fileno()).st_size
        at = 0
        while at < end:
            try:
                at = os.lseek(descriptor, at, os.SEEK_DATA)
            except OSError:
                return
            stop = os.lseek(descriptor, at, os.SEEK_HOLE)
            yield at, stop
            at = stop


def data_bytes(image: Path) -> int:
    """Return how many bytes of a file are no holes."""
    return sum(stop - start for start, stop in data_ranges(image))


def fingerprint(path: Path) -> str:
    """Return a hash of a file's size and of all its bytes that are not zero, with their places.

    Files are equal when their fingerprints are, wherever their holes lie. What is read does
    not stay in the page cache.
    """
    total = blake3(path.stat().st_size.to_bytes(8, "big"))
    zeros = bytes(_GRAIN)
    with path.open("rb", buffering=0) as file:
        done = 0
        for start, stop in data_ranges(path):
            at = max(done, start - start % _GRAIN)
            while at < stop:
                length = min(_PIECE, -(-stop // _GRAIN) * _GRAIN - at)
                piece = os.pread(file.fileno(), length, at)
                for offset in range(0, len(piece), _GRAIN):
                    grain = piece[offset : offset + _GRAIN]
                    if grain != zeros[: len(grain)]:
                        total.update((at + offset).to_bytes(8, "big"))
                        total.update(grain)
                at += length
            done = at
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return total.hexdigest()


@dataclass(frozen=True, slots=True)
class Night:
    """What changed: a copy of all blocks that differ, and how much compressing them alone takes."""

    blocks: int
    in_frames: int
    one_by_one: int


def change(image: Path, pool: Path, *, share: float, seed: int, level: int) -> Night:
    """Change a share of the blocks that hold data, as a day's work does, in place.

    Three fifths of them lie in runs of up to 64 blocks and get new bytes throughout (new files,
    logs). The others are scattered, and an eighth to all of each gets new bytes (pages of
    databases, inodes, directories). New bytes are bytes of real files.
    """
    chance = random.Random(seed)
    blocks = [
        number
        for start, stop in data_ranges(image)
        for number in range(-(-start // BLOCK), stop // BLOCK)
    ]
    wanted = round(len(blocks) * share)
    touched: dict[int, None] = {}
    with image.open("r+b", buffering=0) as disk, pool.open("rb", buffering=0) as source:
        room = os.fstat(source.fileno()).st_size - _LONGEST_RUN * BLOCK
        if room <= 0:
            raise BenchmarkError("there are too few bytes to change disks with")
        while len(touched) < wanted * 3 // 5:
            first = chance.randrange(len(blocks))
            run = blocks[first : first + chance.randrange(8, _LONGEST_RUN + 1)]
            run = run[: wanted * 3 // 5 - len(touched) or 1]
            data = os.pread(source.fileno(), len(run) * BLOCK, chance.randrange(room))
            for index, number in enumerate(run):
                _write(disk.fileno(), number * BLOCK, data[index * BLOCK :][:BLOCK])
                touched[number] = None
        while len(touched) < wanted:
            number = chance.choice(blocks)
            length = chance.randrange(BLOCK // 8, BLOCK + 1, _SMALLEST_EDIT)
            offset = chance.randrange(0, BLOCK - length + 1, _SMALLEST_EDIT)
            data = os.pread(source.fileno(), length, chance.randrange(room))
            _write(disk.fileno(), number * BLOCK + offset, data)
            touched[number] = None
        os.fsync(disk.fileno())
        changed = sorted(touched)
        compressor = zstandard.ZstdCompressor(level=level)
        in_frames = one_by_one = 0
        frame: list[bytes] = []
        for number in changed:
            block = os.pread(disk.fileno(), BLOCK, number * BLOCK)
            one_by_one += len(compressor.compress(block))
            frame.append(block)
            if len(frame) * BLOCK == _PIECE:
                in_frames += len(compressor.compress(b"".join(frame)))
                frame = []
        if frame:
            in_frames += len(compressor.compress(b"".join(frame)))
    return Night(len(changed), in_frames, one_by_one)


def _write(descriptor: int, offset: int, data: bytes) -> None:
    if os.pwrite(descriptor, data, offset) != len(data):
        raise BenchmarkError("could not change the disk: no room")
