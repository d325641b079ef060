# SPDX-License-Identifier: Apache-2.0
"""A disk with an ext4 file system, and what the days do to it: the workloads disk, idle and big.

Of what changes in a day, 30 % are new files, for which others of as many bytes are removed; 25 %
are files that were written anew and renamed over the old ones (of every other one, most bytes
stay, some of them elsewhere); 10 % are written inside files; 10 % are lines added to logs; and 25 %
are pages of a file that was made whole at the beginning, most of them in its hot fifth. On every
third day the file system is trimmed: what no file uses becomes a hole. Until then, removed files
leave their bytes, as they do on a disk that takes no discards.
"""

import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import differences, disks, ext4, material
from benchmarks.workloads import Kind
from snapvault.model.policy import DEFAULT_COMPRESSION_LEVEL

_PAGE = 16 << 10  # bytes
_PAGE_FILE = "/srv/pages.db"
_PAGE_FILE_SHARE = 8  # of the data, an eighth
_LOGS = tuple(f"/var/log/service{number}.log" for number in range(12))
_LOG_SHARE = 64  # of the data, a sixty-fourth
_NEW, _ANEW, _INSIDE, _LOG_LINES, _PAGES = 0.30, 0.25, 0.10, 0.10, 0.25
_TRIM_EVERY = 3  # days
_LARGEST = 8 << 20  # bytes of a file that goes or is written anew
_NEIGHBORS = 40  # files


