# SPDX-License-Identifier: Apache-2.0
"""Real bytes of this machine to fill disks with: programs, libraries, pictures, text.

Which files are taken follows from a seed and from what is installed. So two machines measure
different bytes; the reports say how much data there was, and figures are per GiB of it.
"""

import functools
import os
import random
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import ext4
from benchmarks.measure import BenchmarkError

_ROOTS = (Path("/usr"), Path("/opt"), Path("/var/lib"))
_LARGEST = 64 << 20  # a file that alone would be a good part of a disk says little
_POOL_SHARE = 8  # nights draw their bytes from an eighth as much again, unless told otherwise


@dataclass(frozen=True, slots=True)
class Material:
    """Real files with their sizes, and a file with bytes of others that are not among them."""

    files: Sequence[tuple[Path, int]]
    pool: Path

    @property
    def size(self) -> int:
        """How long all files are together."""
        return sum(length for _, length in self.files)


def gather(folder: Path, size: int, *, seed: int, pool_size: int | None = None) -> Material:
    """Choose files of about `size` bytes, fewer where the machine has fewer; `folder` gets a pool.

    Raises:
        BenchmarkError: the machine has hardly any files.
    """
    wanted = size // _POOL_SHARE if pool_size is None else pool_size
    candidates = [each for each in _candidates(seed) if ext4.fits(each[0])]
    size = min(size, sum(length for _, length in candidates) * size // (size + wanted))
    if size < 1 << 20:
        raise BenchmarkError("this machine has too few files in /usr, /opt and /var/lib")
    folder.mkdir(parents=True, exist_ok=True)
    taken, left, files = 0, iter(candidates), []
    for path, length in left:
        files.append((path, length))
        taken += length
        if taken >= size:
            break
    pool = folder / "pool"
    with pool.open("wb") as out:
        for path, _ in left:
            if out.tell() >= wanted:
                break
            with suppress(OSError), path.open("rb") as file:
                shutil.copyfileobj(file, out, 1 << 20)
    # Neighbors of the machine are neighbors on the disk.
    return Material(sorted(files), pool)


class Pool:
    """Gives the bytes of a file one after the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size
        self._taken = 0

    def take(self, length: int) -> bytes:
        """Return the next bytes; nothing is given twice.

        When all were given they come again, as compressible as before and each another one.
        """
        found = bytearray()
        with self._path.open("rb") as file:
            while len(found) < length:
                turn, at = divmod(self._taken, self._size)
                file.seek(at)
                piece = np.frombuffer(file.read(length - len(found)), np.uint8)
                found += (piece ^ np.uint8(turn * 0x5B & 0xFF)).tobytes()
                self._taken += len(piece)
        return bytes(found)


@functools.cache
def _candidates(seed: int) -> Sequence[tuple[Path, int]]:
    """Return readable files and their sizes, shuffled, those of the first root before others."""
    chance = random.Random(seed)
    seen: set[tuple[int, int]] = set()
    found: list[tuple[Path, int]] = []
    for root in _ROOTS:
        files = list(_files(root, seen))
        chance.shuffle(files)
        found += files
    return found


def _files(root: Path, seen: set[tuple[int, int]]) -> Iterator[tuple[Path, int]]:
    """Yield the files of one file system below a root, hard links once, in an order that stays."""
    device = root.stat().st_dev if root.exists() else -1
    for where, folders, names in os.walk(root):
        folders[:] = sorted(each for each in folders if _is_there(Path(where) / each, device))
        for name in sorted(names):
            path = Path(where) / name
            with suppress(OSError):
                status = path.lstat()
                key = (status.st_dev, status.st_ino)
                if not stat.S_ISREG(status.st_mode) or key in seen:
                    continue
                if 0 < status.st_size <= _LARGEST and os.access(path, os.R_OK):
                    seen.add(key)
                    yield path, status.st_size


def _is_there(folder: Path, device: int) -> bool:
    with suppress(OSError):
        # What programs write while they run makes no two runs alike.
        return folder.lstat().st_dev == device and folder.name != "__pycache__"
    return False
