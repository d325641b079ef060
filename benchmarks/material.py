# SPDX-License-Identifier: Apache-2.0
"""Real bytes of this machine to fill disks with: programs, libraries, pictures, text.

Which files are taken follows from a seed and from what is installed. So two machines measure
different bytes; the reports say how much data there was, and figures are per GiB of it.
"""

import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measure import BenchmarkError

_ROOTS = (Path("/usr"), Path("/opt"), Path("/var/lib"))
_LARGEST = 64 << 20  # a file that alone would be a good part of a disk says little
_POOL_SHARE = 8  # nights draw their bytes from an eighth as much again


@dataclass(frozen=True, slots=True)
class Material:
    """A folder of real files, and a file with bytes of others that are not among them."""

    tree: Path
    pool: Path
    files: int
    size: int


def gather(folder: Path, size: int, *, seed: int) -> Material:
    """Copy about `size` bytes of real files to `folder`; fewer where the machine has fewer.

    Raises:
        BenchmarkError: the machine has hardly any files.
    """
    candidates = _candidates(seed)
    have = sum(length for _, length in candidates)
    size = min(size, have * _POOL_SHARE // (_POOL_SHARE + 1))
    if size < 1 << 20:
        raise BenchmarkError("this machine has too few files in /usr, /opt and /var/lib")
    tree = folder / "tree"
    tree.mkdir(parents=True)
    taken = files = 0
    left = iter(candidates)
    for path, length in left:
        if taken >= size:
            break
        target = tree / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            shutil.copyfile(path, target)
            taken += length
            files += 1
    pool = folder / "pool"
    with pool.open("wb") as out:
        for path, _ in left:
            if out.tell() >= size // _POOL_SHARE:
                break
            with suppress(OSError), path.open("rb") as file:
                shutil.copyfileobj(file, out, 1 << 20)
    return Material(tree, pool, files, taken)


@dataclass(frozen=True, slots=True)
class Choice:
    """Real files with their sizes, and bytes of others."""

    files: Sequence[tuple[Path, int]]
    pool: "Pool"


def choose(
    pool: Path, size: int, *, wanted: Callable[[Path], bool], pool_size: int, seed: int
) -> Choice:
    """Choose files of about `size` bytes, and write others into the file `pool`; fewer where few.

    Raises:
        BenchmarkError: the machine has hardly any files.
    """
    candidates = [each for each in _candidates(seed) if wanted(each[0])]
    have = sum(length for _, length in candidates)
    if have < 1 << 20:
        raise BenchmarkError("this machine has too few files in /usr, /opt and /var/lib")
    size = min(size, have * size // (size + pool_size))
    taken, left, files = 0, iter(candidates), []
    for path, length in left:
        if taken >= size:
            break
        files.append((path, length))
        taken += length
    with pool.open("wb") as out:
        for path, _ in left:
            if out.tell() >= pool_size:
                break
            with suppress(OSError), path.open("rb") as file:
                shutil.copyfileobj(file, out, 1 << 20)
    return Choice(files, Pool(pool))


class Pool:
    """Bytes of real files that are nowhere else."""

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

    def remove(self) -> None:
        """Remove the file; safe to repeat."""
        self._path.unlink(missing_ok=True)


def _candidates(seed: int) -> list[tuple[Path, int]]:
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
