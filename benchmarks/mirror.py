# SPDX-License-Identifier: Apache-2.0
"""A folder as it would be on a disk: the same files in an ext4 file system, changed where they are.

Only blocks whose bytes differ are written, each at its place in its file, and what a file grew by
is added to it. So the disk changes as it would with the folder on it.
"""

from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from benchmarks import ext4

_BLOCK = 4096
_PIECE = 1 << 20


class Mirror:
    """Keeps a folder's files in the file system of `image`, in the folder `place` of it."""

    def __init__(self, folder: Path, image: Path, place: str) -> None:
        self._folder = folder
        self._image = image
        self._place = place
        self._known: dict[str, list[bytes]] = {}  # hashes of the blocks of each file
        self._made: set[str] = set()

    def update(self, now: int) -> None:
        """Bring the file system to what the folder holds, at that time in seconds.

        Raises:
            BenchmarkError: there is no room, or the file system is damaged.
        """
        files = {
            str(path.relative_to(self._folder)): path
            for path in sorted(self._folder.rglob("*"))
            if path.is_file()
        }
        script = ext4.Script()
        script.known(*self._made)
        for name in [*self._known]:
            if name not in files or _blocks(files[name]) < len(self._known[name]):
                script.remove(f"{self._place}/{name}")
                del self._known[name]
        for name in files:
            if name not in self._known:
                place = f"{self._place}/{name}"
                script.folder(place.rpartition("/")[0])
                script.write(Path("/dev/null"), place)
                self._known[name] = []
        self._made = script.folders
        script.run(self._image, now)
        touched = ext4.Script()
        with ext4.opened(self._image, now) as contents:
            for name, path in files.items():
                if self._write(contents, name, path):
                    touched.touch(f"{self._place}/{name}", now)
        touched.run(self._image, now)
        ext4.check(self._image)

    def _write(self, contents: ext4.Contents, name: str, path: Path) -> int:
        """Write what differs; return how many bytes did."""
        known, written = self._known[name], 0
        with path.open("rb") as file:
            for start in range(0, path.stat().st_size, _PIECE):
                piece = file.read(_PIECE)
                runs = list(_differing(piece, start // _BLOCK, known))
                if runs:
                    contents.write(f"{self._place}/{name}", runs)
                written += sum(len(data) for _, data in runs)
        return written


def _blocks(path: Path) -> int:
    return -(-path.stat().st_size // _BLOCK)


def _differing(piece: bytes, first: int, known: list[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the runs of a piece that are not as known, and know them from then on."""
    begin = end = 0
    for at in range(0, len(piece), _BLOCK):
        number, block = first + at // _BLOCK, piece[at : at + _BLOCK]
        digest = blake3(block).digest(16)
        if number < len(known) and known[number] == digest:
            continue
        if number < len(known):
            known[number] = digest
        else:
            known.append(digest)
        if at != end and end > begin:
            yield first * _BLOCK + begin, piece[begin:end]
        begin, end = (at if at != end else begin), at + len(block)
    if end > begin:
        yield first * _BLOCK + begin, piece[begin:end]
