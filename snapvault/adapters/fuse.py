# SPDX-License-Identifier: Apache-2.0
"""A folder that shows disks and their files, read-only, through FUSE (mfusepy)."""

import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from snapvault.adapters import command
from snapvault.adapters.guard import guard
from snapvault.errors import RestoreError, SnapVaultError, SourceError
from snapvault.ports.browsing import Entry, EntryKind, FileSystem, Readable

DISKS: Final = "disks"
FILES: Final = "files"
_SUFFIX: Final = ".raw"
_TYPES: Final = {
    EntryKind.FILE: stat.S_IFREG,
    EntryKind.FOLDER: stat.S_IFDIR,
    EntryKind.LINK: stat.S_IFLNK,
    EntryKind.OTHER: stat.S_IFREG,
}
_LIBRARY: Final = "libfuse3.so.3"
PACKAGES: Final = (
    'Install SnapVault with what looks into file systems: pip install "snapvault[files]".'
)
"""What to do where Python packages are missing."""
_INSTALL: Final = "Install FUSE: apt-get install fuse3."
_UNMOUNT: Final = "fusermount3"
_THREADS: Final = 8
_LOOK: Final = 0.05  # seconds
_PATIENCE: Final = 30.0  # seconds, for what still reads when it ends


class Shown:
    """What is seen: `disks/NAME.raw`, and `files/NAME/` with what lies in a file system.

    Written as the library wants it. `failed` is told what could not be read, and why; whoever read
    gets an I/O error.
    """

    use_ns = True

    def __init__(
        self,
        disks: Mapping[str, Readable],
        trees: Mapping[str, FileSystem],
        *,
        taken: float,
        failed: Callable[[SnapVaultError], None],
    ) -> None:
        self._disks = {f"{name}{_SUFFIX}": disk for name, disk in disks.items()}
        self._trees = trees
        self._taken = taken
        self._failed = failed
        self.is_mounted = threading.Event()
        """Set when the kernel asks for the first time."""

    def init(self, _path: str) -> None:
        """Take note that it is mounted."""
        self.is_mounted.set()

    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        """Return a file's attributes by the names of stat(2)."""
        top, name, inner = _parts(path)
        if top is None or (top in {DISKS, FILES} and name is None):
            return self._own(stat.S_IFDIR | 0o555, 0)
        if top == DISKS and name in self._disks and not inner:
            return self._own(stat.S_IFREG | 0o444, self._disks[name].size)
        entry = self._entry(top, name, inner)
        return {
            "st_mode": _TYPES[entry.kind] | entry.mode,
            "st_size": entry.size if entry.kind is not EntryKind.LINK else len(entry.target),
            "st_uid": entry.owner,
            "st_gid": entry.group,
            "st_nlink": entry.links,
            "st_mtime": int(entry.modified * 1e9),
            "st_ctime": int(entry.modified * 1e9),
            "st_atime": int(entry.modified * 1e9),
        }

    def readdir(self, path: str, _handle: int) -> list[str]:
        """Return the names in a folder."""
        top, name, inner = _parts(path)
        if top is None:
            return [".", "..", DISKS, FILES]
        if name is None:
            return [".", "..", *(self._disks if top == DISKS else self._trees)]
        if top != FILES or name not in self._trees:
            raise OSError(errno.ENOENT, path)
        with self._told():
            return [".", "..", *(entry.name for entry in self._trees[name].list(inner))]

    def readlink(self, path: str) -> str:
        """Return what a link points to."""
        return self._entry(*_parts(path)).target

    def open(self, path: str, flags: int) -> int:
        """Let a file be read from, but not written to."""
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, path)
        return 0

    def read(self, path: str, size: int, offset: int, _handle: int) -> bytes:
        """Return bytes of a file."""
        top, name, inner = _parts(path)
        with self._told():
            if top == DISKS and name in self._disks:
                disk = self._disks[name]
                return bytes(disk.read(offset, max(0, min(size, disk.size - offset))))
            entry = self._entry(top, name, inner)
            if name is None or entry.kind is not EntryKind.FILE:
                raise OSError(errno.EIO, path)
            return self._trees[name].read(entry, offset, size)

    def statfs(self, _path: str) -> dict[str, int]:
        """Tell how large it is: nothing is free."""
        blocks = sum(disk.size for disk in self._disks.values()) // 4096
        return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": blocks, "f_namemax": 255}

    def _entry(self, top: str | None, name: str | None, inner: str) -> Entry:
        if top != FILES or name is None or name not in self._trees:
            raise OSError(errno.ENOENT, inner)
        with self._told():
            entry = self._trees[name].find(inner)
        if entry is None:
            raise OSError(errno.ENOENT, inner)
        return entry

    def _own(self, mode: int, size: int) -> dict[str, int]:
        taken = int(self._taken * 1e9)
        return {
            "st_mode": mode,
            "st_size": size,
            "st_uid": os.geteuid(),
            "st_gid": os.getegid(),
            "st_nlink": 2 if stat.S_ISDIR(mode) else 1,
            "st_mtime": taken,
            "st_ctime": taken,
            "st_atime": taken,
        }

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell what went wrong, and make an I/O error of it."""
        try:
            yield
        except SnapVaultError as error:
            self._failed(error)
            raise OSError(errno.EIO, str(error)) from error


def _parts(path: str) -> tuple[str | None, str | None, str]:
    """Return a path's first name, its second one, and the rest."""
    top, _, rest = path.lstrip("/").partition("/")
    name, _, inner = rest.partition("/")
    return top or None, name or None, inner


