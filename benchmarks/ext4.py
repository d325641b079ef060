# SPDX-License-Identifier: Apache-2.0
"""An ext4 file system in a file, made and changed without mounting it, so that no root is needed.

Names are changed by debugfs, contents by libext2fs, which comes with it; both are the file system
in user space that e2fsprogs is made of. The same steps make the same bytes: identifiers are fixed,
and times are what the caller says they are. What a kernel would have written into the journal
is not there.
"""

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import BenchmarkError

FIRST_DAY = 1_780_000_000  # seconds: the time at which every file system here is made
DAY = 86_400  # seconds

_UUID = "5f0c1f5e-6d0f-4b5f-9a43-8a0d3a7c2b11"
_CLOCK, _CLOCK_OF_FSCK = "E2FSPROGS_FAKE_TIME", "E2FSCK_TIME"
_BLOCK = 4096
_NAME = re.compile(r"[A-Za-z0-9._+@,=~:%-]+")  # words that debugfs takes as they are
_ROOT = 2  # the inode of the root
_OPEN_RW = 1
_OPEN_64BITS = 0x20000
_FILE_WRITE = 1


def make(image: Path, size: int, *, cluster: int | None = None) -> None:
    """Make an empty file system of `size` bytes in a sparse file.

    With a `cluster`, a length in bytes, what a file holds lies at multiples of it. A kernel lays
    out large files so by itself; libext2fs takes the first free block.

    Raises:
        BenchmarkError: mkfs.ext4 is missing or failed.
    """
    with image.open("wb") as file:
        file.truncate(size)
    options = f"lazy_itable_init=1,lazy_journal_init=1,nodiscard,hash_seed={_UUID}"
    words = ["-q", "-F", "-m", "0", "-b", str(_BLOCK), "-U", _UUID, "-E", options]
    if cluster is not None:
        words += ["-O", "bigalloc", "-C", str(cluster)]
    _run([_program("mkfs.ext4"), *words, str(image)], FIRST_DAY)


def fits(path: Path) -> bool:
    """Tell whether a file of this path can be written under it."""
    return all(_NAME.fullmatch(part) for part in path.parts if part != "/")


def fetch(image: Path, paths: Sequence[str], folder: Path) -> dict[str, bytes]:
    """Return what files hold; `folder`, which is made and removed, takes them meanwhile.

    Raises:
        BenchmarkError: there is no such file.
    """
    folder.mkdir()
    script = folder / "script"
    copies = {path: folder / str(number) for number, path in enumerate(paths)}
    script.write_text("".join(f"dump {path} {copy}\n" for path, copy in copies.items()))
    try:
        _run([_program("debugfs"), "-f", str(script), str(image)], FIRST_DAY)
        return {path: copy.read_bytes() for path, copy in copies.items()}
    finally:
        shutil.rmtree(folder)


class Script:
    """Changes of names, done in one go by `run`. Paths begin at the root: "/var/log/syslog"."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._folders: set[str] = {"", "/"}

    def folder(self, path: str) -> None:
        """Make a folder and those above it, unless this script has made them."""
        if path in self._folders:
            return
        above, _, name = path.rpartition("/")
        self.folder(above)
        self._folders.add(path)
        # debugfs takes "/home" for a folder of the current one.
        self._lines += [f"cd {above or '/'}", f"mkdir {name}"]

    @property
    def folders(self) -> set[str]:
        """The folders that are made when it has run."""
        return self._folders

    def known(self, *folders: str) -> None:
        """Take folders for made."""
        self._folders.update(folders)

    def write(self, source: Path, path: str) -> None:
        """Write a file of this machine under a new name."""
        above, _, name = path.rpartition("/")
        self._lines += [f"cd {above or '/'}", f"write {source} {name}"]

    def remove(self, path: str) -> None:
        """Remove a file, as unlink does."""
        self._lines.append(f"rm {path}")

    def replace(self, source: Path, path: str) -> None:
        """Write a file anew beside the old one and rename it over it, as programs do."""
        self.write(source, f"{path}.new")
        self._lines += [f"rm {path}", f"ln {path}.new {path}", f"unlink {path}.new"]

    def touch(self, path: str, now: int) -> None:
        """Set when a file was last written."""
        self._lines += [f"sif {path} {field} @{now}" for field in ("mtime", "ctime")]

    def run(self, image: Path, now: int) -> None:
        """Do it, at that time in seconds.

        Raises:
            BenchmarkError: debugfs is missing, or a step failed.
        """
        if not self._lines:
            return
        script = image.with_name(f"{image.name}.script")
        script.write_text("\n".join([*self._lines, ""]))
        try:
            _run([_program("debugfs"), "-w", "-f", str(script), str(image)], now)
        finally:
            script.unlink()


class Contents:
    """What files hold, to be written anywhere in them and beyond their ends; see `opened`."""

    def __init__(self, library: ctypes.CDLL, system: ctypes.c_void_p) -> None:
        self._library = library
        self._system = system

    def write(self, path: str, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Write pieces at their offsets into a file that is there; it grows as needed.

        Raises:
            BenchmarkError: there is no such file, or no room.
        """
        number, file = ctypes.c_uint32(), ctypes.c_void_p()
        library = self._library
        root = ctypes.c_uint32(_ROOT)
        name = path.encode()
        self._do(path, library.ext2fs_namei, root, root, name, ctypes.byref(number))
        how = ctypes.c_int(_FILE_WRITE)
        self._do(path, library.ext2fs_file_open, number, how, ctypes.byref(file))
        try:
            for offset, data in pieces:
                place, done = ctypes.c_uint64(offset), ctypes.c_uint()
                _require(path, library.ext2fs_file_llseek(file, place, 0, None))
                length = ctypes.c_uint(len(data))
                _require(path, library.ext2fs_file_write(file, data, length, ctypes.byref(done)))
        finally:
            _require(path, library.ext2fs_file_close(file))

    def _do(self, path: str, call: "ctypes._NamedFuncPointer", *words: object) -> None:
        _require(path, call(self._system, *words))


