# SPDX-License-Identifier: Apache-2.0
"""A hidden folder beside where things belong, and moving them there.

Whoever owns the folder that is restored to may put links into it meanwhile, and move ours about.
So what lies in ours is reached through its descriptor, and what lies in theirs step by step,
following no links.
"""

import ctypes
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from snapvault.adapters import command
from snapvault.adapters.targets.problems import could_not
from snapvault.errors import RestoreError, SourceError, TargetNotEmptyError

_PREFIX: Final = ".snapvault-"
_SUFFIX: Final = ".part"
_SHOWN: Final = 200  # characters of an overlong path
_TREE: Final = "tree"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
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
        self._inside = -1
        self._made: list[Path] = []

    @property
    def tree(self) -> Path:
        """Where to unpack, by a way that nobody else can bend; for us and for what we start."""
        return Path(f"/proc/{os.getpid()}/fd/{self._inside}")

    def make(self) -> None:
        """Make it, and the folders above it.

        Raises:
            RestoreError: there is no room, or we may not.
        """
        _sweep(self._private.parent)
        try:
            self._make_above()
            self._private.mkdir(mode=0o700)
            self._lock = os.open(self._private, _FOLDER)
            _lock(self._lock)
            self._make_tree()
        except OSError as error:
            self.remove()
            what = f'make a folder in "{self._private.parent}"'
            raise could_not(what, self._private.parent, error) from error

    def empty(self) -> None:
        """Start over."""
        _remove(Path(f"/proc/{os.getpid()}/fd/{self._lock}/{_TREE}"))
        self._make_tree()

    def remove(self) -> None:
        """Remove what is left of it; safe to repeat."""
        for descriptor in (self._inside, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        if self._lock >= 0:
            _remove(self._private)
        self._inside = self._lock = -1
        while self._made:
            with suppress(OSError):
                self._made.pop().rmdir()

    def _make_tree(self) -> None:
        os.mkdir(_TREE, dir_fd=self._lock)
        if self._inside >= 0:
            os.close(self._inside)
        self._inside = os.open(_TREE, _FOLDER, dir_fd=self._lock)

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
        moving = self._folder
        try:
            if self._is_new:
                _rename(self._lock, _TREE, self._folder)
                self._made.clear()
                return
            names = list(_moves(self.tree, self._folder, force=force))
            root = os.open(self._folder, _FOLDER & ~os.O_NOFOLLOW)
            try:
                for name in names:
                    moving = self._folder / name
                    _move(self._inside, root, name)
            finally:
                os.close(root)
        except OSError as error:
            if error.errno in _TAKEN:
                raise _is_there(self._folder) from error
            raise could_not(f'move "{moving}" into place', self._folder, error) from error


def conflict(folder: Path, name: str, *, is_folder: bool, force: bool) -> RestoreError | None:
    """Return why something cannot be put at a path below a folder, if so."""
    target = folder / name
    try:
        found = target.lstat()
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return _in_the_way(target.parent)
    except OSError as error:
        return _unknown(target, error)
    if stat.S_ISDIR(found.st_mode) != is_folder:
        return _in_the_way(target)
    if is_folder or force:
        return None
    return _is_there(target)


def _unknown(target: Path, error: OSError) -> RestoreError:
    if error.errno != errno.ENAMETOOLONG:
        return could_not(f'look up "{target}"', target.parent, error)
    # LIMIT: 4095 bytes (Linux). GNU tar packs what is deeper, and does not unpack it.
    return RestoreError(
        f'cannot unpack "{str(target)[:_SHOWN]}…": the path is longer than the system allows',
        hint="Restore other paths with --path, or the archive to a file.",
    )


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


def _moves(tree: Path, folder: Path, *, force: bool) -> Iterator[str]:
    """Yield what moves, by its path: folders that are not there yet as a whole."""
    device = folder.stat().st_dev
    waiting = [""]
    while waiting:
        above = waiting.pop()
        for entry in sorted(os.scandir(tree / above), key=lambda each: each.name):
            name = f"{above}/{entry.name}" if above else entry.name
            target = folder / name
            is_folder = entry.is_dir(follow_symlinks=False)
            found = conflict(folder, name, is_folder=is_folder, force=force)
            if found is not None:
                raise found
            if not is_folder or not os.path.lexists(target):
                yield name
                continue
            if target.lstat().st_dev != device:
                raise RestoreError(
                    f'cannot restore into "{target}": it is another file system than "{folder}"',
                    hint="Restore to a folder on it.",
                )
            waiting.append(name)


@contextmanager
def _opened(root: int, name: str) -> Iterator[int]:
    """Open a folder below another one, following no links; an empty name is that one."""
    descriptor = os.dup(root)
    try:
        for part in filter(None, name.split("/")):
            inner = os.open(part, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _move(inside: int, root: int, name: str) -> None:
    """Move what has a path in our folder to the same path in theirs."""
    above, _, last = name.rpartition("/")
    with _opened(inside, above) as source, _opened(root, above) as place:
        _rename(source, last, last, place)


def _rename(source: int, name: str, target: str | Path, place: int | None = None) -> None:
    """Move what is called `name` in the folder `source`; `target` is relative to `place`."""
    try:
        os.replace(name, target, src_dir_fd=source, dst_dir_fd=place)
    except PermissionError:
        # To move a folder is to write to it; whoever is not root needs leave for that.
        mode = stat.S_IMODE(os.lstat(name, dir_fd=source).st_mode)
        if not stat.S_ISDIR(os.lstat(name, dir_fd=source).st_mode) or mode & stat.S_IWUSR:
            raise
        # Nobody else can put a link into `source`, which is ours.
        os.chmod(name, stat.S_IRWXU, dir_fd=source)
        moved = os.open(name, _FOLDER, dir_fd=source)
        try:
            os.replace(name, target, src_dir_fd=source, dst_dir_fd=place)
        finally:
            os.fchmod(moved, mode)
            os.close(moved)


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
    """Remove a folder, however deep it is, and whatever rights its folders lack."""
    with suppress(SourceError):
        for argv in (("rm", "-rf"), ("chmod", "-R", "u+rwx"), ("rm", "-rf")):
            command.run([*argv, "--", str(folder)], check=False)
            if not os.path.lexists(folder):
                return


def _sweep(place: Path) -> None:
    """Remove what killed runs left here: what no process holds."""
    with suppress(OSError):
        for found in place.glob(f"{_PREFIX}*{_SUFFIX}"):
            descriptor = os.open(found, _FOLDER)
            try:
                is_ours = os.fstat(descriptor).st_uid == os.geteuid()
                if is_ours and _lock(descriptor):
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