class Disk:
    """A workload: a disk of `disk` bytes with `data` bytes in files, of which a share changes."""

    kind: Kind = "image"

    def __init__(
        self,
        folder: Path,
        *,
        disk: int,
        data: int,
        nights: int,
        share: float = 0.045,
        seed: int = 1,
        name: str = "disk",
    ) -> None:
        self.name = name
        self.nights = nights
        self._folder = folder
        self._image = folder / f"{name}.raw"
        self._size = disk
        self._data = data
        self._budget = round(data * share)
        self._seed = seed
        self._files: dict[str, int] = {}
        self._logs = dict.fromkeys(_LOGS, 0)
        self._pages = data // _PAGE_FILE_SHARE // _PAGE
        self._watcher = differences.Watcher(
            folder / f"{name}.before", level=DEFAULT_COMPRESSION_LEVEL
        )
        self._pool: material.Pool | None = None
        self._told: list[dict[str, int]] = []

    @property
    def data_bytes(self) -> int:
        """Return how much of the image is no hole."""
        return disks.data_bytes(self._image)

    def prepare(self, number: int) -> Path:
        """Make the disk, or change it as that day does.

        Raises:
            BenchmarkError: a program is missing, or the file system is damaged.
        """
        if number == 0:
            self._make()
            self._watcher.first(self._image)
            return self._image
        told = self._change(number) if self._budget else {}
        difference = self._watcher.next(self._image)
        self._told.append({**told, **asdict(difference)})
        return self._image

    def facts(self) -> Mapping[str, Any]:
        """Return what is on the disk and what each night changed."""
        return {
            "disk_bytes": self._size,
            "data_bytes": self.data_bytes,
            "files": len(self._files) + len(self._logs) + 1,
            "nights": list(self._told),
        }

    def close(self) -> None:
        """Remove what was made; safe to repeat."""
        self._watcher.close()
        self._image.unlink(missing_ok=True)
        for folder in (self._material, self._stage):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def _material(self) -> Path:
        return self._folder / f"{self.name}.material"

    @property
    def _stage(self) -> Path:
        return self._folder / f"{self.name}.stage"

    # --- the first day -----------------------------------------------------------------------

    def _make(self) -> None:
        pages, logs = self._pages * _PAGE, self._data // _LOG_SHARE
        files = material.gather(
            self._material,
            self._data - pages - logs,
            seed=self._seed,
            pool_size=pages + self._budget * self.nights,
        )
        self._pool = material.Pool(files.pool)
        self._files = {str(path): size for path, size in files.files}
        disks.make(self._image, self._size, files.files, *_LOGS, _PAGE_FILE)
        with ext4.opened(self._image, ext4.FIRST_DAY) as contents:
            contents.write(_PAGE_FILE, [(0, self._take(pages))])
            self._add_lines(contents, random.Random(f"{self._seed} first"), logs)
        ext4.check(self._image)

    # --- the days after it -------------------------------------------------------------------

    def _change(self, number: int) -> dict[str, int]:
        now = ext4.FIRST_DAY + number * ext4.DAY
        chance = random.Random(f"{self._seed} {number}")
        shutil.rmtree(self._stage, ignore_errors=True)
        self._stage.mkdir(parents=True)
        script = ext4.Script()
        if number > 1:
            script.known("/home")
        inside = self._inside(chance)
        removed = self._remove(chance, script, keep=inside)
        anew = self._anew(chance, script, keep=inside)
        new = self._new(chance, script, number)
        for path in (*inside, *_LOGS, _PAGE_FILE):
            script.touch(path, now)
        script.run(self._image, now)
        with ext4.opened(self._image, now) as contents:
            for path, pieces in inside.items():
                contents.write(path, pieces)
            self._add_lines(contents, chance, round(self._budget * _LOG_LINES))
            pages = self._write_pages(contents, chance)
        if number % _TRIM_EVERY == 0:
            ext4.trim(self._image, now)
        ext4.check(self._image)
        shutil.rmtree(self._stage)
        return {
            "new_files": new,
            "removed_files": removed,
            "renamed_files": anew,
            "files_written_inside": len(inside),
            "pages_written": pages,
        }

    def _take(self, length: int) -> bytes:
        assert self._pool is not None
        return self._pool.take(length)

    def _staged(self, data: bytes, name: str) -> Path:
        path = self._stage / name
        path.write_bytes(data)
        return path

    def _new(self, chance: random.Random, script: ext4.Script, number: int) -> int:
        count, left = 0, round(self._budget * _NEW)
        while left > 0:
            size = min(left, int(2 ** chance.uniform(10, 22)))
            path = f"/home/day{number}/{count // 200}/file{count}"
            script.folder(path.rpartition("/")[0])
            script.write(self._staged(self._take(size), f"new{count}"), path)
            self._files[path] = size
            count, left = count + 1, left - size
        return count

    def _remove(self, chance: random.Random, script: ext4.Script, keep: Mapping[str, Any]) -> int:
        chosen = self._some(chance, round(self._budget * _NEW), keep)
        for path in chosen:
            script.remove(path)
            del self._files[path]
        return len(chosen)

    def _anew(self, chance: random.Random, script: ext4.Script, keep: Mapping[str, Any]) -> int:
        chosen = self._some(chance, round(self._budget * _ANEW), keep)
        old = ext4.fetch(self._image, chosen[::2], self._stage / "old")
        for index, path in enumerate(chosen):
            size = self._files[path]
            data = self._edited(chance, old[path]) if path in old else self._take(size)
            script.replace(self._staged(data, f"anew{index}"), path)
            self._files[path] = len(data)
        return len(chosen)

    def _some(self, chance: random.Random, size: int, keep: Mapping[str, Any]) -> list[str]:
        """Choose files of about so many bytes: some neighbors here, some there, as packages are."""
        names = sorted(self._files.keys() - keep.keys())
        chosen: dict[str, None] = {}
        left = size
        for first in chance.sample(range(len(names)), len(names)):
            for path in names[first : first + _NEIGHBORS]:
                if path not in chosen and self._files[path] <= min(left, _LARGEST):
                    chosen[path] = None
                    left -= self._files[path]
            if left <= size // 100:
                break
        return list(chosen)

    def _edited(self, chance: random.Random, old: bytes) -> bytes:
        """Change some lines: a few bytes go and as many, fewer or more come at some places."""
        data = bytearray(old)
        for _ in range(1 + len(old) // (64 << 10)):
            at = chance.randrange(len(data) + 1)
            data[at : at + chance.randrange(100)] = self._take(chance.randrange(100))
        return bytes(data)

    def _inside(self, chance: random.Random) -> dict[str, list[tuple[int, bytes]]]:
        found: dict[str, list[tuple[int, bytes]]] = {}
        left = round(self._budget * _INSIDE)
        large = sorted(path for path, size in self._files.items() if size >= _PAGE)
        while left > 0 and large:
            path = chance.choice(large)
            size = min(self._files[path], chance.randrange(512, 64 << 10))
            at = chance.randrange(self._files[path] - size + 1)
            found.setdefault(path, []).append((at, self._take(size)))
            left -= size
        return found

    def _add_lines(self, contents: ext4.Contents, chance: random.Random, size: int) -> None:
        weights = [1 / (1 + number) for number in range(len(_LOGS))]
        for path, weight in zip(_LOGS, weights, strict=True):
            lines = _lines(chance, round(size * weight / sum(weights)))
            contents.write(path, [(self._logs[path], lines)])
            self._logs[path] += len(lines)

    def _write_pages(self, contents: ext4.Contents, chance: random.Random) -> int:
        wanted = min(self._pages // 2, round(self._budget * _PAGES) // _PAGE)
        hot = max(1, self._pages // 5)
        first = chance.randrange(self._pages - hot + 1) if self._pages > hot else 0
        chosen: dict[int, None] = {}
        while len(chosen) < wanted:
            near = chance.random() < 0.8
            page = first + chance.randrange(hot) if near else chance.randrange(self._pages)
            chosen[page] = None
        pieces = []
        for page in chosen:
            whole = chance.random() < 0.5
            offset = 0 if whole else chance.randrange(4) * (_PAGE // 4)
            size = _PAGE if whole else _PAGE // 4
            pieces.append((page * _PAGE + offset, self._take(size)))
        contents.write(_PAGE_FILE, pieces)
        return len(pieces)


def _lines(chance: random.Random, size: int) -> bytes:
    """Make lines of a log of about so many bytes."""
    found: list[str] = []
    length = second = 0
    while length < size:
        second += chance.randrange(3)
        line = (
            f"{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02} web01 front[812]: "
            f"10.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(256)} "
            f'"GET /products/{chance.randrange(100_000)}?page={chance.randrange(30)}" '
            f"{chance.choice((200, 200, 200, 304, 404))} {chance.randrange(90_000)} "
            f"{chance.randrange(900) / 1000:.3f}\n"
        )
        found.append(line)
        length += len(line)
    return "".join(found).encode()
