# SPDX-License-Identifier: Apache-2.0
"""A folder tree as one archive, written by GNU tar, that differs only where the tree does."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from snapvault import clock
from snapvault.adapters import command
from snapvault.adapters.program import STDERR_KEPT
from snapvault.errors import SourceError
from snapvault.model.policy import DirectorySpec
from snapvault.ports.events import Events
from snapvault.ports.source import NO_MARKS, Consistency, Finding, Outcome
from snapvault.ports.store import Readable

_TAR: Final = "tar"

# Times of access and of status change differ after every look, and the default names of extended
# headers hold a process id; so does the name of a sparse file in any but the oldest of tar's
# sparse formats.
_ARCHIVE: Final = (
    "--create",
    "--format=posix",
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
    "--sparse",
    "--sparse-version=0.0",
    "--sort=name",
    "--numeric-owner",
    "--xattrs",
    "--xattrs-include=*",
    "--acls",
    "--selinux",
    "--blocking-factor=128",
    # What is said every night is read by nobody: sockets, and what was asked to be left out.
    "--warning=no-file-ignored",
    "--warning=no-xdev",
)

# Options of the operator's own would be added to these.
_SURROUNDINGS: Final = {"TAR_OPTIONS": ""}

_CHANGED_MEANWHILE: Final = 1  # tar's exit status
_NAMED: Final = 3  # files, in a message
_VERSION_TIMEOUT: Final = 60.0  # seconds


class DirectorySource:
    """One stream: a tar archive of a folder, with paths relative to it, in a fixed order.

    Nothing holds the files still: if one changed or vanished while it was read, the point is
    made, says so, and promises nothing. Sockets are left out. `exclude` are patterns of paths
    relative to the folder; `*` and `?` stand for a slash too.
    """

    def __init__(self, name: str, stream: str, spec: DirectorySpec, *, events: Events) -> None:
        self._name = name
        self._stream = stream
        self._spec = spec
        self._events = events

    @property
    def name(self) -> str:
        """The source's name, unique in its vault."""
        return self._name

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> "_View":
        """Look at the folder. It is read when its stream is opened.

        Raises:
            SourceError: it is not a folder that we may read, or tar is missing.
        """
        command.require([_TAR])
        _require_folder(self._spec.path)
        return _View(clock.now(), _Archive(self._name, self._stream, self._spec), self._events)

    def check(self) -> Iterator[Finding]:
        """See that the folder is there, and that tar is GNU tar."""
        path = self._spec.path
        try:
            _require_folder(path)
        except SourceError as error:
            yield Finding("folder", str(error), error)
        else:
            yield Finding("folder", f'folder "{path}" can be read')
        try:
            version = _gnu_version()
        except SourceError as error:
            yield Finding("tar", str(error), error)
        else:
            yield Finding("tar", version)


class _Archive:
    """What tar writes; `whole` once its end was read."""

    def __init__(self, source: str, name: str, spec: DirectorySpec) -> None:
        self.source = source
        self._name = name
        self.folder = spec.path
        self._argv = _command_line(spec)
        self._running: command.Program | None = None
        self.whole = False
        self.changed = False
        self.complaints: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self._name

    @contextmanager
    def open(self) -> Iterator[Readable]:
        with command.stream(self._argv, environment=_SURROUNDINGS, parsed=True) as self._running:
            yield self

    def read(self, size: int, /) -> bytes:
        if self._running is None:
            raise ValueError("the stream is not open")
        data = self._running.read_unchecked(size)
        if not data and not self.whole:
            self._finish(self._running)
        return data

    def stop(self) -> None:
        """End tar if it runs; safe to repeat."""
        if self._running is not None:
            self._running.kill()

    def _finish(self, program: command.Program) -> None:
        """Take what tar said of what it did.

        Raises:
            SourceError: it could not read all of the folder, or was killed.
        """
        self.complaints = _complaints(program.stderr)
        status = program.status or 0
        if status < 0 or (status > _CHANGED_MEANWHILE and not self.complaints):
            raise program.failure()
        if status > _CHANGED_MEANWHILE:
            raise SourceError(
                f'could not read all of folder "{self.folder}": {_shortened(self.complaints)}',
                hint="Run as a user who may read it, or leave out with exclude what need not be"
                " kept.",
            )
        self.changed = status == _CHANGED_MEANWHILE
        self.whole = True


