# SPDX-License-Identifier: Apache-2.0
"""A hidden folder beside where things belong, and moving them there."""

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from snapvault.adapters.targets.problems import could_not
from snapvault.errors import RestoreError, TargetNotEmptyError

_PREFIX: Final = ".snapvault-"
_SUFFIX: Final = ".part"
_TAKEN: Final = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}

_libc = ctypes.CDLL(None, use_errno=True)


class Staging:
    """A private folder on the file system of `folder`, which may be there or not yet.

    `tree` in it takes what is to become the folder, or to be added to it. Those that a killed run
    left behind are removed when the next one is made in the same place.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_new = not os.path.lexists(folder)
        place = folder.parent if self._is_new else folder
        self._private = place / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        self._lock = -1
        self._made: list[Path] = []

    @property
    def tree(self) -> Path:
        """Where to unpack."""
        return self._private / "tree"

    def make(self) -> None:
        """Make it, and the folders above it.

        Raises:
            RestoreError: there is no room, or we may not.
        """
        _sweep(self._private.parent)
        try:
            self._make_above()
            self._private.mkdir(mode=0o700)
            self._lock = os.open(self._private, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            _lock(self._lock)
            self.tree.mkdir()
        except OSError as error:
            self.remove()
            what = f'make a folder in "{self._private.parent}"'
            raise could_not(what, self._private.parent, error) from error

    def empty(self) -> None:
        """Start over."""
        _remove(self.tree)
        self.tree.mkdir()

    def remove(self) -> None:
        """Remove what is left of it; safe to repeat."""
        _remove(self._private)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        while self._made:
            with suppress(OSError):
                self._made.pop().rmdir()

    def _make_above(self) -> None:
        place = self._private.parent
        missing = [each for each in (place, *place.parents) if not each.exists()]
        for folder in reversed(missing):
            folder.mkdir()
            self._made.append(folder)

    def discard(self, names: Collection[bytes]) -> None:
        """Remove some files, and the folders that were made for them alone."""
        for name in names:
            path = self.tree / os.fsdecode(name)
            removed = _remove_quietly(path, Path.unlink)
            while removed and path.parent != self.tree:
                path = path.parent
                removed = _remove_quietly(path, Path.rmdir)

    def move(self, *, force: bool) -> None:
        """Move everything into place, after a look at whether all of it can be.

        Raises:
            TargetNotEmptyError: something is in the way.
            RestoreError: it could not be moved.
        """
        _make_durable(self._lock)
        try:
            if self._is_new:
                _rename(self.tree, self._folder)
                self._made.clear()
                return
            device = self._private.stat().st_dev
            moves = list(_moves(self.tree, self._folder, device, force=force))
            for source, target in moves:
                _rename(source, target)
        except OSError as error:
            if error.errno in _TAKEN:
                raise _is_there(self._folder) from error
            where = Path(error.filename2 or error.filename or self._folder)
            raise could_not(f'move "{where}" into place', self._folder, error) from error


def conflict(target: Path, *, is_folder: bool, force: bool) -> RestoreError | None:
    """Return why something cannot be put at a path, if so."""
    try:
        found = target.lstat()
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return _in_the_way(target.parent)
    except OSError as error:
        return could_not(f'look up "{target}"', target.parent, error)
    if stat.S_ISDIR(found.st_mode) != is_folder:
        return _in_the_way(target)
    if is_folder or force:
        return None
    return _is_there(target)


def _is_there(target: Path) -> TargetNotEmptyError:
    return TargetNotEmptyError(
        f'"{target}" is there already',
        hint="Use --force to replace what is there, or restore to another folder.",
    )


def _in_the_way(target: Path) -> TargetNotEmptyError:
    return TargetNotEmptyError(
        f'"{target}" is in the way: it is of another kind than what is restored',
        hint="Move it away, or restore to another folder.",
    )


def _moves(tree: Path, folder: Path, device: int, *, force: bool) -> Iterator[tuple[Path, Path]]:
    """Yield what moves where: folders that are not there yet as a whole."""
    for entry in sorted(os.scandir(tree), key=lambda each: each.name):
        source, target = Path(entry.path), folder / entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        found = conflict(target, is_folder=is_folder, force=force)
        if found is not None:
            raise found
        if not is_folder or not os.path.lexists(target):
            yield source, target
            continue
        if target.stat().st_dev != device:
            raise RestoreError(
                f'cannot restore into "{target}": it is another file system than "{folder}"',
                hint="Restore to a folder on it.",
            )
        yield from _moves(source, target, device, force=force)


def _rename(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except PermissionError:
        # To move a folder is to write to it; whoever is not root needs leave for that.
        mode = stat.S_IMODE(source.lstat().st_mode)
        if not source.is_dir() or mode & stat.S_IWUSR:
            raise
        source.chmod(mode | stat.S_IWUSR)
        try:
            source.replace(target)
        except OSError:
            source.chmod(mode)
            raise
        target.chmod(mode)


def _remove_quietly(path: Path, remove: Callable[[Path], None]) -> bool:
    """Remove a file or an empty folder, and leave the times of the folder that it lies in alone."""
    before = path.parent.stat()
    try:
        remove(path)
    except OSError:
        return False
    os.utime(path.parent, ns=(before.st_atime_ns, before.st_mtime_ns))
    return True


def _remove(folder: Path) -> None:
    def allow(remove: Callable[[str], object], path: str, _: object) -> None:
        """Try again, with leave to write to the folder it lies in."""
        with suppress(OSError):
            Path(path).parent.chmod(0o700)
            if remove in {os.scandir, os.open, os.lstat}:
                Path(path).chmod(0o700)
                shutil.rmtree(path, ignore_errors=True)
            else:
                remove(path)

    shutil.rmtree(folder, onerror=allow)


def _sweep(place: Path) -> None:
    """Remove what killed runs left here: what no process holds."""
    with suppress(OSError):
        for found in place.glob(f"{_PREFIX}*{_SUFFIX}"):
            descriptor = os.open(found, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if _lock(descriptor):
                    _remove(found)
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock a folder until it is closed; return whether it is."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _make_durable(descriptor: int) -> None:
    """Write out the file system that a descriptor lies on."""
    if _libc.syncfs(descriptor):
        os.sync()