@contextmanager
def opened(image: Path, now: int) -> Iterator[Contents]:
    """Open a file system to write contents, at that time in seconds.

    Raises:
        BenchmarkError: libext2fs is missing, or this is no file system that it can write.
    """
    try:
        library = ctypes.CDLL("libext2fs.so.2")
    except OSError as error:
        raise BenchmarkError("libext2fs is missing: apt-get install e2fsprogs") from error
    for name in ("ext2fs_open", "ext2fs_read_bitmaps", "ext2fs_namei", "ext2fs_file_open"):
        getattr(library, name).restype = ctypes.c_long
    for name in ("ext2fs_file_llseek", "ext2fs_file_write", "ext2fs_file_close"):
        getattr(library, name).restype = ctypes.c_long
    library.ext2fs_close_free.restype = ctypes.c_long
    before = os.environ.get(_CLOCK)
    os.environ[_CLOCK] = str(now)
    try:
        system = ctypes.c_void_p()
        manager = ctypes.c_void_p.in_dll(library, "unix_io_manager")
        how = ctypes.c_int(_OPEN_RW | _OPEN_64BITS)
        none = ctypes.c_uint(0)
        name_of = str(image).encode()
        opening = library.ext2fs_open(name_of, how, 0, none, manager, ctypes.byref(system))
        _require(str(image), opening)
        try:
            _require(str(image), library.ext2fs_read_bitmaps(system))
            yield Contents(library, system)
        finally:
            _require(str(image), library.ext2fs_close_free(ctypes.byref(system)))
    finally:
        if before is None:
            del os.environ[_CLOCK]
        else:
            os.environ[_CLOCK] = before


def trim(image: Path, now: int) -> None:
    """Turn what no file uses any more into holes, as fstrim does on a disk that takes discards.

    Raises:
        BenchmarkError: the file system is damaged.
    """
    _run([_program("e2fsck"), "-f", "-y", "-E", "discard", str(image)], now)


def check(image: Path) -> None:
    """Require that a file system is in order.

    Raises:
        BenchmarkError: it is not; the message says what e2fsck found.
    """
    _run([_program("e2fsck"), "-f", "-n", str(image)], FIRST_DAY)


def _program(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise BenchmarkError(f"{name} is not installed: apt-get install e2fsprogs")
    return path


def _run(command: Sequence[str], now: int) -> None:
    environment = {**os.environ, _CLOCK: str(now), _CLOCK_OF_FSCK: str(now), "LC_ALL": "C"}
    done = subprocess.run(
        command, capture_output=True, check=False, env=environment, stdin=subprocess.DEVNULL
    )
    name = Path(command[0]).name
    said = done.stderr.decode(errors="replace").splitlines()
    # debugfs ends with 0 whatever happened; its first line says which version it is.
    complaints = [line for line in said if not line.startswith(f"{name} ")]
    if done.returncode != 0 or (name == "debugfs" and complaints):
        found = complaints or done.stdout.decode(errors="replace").splitlines()
        raise BenchmarkError(f"{name}: {' '.join(found[-3:])}")


def _require(what: str, code: int) -> None:
    if code != 0:
        raise BenchmarkError(f'could not write "{what}": libext2fs says {code}')