class Mount:
    """Shows something at a folder from construction until `close`, or until somebody unmounts it.

    Only this user sees it, whatever owners and modes the files have; with root's rights as well.
    Should this process be killed, the folder is unmounted.

    Raises:
        RestoreError: FUSE is missing, or it may not be mounted there.
    """

    def __init__(self, shown: Shown, folder: Path) -> None:
        self._folder = folder
        self._library = _load()
        self._shown = shown
        self._error: BaseException | None = None
        self._unmount = [_UNMOUNT, "-u", "-z", "--", str(folder)]
        # QUIRK: not the library's auto_unmount, which leaves the folder dead when it looks at it
        # before the kernel has ended the connection of a process that was killed.
        self._guard = guard(self._unmount)
        self._guard.__enter__()
        # QUIRK: nothing joins the thread where a signal may interrupt: Python 3.11 then takes a
        # thread that is at work for one that has ended.
        self._is_over = threading.Event()
        threading.Thread(target=self._serve, name="fuse", daemon=True).start()
        while not shown.is_mounted.wait(_LOOK) and not self._is_over.is_set():
            pass
        if not shown.is_mounted.is_set():
            self._guard.__exit__(None, None, None)
            raise RestoreError(
                f'cannot mount at "{folder}": FUSE refused',
                hint="The folder must be yours and empty, and this user must be allowed to open"
                " /dev/fuse.",
            ) from self._error

    def wait(self) -> None:
        """Wait until somebody unmounts it."""
        while not self._is_over.wait(1.0):
            pass

    def close(self) -> None:
        """Unmount it; what is still open in it fails from then on. Safe to repeat."""
        if not self._is_over.is_set():
            with suppress(SourceError):
                command.run(self._unmount, timeout=_PATIENCE)
            self._is_over.wait(_PATIENCE)
        self._guard.__exit__(None, None, None)

    def _serve(self) -> None:
        # QUIRK: left alone, 3.12 and later print a complaint about their own default.
        has_limit = (self._library.fuse_version_major, self._library.fuse_version_minor) >= (3, 12)
        more = {"max_threads": _THREADS, "max_idle_threads": _THREADS} if has_limit else {}
        try:
            self._library.FUSE(
                self._shown,
                str(self._folder),
                foreground=True,
                ro=True,
                nosuid=True,
                nodev=True,
                noexec=True,
                fsname="snapvault",
                subtype="snapvault",
                **more,
            )
        except Exception as error:  # noqa: BLE001 - told by who waits for the mount
            self._error = error
        finally:
            self._is_over.set()


def _load() -> Any:
    """Load the library, which finds the system's own.

    Raises:
        RestoreError: FUSE is not installed here.
    """
    # QUIRK: it takes libfuse 2 where both are there, and looks for it with a compiler.
    os.environ.setdefault("FUSE_LIBRARY_PATH", _LIBRARY)
    try:
        import mfusepy  # noqa: PLC0415 - it looks for the system's library when it is imported
    except ImportError as error:
        raise RestoreError(
            "mounting needs a Python package that is not installed: mfusepy", hint=PACKAGES
        ) from error
    except OSError as error:
        raise RestoreError("FUSE 3 is missing on this machine", hint=_INSTALL) from error
    if shutil.which(_UNMOUNT) is None:
        raise RestoreError(f'"{_UNMOUNT}" is missing on this machine', hint=_INSTALL)
    return mfusepy
