# SPDX-License-Identifier: Apache-2.0
"""A file as a target: sparse, and under its name only when it is whole.

Until `commit` the file has no name at all where the file system allows that (O_TMPFILE), so
that nothing is left even by a killed process. Elsewhere it is a hidden file beside the
final one, `.NAME.<random>.snapvault-part`, locked while it is in the making; one that a
dead run left is removed by the next restore to the same name.
"""

import ctypes
import errno
import fcntl
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Self

from snapvault.adapters.targets.holes import allocate, make_zeros
from snapvault.adapters.targets.problems import could_not, not_a_file, too_large
from snapvault.adapters.targets.quiet import QuietFile
from snapvault.errors import RestoreError, TargetNotEmptyError

# Restored data is as secret as the source was: only whoever restores may read it.
_MODE = 0o600

_SUFFIX = ".snapvault-part"
_RANDOM_DIGITS = 8
_LONGEST_NAME = 255  # bytes; LIMIT: Linux file systems

_NO_UNNAMED = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOSYS}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_NO_CALL = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}

_RENAME_NOREPLACE = 1  # linux/fs.h

_libc = ctypes.CDLL(None, use_errno=True)


class FileTarget:
    """A file in the making. `create` is the way in.

    It is readable by its owner alone, whoever could read what it replaces.
    """

    def __init__(
        self, path: Path, folder: int, descriptor: int, part: str | None, *, size: int, force: bool
    ) -> None:
        """Take over open descriptors of the folder and of the file, named `part` there."""
        self._path = path
        self._label = f'file "{path}"'
        self._folder = folder
        self._part = part
        self._force = force
        self._file = QuietFile(descriptor, size=size, label=self._label, where=path.parent)
        self._touched = False
        self._open = True

    @classmethod
    def create(cls, path: Path, size: int, *, force: bool, unnamed: bool = True) -> Self:
        """Begin a file of `size` bytes, all zeros. With `unnamed` False it has a hidden name.

        With `force` a file that is there is replaced at the commit, and stays as it is until
        then; its other hard links, and who has it open, keep the old one. A symbolic link stays,
        and what it points to is made or replaced; without `force` it is never followed,
        so that nobody can redirect a restore by planting one.

        Raises:
            TargetNotEmptyError: without `force`, the name is taken.
            RestoreError: a folder or something else has the name, or its folder cannot take it.
        """
        final = require_free(path, force=force)
        folder = _open_folder(final.parent)
        try:
            _sweep(folder, final.name)
            descriptor, part = _begin(folder, final, unnamed=unnamed)
        except BaseException:
            os.close(folder)
            raise
        target = cls(final, folder, descriptor, part, size=size, force=force)
        try:
            os.ftruncate(descriptor, size)
        except OSError as error:
            target.abort()
            if error.errno in (errno.EFBIG, errno.EINVAL):
                raise too_large(f'file "{path}"', size) from error
            raise could_not(f'make file "{path}"', final.parent, error) from error
        return target

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data`."""
        self._touched = True
        self._file.write(offset, data)

    def reserve(self, offset: int, length: int) -> None:
        """Take room for a range, so that a disk that fills up cannot stop the restore half-way.

        Where the file system cannot, nothing happens. It also makes small writes cheaper.
        """
        self._file.require_inside(offset, length)
        try:
            allocate(self._file.descriptor, offset, length)
        except OSError as error:
            raise could_not(f"make {self._label}", self._path.parent, error) from error

    def zero(self, offset: int, length: int) -> None:
        """Make a range a hole."""
        self._file.require_inside(offset, length)
        # Nothing is written yet: all of it is a hole.
        if self._touched:
            make_zeros(self._file, offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Read back what was written."""
        self._file.read_into(offset, buffer)

    def commit(self) -> None:
        """Make it durable, then give it its name.

        Without `force` the name is taken in one step that never replaces anything. With it,
        the old file is replaced in one step.
        """
        # ORDER: bytes are durable before the name shows them, and the name before we say so:
        # a power cut leaves the old file, nothing, or all of the new one.
        self._file.sync()
        try:
            if self._force:
                self._replace()
            else:
                self._appear()
            _sync_folder(self._folder)
        except FileExistsError as error:
            raise TargetNotEmptyError(
                f"{self._label} appeared while it was restored",
                hint="Move it away, or use --force to replace it.",
            ) from error
        except OSError as error:
            raise could_not(f"give {self._label} its name", self._path.parent, error) from error
        self._close()

    def abort(self) -> None:
        """Give up and leave nothing, not even the hidden file."""
        if not self._open:
            return
        if self._part is not None:
            with suppress(OSError):
                os.unlink(self._part, dir_fd=self._folder)
        self._close()

    def _appear(self) -> None:
        if self._part is None:
            self._link(self._path.name)
        elif not _rename_to_new(self._folder, self._part, self._path.name):
            os.link(
                self._part,
                self._path.name,
                src_dir_fd=self._folder,
                dst_dir_fd=self._folder,
                follow_symlinks=False,
            )
            os.unlink(self._part, dir_fd=self._folder)
        self._part = None

    def _replace(self) -> None:
        if self._part is None:
            part = _part_name(self._path.name)
            self._link(part)
            self._part = part
        os.rename(self._part, self._path.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._part = None

    def _link(self, name: str) -> None:
        # With a folder's descriptor Python calls linkat(2), which can follow the link in /proc
        # to a file without a name; link(2) cannot.
        os.link(
            f"/proc/self/fd/{self._file.descriptor}",
            name,
            dst_dir_fd=self._folder,
            follow_symlinks=True,
        )

    def _close(self) -> None:
        self._open = False
        self._file.close()
        os.close(self._folder)


def require_free(path: Path, *, force: bool) -> Path:
    """Return the path that a restore to `path` makes or replaces: with `force`, links followed.

    Creates nothing.

    Raises:
        TargetNotEmptyError: without `force`, the name is taken.
        RestoreError: a folder or something else that is no file has it.
    """
    try:
        if path.is_dir():
            raise not_a_file(path)
    except OSError as error:
        raise could_not(f'look up "{path}"', path.parent, error) from error
    final = Path(os.path.realpath(path)) if force else path.absolute()
    try:
        found = final.lstat()
    except FileNotFoundError:
        return final
    except OSError as error:
        raise could_not(f'look up "{path}"', path.parent, error) from error
    if not force and stat.S_ISLNK(found.st_mode):
        raise TargetNotEmptyError(
            f'"{path}" is a symbolic link to "{path.readlink()}"',
            hint="Name what it points to, or use --force to restore there.",
        )
    if not stat.S_ISREG(found.st_mode):
        # A link that is still one after all were followed points to itself.
        raise RestoreError(f'cannot restore to "{path}": it is there, and is not a file')
    if not force:
        raise TargetNotEmptyError(
            f'file "{path}" exists already',
            hint="Use --force to replace it, or name another target.",
        )
    return final


def _open_folder(folder: Path) -> int:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise RestoreError(
            f'cannot restore to folder "{folder}": it does not exist',
            hint=f'Make it first: mkdir -p "{folder}".',
        ) from error
    except NotADirectoryError as error:
        raise RestoreError(f'cannot restore to folder "{folder}": it is not a folder') from error
    except OSError as error:
        raise could_not(f'open folder "{folder}"', folder, error) from error


def _sync_folder(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        # QUIRK: some FUSE and network file systems cannot sync a folder, and say so with EINVAL.
        if error.errno != errno.EINVAL:
            raise


# --- the file before it has its name --------------------------------------------------------


def _begin(folder: int, final: Path, *, unnamed: bool) -> tuple[int, str | None]:
    """Open a new, locked file, and return its descriptor and its hidden name if it has one."""
    try:
        if unnamed and (descriptor := _open_unnamed(folder)) is not None:
            return descriptor, None
        while True:
            part = _part_name(final.name)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(part, flags, _MODE, dir_fd=folder)
            _lock(descriptor, wait=True)
            # Between the two lines above a sweep may have taken it for one left by a dead run.
            if os.fstat(descriptor).st_nlink > 0:
                return descriptor, part
            os.close(descriptor)
    except OSError as error:
        raise could_not(f'make file "{final}"', final.parent, error) from error


def _open_unnamed(folder: int) -> int | None:
    """Open a file without a name, or return None where that does not work."""
    try:
        descriptor = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, _MODE, dir_fd=folder)
    except OSError as error:
        if error.errno in _NO_UNNAMED:
            return None
        raise
    # The commit needs /proc to name the file; now is the time to find that it is not there.
    if not os.path.exists(f"/proc/self/fd/{descriptor}"):  # noqa: PTH110 - Path would say no more
        os.close(descriptor)
        return None
    # A commit with force names it for a moment, and a sweep must not take it then.
    _lock(descriptor, wait=True)
    return descriptor


def _part_name(name: str) -> str:
    return f"{_part_stem(name)}{secrets.token_hex(_RANDOM_DIGITS // 2)}{_SUFFIX}"


def _part_stem(name: str) -> str:
    """Return how hidden names for `name` begin: cut where they would be too long."""
    room = _LONGEST_NAME - len("..") - _RANDOM_DIGITS - len(_SUFFIX)
    return f".{os.fsdecode(os.fsencode(name)[:room])}."


def _sweep(folder: int, name: str) -> None:
    """Remove hidden files of this name that no process holds, as far as we may."""
    ours = re.compile(
        re.escape(_part_stem(name)) + f"[0-9a-f]{{{_RANDOM_DIGITS}}}" + re.escape(_SUFFIX)
    )
    with suppress(OSError):
        for found in os.listdir(folder):
            if ours.fullmatch(found):
                _remove_if_left(folder, found)


def _remove_if_left(folder: int, part: str) -> None:
    with suppress(OSError):
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(part, flags, dir_fd=folder)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode) and _lock(descriptor, wait=False):
                os.unlink(part, dir_fd=folder)
        finally:
            os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock a file until it is closed; return whether it is, on file systems that can."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in _NO_LOCKS or isinstance(error, BlockingIOError):
            return False
        raise
    return True


# --- a call that Python does not have -------------------------------------------------------


def _rename_to_new(folder: int, old: str, new: str) -> bool:
    """Rename without replacing anything; return False where kernel or file system cannot.

    Raises:
        FileExistsError: the new name is taken.
    """
    call = getattr(_libc, "renameat2", None)
    if call is None:
        return False
    flags = ctypes.c_uint(_RENAME_NOREPLACE)
    if call(folder, os.fsencode(old), folder, os.fsencode(new), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_CALL:
        return False
    raise OSError(number, os.strerror(number))