class _View:
    """The moment at which a folder was about to be read, and its archive."""

    def __init__(self, taken_at: datetime, archive: _Archive, events: Events) -> None:
        self._taken_at = taken_at
        self._archive = archive
        self._events = events

    @property
    def taken_at(self) -> datetime:
        return self._taken_at

    @property
    def streams(self) -> tuple[_Archive]:
        return (self._archive,)

    def finish(self) -> Outcome:
        archive = self._archive
        if not archive.whole:
            raise SourceError(f'stream "{archive.name}" was not read to its end')
        if archive.changed:
            self._warn(
                "directory.changed",
                f'files in folder "{archive.folder}" changed while they were read, and are kept as'
                f" they happened to be read: {_shortened(archive.complaints)}",
            )
        elif archive.complaints:
            self._warn(
                "directory.incomplete",
                f'not everything about the files in folder "{archive.folder}" could be read: '
                f"{_shortened(archive.complaints)}",
            )
        return Outcome(
            Consistency.NONE if archive.changed else Consistency.CRASH,
            facts={archive.name: {"format": "tar", "path": str(archive.folder)}},
        )

    def committed(self, point: str) -> None:
        pass

    def close(self) -> None:
        self._archive.stop()

    def _warn(self, event: str, message: str) -> None:
        self._events.warn(event, message, source=self._archive.source, stream=self._archive.name)


def _command_line(spec: DirectorySpec) -> list[str]:
    patterns = [pattern.removeprefix("./").strip("/") for pattern in spec.exclude]
    return [
        _TAR,
        *_ARCHIVE,
        f"--directory={spec.path}",
        *(["--one-file-system"] if spec.one_file_system else []),
        "--anchored",
        "--wildcards",
        "--wildcards-match-slash",
        *(f"--exclude=./{pattern}" for pattern in patterns),
        ".",
    ]


def _require_folder(path: Path) -> None:
    try:
        with os.scandir(path):
            pass
    except FileNotFoundError as error:
        raise SourceError(
            f'folder "{path}" is not there',
            hint="Correct the path in the policy, or mount what it lies on.",
        ) from error
    except NotADirectoryError as error:
        raise SourceError(
            f'"{path}" is not a folder',
            hint="Name a folder; a disk image is a source of kind image.",
        ) from error
    except OSError as error:
        raise SourceError(
            f'could not read folder "{path}": {(error.strerror or str(error)).lower()}',
            hint="Run as a user who may read it.",
        ) from error


def _gnu_version() -> str:
    said = command.run([_TAR, "--version"], timeout=_VERSION_TIMEOUT).stdout
    first = said.split(b"\n", 1)[0].decode(errors="replace").strip()
    if "GNU tar" not in first:
        raise SourceError(
            f'program "tar" is not GNU tar, but "{first}"', hint="Install GNU tar as tar."
        )
    return first


def _complaints(stderr: bytes) -> tuple[str, ...]:
    """Return what tar said of files, without its own name and its closing words."""
    if len(stderr) >= STDERR_KEPT:  # the beginning was cut off, perhaps within a line
        stderr = stderr.partition(b"\n")[2]
    lines = (line.removeprefix(f"{_TAR}: ") for line in stderr.decode(errors="replace").split("\n"))
    return tuple(line for line in lines if line and not line.startswith("Exiting with failure"))


def _shortened(complaints: tuple[str, ...]) -> str:
    shown = "; ".join(complaints[:_NAMED])
    more = len(complaints) - _NAMED
    return f"{shown}; and {more} more" if more > 0 else shown
