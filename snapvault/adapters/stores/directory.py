# SPDX-License-Identifier: Apache-2.0
"""A vault in a directory of a local or mounted file system."""

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import BytesIO, FileIO
from pathlib import Path

from snapvault import clock
from snapvault.adapters.stores.naming import NAME_PATTERN, cut_short, require_name
from snapvault.adapters.throttle import PIECE, take_all, unlimited
from snapvault.errors import (
    IntegrityError,
    ObjectMissingError,
    StoreDeniedError,
    StoreError,
    StoreMissingError,
    StoreUnavailableError,
)
from snapvault.ports.store import Readable, StoredObject, StoreTraits
from snapvault.ports.throttle import Throttle

_Translate = Callable[[OSError, str, str | None], StoreError]

_BLOCK = 1 << 20
_ABANDONED_SECONDS = 7 * 24 * 3600

_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_AWAY = {errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EIO}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class DirectoryStore:
    """Objects are files below `root`, which the first put creates.

    An object is written and synced under a hidden name in `.incoming`, then linked to its
    own, so that it is there whole or not at all. What a killed run leaves in `.incoming`
    is never listed and is swept up after a week. What is written passes `throttle`.
    """

    def __init__(self, root: Path, throttle: Throttle | None = None) -> None:
        self._root = root.absolute()
        self._throttle = throttle or unlimited()
        self._incoming = self._root / ".incoming"
        self._swept = False

    @property
    def location(self) -> str:
        """Where the store is, for messages."""
        return self._root.as_uri()

    def stat(self, name: str) -> StoredObject:
        """Return the object's name and size."""
        with (
            self._translated(f'could not look up "{name}"', name),
            self._path(name).open("rb", buffering=0) as file,
        ):
            return _as_listed(name, os.fstat(file.fileno()))

    def get(self, name: str) -> bytes:
        """Return a whole object."""
        with self._translated(f'could not read "{name}"', name):
            return self._path(name).read_bytes()

    def get_part(self, name: str, offset: int, size: int) -> bytes:
        """Return some bytes of an object."""
        with (
            self._translated(f'could not read "{name}"', name),
            self._path(name).open("rb", buffering=0) as file,
        ):
            pieces, end = [], offset + size
            while offset < end and (piece := os.pread(file.fileno(), end - offset, offset)):
                pieces.append(piece)
                offset += len(piece)
            _forget_pages(file)
        if offset < end:
            raise cut_short(name, self.location)
        return b"".join(pieces)

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        """Open an object to be read once, in order."""
        with self._translated(f'could not read "{name}"', name):
            file = self._path(name).open("rb", buffering=0)
        with file:
            yield _FileReadable(name, file, self._translate)
            _forget_pages(file)

    def names(self, prefix: str = "") -> Iterator[StoredObject]:
        """List the objects whose names start with `prefix`.

        Raises:
            StoreMissingError: the directory itself is not there: a disk that is not
                mounted is not an empty vault.
        """
        with self._translated("could not list objects"):
            if not self._root.is_dir():
                raise StoreMissingError(
                    f'directory "{self._root}" does not exist',
                    hint="Mount the file system that holds the vault, or check the store's URL.",
                )
        yield from self._walk("", prefix)

    def put(self, name: str, data: bytes) -> None:
        """Make `data` readable under `name`."""
        sha256 = hashlib.sha256(data).hexdigest()
        self._store(name, self._throttled(BytesIO(data)), len(data), sha256)

    def put_file(self, name: str, path: Path, *, size: int, sha256: str) -> None:
        """Make a file's bytes readable under `name`."""
        try:
            file = path.open("rb", buffering=0)
        except OSError as error:
            raise StoreError(f'could not store "{name}": "{path}": {_reason(error)}') from error
        with file:
            self._store(name, self._throttled(file), size, sha256)

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; on return their absence is durable. Empty directories stay."""
        parents = set()
        for name in names:
            path = self._path(name)
            with (
                self._translated(f'could not delete "{name}"'),
                suppress(FileNotFoundError, NotADirectoryError),
            ):
                path.unlink()
                parents.add(path.parent)
        with self._translated("could not delete objects"):
            for parent in sorted(parents):
                _sync_directory(parent)

    def probe(self) -> StoreTraits:
        """Prove that objects can be written, read back and deleted, and are not replaced."""
        name = f"probe/{secrets.token_hex(8)}"
        try:
            self.put(name, b"first")
            try:
                self.put(name, b"second")
            except IntegrityError:
                create_only = self.get(name) == b"first"
            else:
                create_only = False
        finally:
            self.delete([name])
        return StoreTraits(create_only=create_only)

    def _path(self, name: str) -> Path:
        return self._root / require_name(name)

    def _walk(self, folder: str, prefix: str) -> Iterator[StoredObject]:
        for name, entry in self._entries(folder):
            if name.endswith("/"):
                if name.startswith(prefix) or prefix.startswith(name):
                    yield from self._walk(name, prefix)
            elif name.startswith(prefix):
                with self._translated("could not list objects"):
                    try:
                        found = entry.stat()
                    except FileNotFoundError:
                        continue  # deleted while we listed
                yield _as_listed(name, found)

    def _entries(self, folder: str) -> list[tuple[str, "os.DirEntry[str]"]]:
        """Return a folder's content sorted as object names: a folder has its slash at the end.

        Only so do its objects come at their place: "a-b" < "a/b" < "a0".
        """
        with (
            self._translated("could not list objects"),
            os.scandir(self._root / folder) as entries,
        ):
            found = [
                (folder + entry.name + ("/" if entry.is_dir() else ""), entry)
                for entry in entries
                if NAME_PATTERN.fullmatch(entry.name)  # what is not ours may not even be readable
            ]
        return sorted(found, key=lambda pair: pair[0])

    def _store(self, name: str, chunks: Iterable[bytes], size: int, sha256: str) -> None:
        final = self._path(name)
        with self._translated(f'could not store "{name}"'):
            self._sweep_once()
            _make_directories(self._incoming)
            _make_directories(final.parent)
            with self._incoming_file(chunks) as (temporary, written, digest):
                if (written, digest) != (size, sha256):
                    raise IntegrityError(
                        f'could not store "{name}": the bytes to store are not what their '
                        "SHA-256 says"
                    )
                try:
                    self._publish(temporary, final)
                except FileExistsError:
                    self._require_same(name, final, size, sha256)
            # ORDER: the name is synced last, after the bytes it names; before it, a power
            # cut may lose the object, and put has not returned.
            _sync_directory(final.parent)

    def _throttled(self, file: FileIO | BytesIO) -> Iterator[bytes]:
        """Yield a file's bytes as they may pass."""
        while chunk := file.read(PIECE):
            take_all(self._throttle, len(chunk))
            yield chunk

    @contextmanager
    def _incoming_file(self, chunks: Iterable[bytes]) -> Iterator[tuple[Path, int, str]]:
        """Write and sync the chunks under a hidden name that is gone at the end."""
        path = self._incoming / secrets.token_hex(16)
        digest = hashlib.sha256()
        written = 0
        try:
            with path.open("xb", buffering=0) as file:
                for chunk in chunks:
                    digest.update(chunk)
                    written += len(chunk)
                    _write_all(file.fileno(), chunk)
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            yield path, written, digest.hexdigest()
        finally:
            with suppress(OSError):
                path.unlink()

    def _publish(self, temporary: Path, final: Path) -> None:
        """Give the file its name unless that is taken (FileExistsError)."""
        try:
            os.link(temporary, final)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        else:
            return
        # No hard links here (exFAT, some network file systems): a lock keeps our own
        # processes apart, and a rename is as whole as a link.
        with (self._incoming / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.lexists(final):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
            temporary.rename(final)

    def _require_same(self, name: str, final: Path, size: int, sha256: str) -> None:
        """Recognize our own object of an earlier try, and sync what that try may not have."""
        with final.open("rb", buffering=0) as file:
            same = os.fstat(file.fileno()).st_size == size
            if same:
                digest = hashlib.sha256()
                while block := file.read(_BLOCK):
                    digest.update(block)
                same = digest.hexdigest() == sha256
            os.fsync(file.fileno())
        if not same:
            raise IntegrityError(f'object "{name}" in "{self.location}" already holds other bytes')

    def _sweep_once(self) -> None:
        """Remove what runs killed long ago left in `.incoming`."""
        if self._swept:
            return
        self._swept = True
        oldest = clock.now().timestamp() - _ABANDONED_SECONDS
        with suppress(OSError), os.scandir(self._incoming) as entries:
            for entry in entries:
                if entry.name != "lock" and entry.stat().st_mtime < oldest:
                    with suppress(OSError):
                        Path(entry.path).unlink()

    @contextmanager
    def _translated(self, summary: str, missing: str | None = None) -> Iterator[None]:
        """Turn operating system errors into ours; `missing` names the object being read."""
        try:
            yield
        except OSError as error:
            raise self._translate(error, summary, missing) from error

    def _translate(self, error: OSError, summary: str, missing: str | None) -> StoreError:
        absent = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
        if missing is not None and error.errno in absent:
            return ObjectMissingError(f'object "{missing}" is not in "{self.location}"')
        text = f'{summary} in "{self.location}": {_reason(error)}'
        if error.errno in _DENIED:
            return StoreDeniedError(
                text, hint=f'Check owner, mode and mount options of "{self._root}".'
            )
        if error.errno in _FULL:
            return StoreError(text, hint="Free space on the file system that holds the vault.")
        return StoreUnavailableError(text) if error.errno in _AWAY else StoreError(text)


class _FileReadable:
    """An open object, read in order."""

    def __init__(self, name: str, file: FileIO, translate: _Translate) -> None:
        self._name = name
        self._file = file
        self._translate = translate
        self._left = os.fstat(file.fileno()).st_size

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        try:
            data = self._file.read(size)
        except OSError as error:
            raise self._translate(error, f'could not read "{self._name}"', None) from error
        self._left -= len(data)
        if size > 0 and not data and self._left > 0:
            raise IntegrityError(f'object "{self._name}" lost {self._left} bytes while it was read')
        return data


def _as_listed(name: str, found: os.stat_result) -> StoredObject:
    """Return an object as it is listed; it was stored when its file was written."""
    return StoredObject(name, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _forget_pages(file: FileIO) -> None:
    """Leave the page cache to those who live on this machine."""
    with suppress(OSError):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _make_directories(path: Path) -> None:
    """Create a directory and its parents, each durable in its own parent."""
    if path.is_dir():
        return
    _make_directories(path.parent)
    with suppress(FileExistsError):
        path.mkdir()
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a directory; they keep names themselves.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)
