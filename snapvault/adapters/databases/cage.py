# SPDX-License-Identifier: Apache-2.0
"""Where scratch servers and their clients run: as a user without rights, without a network.

What is loaded was written by somebody else. A statement in it must reach neither the files of this
host's own servers nor anything on a network.
"""

import os
import pwd
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from snapvault.adapters import command
from snapvault.errors import DrillError, SourceError

USER: Final = "nobody"
"""Whom everything runs as where we are root."""

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TIMEOUT: Final = 60.0  # seconds
# CAP_CHOWN for its folder, CAP_KILL to end it, CAP_SETGID, CAP_SETUID (capabilities(7)).
_CAPABILITIES: Final = 1 << 0 | 1 << 5 | 1 << 6 | 1 << 7

_SHOWN: Final = 300  # characters of what a program says
_LONGEST_PATH: Final = 107  # LIMIT: of a socket, bytes (Linux)
_LONGEST_NAME: Final = len("/.s.PGSQL.5432")

# The kernel forgets what is to happen at a parent's death when the user changes (prctl(2)).
_TIED: Final = ("--pdeathsig", "KILL", "--", "env", "-i", f"PATH={_PATH}", "LC_ALL=C")
# Folders that only we may enter lie above the one that is given; here it has none above it.
_MOUNTED: Final = Path("/tmp")  # noqa: S108 - nobody else's, in a mount namespace of its own
_MOUNT: Final = f'mount --bind "$0" {_MOUNTED} && exec "$@"'


@dataclass(frozen=True, slots=True)
class Place:
    """A folder as programs in a cage see it, and what comes before their command lines.

    Programs get no variable of ours: some would lead a client to another server.
    """

    prefix: tuple[str, ...]
    folder: Path

    def run(self, argv: Sequence[str], doing: str, *, timeout: float = _TIMEOUT) -> bytes:
        """Run a short program to its end and return what it wrote.

        Raises:
            DrillError: it failed.
        """
        try:
            finished = command.run(
                [*self.prefix, *argv], working_directory=Path("/"), timeout=timeout, check=False
            )
        except SourceError as error:
            raise DrillError(f"could not {doing}: {error}", hint=error.hint) from error
        if finished.status:
            said = one_line(finished.stderr) or f"exit status {finished.status}"
            raise DrillError(f"could not {doing}: {said}")
        return finished.stdout


@dataclass(frozen=True, slots=True)
class Cage:
    """How programs are shut in, and whom their files must belong to (None: to us)."""

    apart: tuple[str, ...]
    user: tuple[str, ...]
    owner: tuple[int, int] | None = None
    mounts: bool = False

    def prefix(self, folder: Path) -> tuple[str, ...]:
        """Return what comes before a command line that works in a folder."""
        mount = ("sh", "-c", _MOUNT, str(folder)) if self.mounts else ()
        return (*self.apart, *mount, "setpriv", *self.user, *_TIED)

    def prepare(self, folder: Path) -> Place:
        """Make a place in a private folder.

        Raises:
            DrillError: it cannot be made, or the programs cannot reach it.
        """
        own = folder / "db"
        try:
            own.mkdir(mode=0o700)
            if self.owner is not None:
                os.chown(own, *self.owner)
            if self.owner is not None and not self.mounts:
                folder.chmod(0o711)
        except OSError as error:
            raise DrillError(
                f'could not make folder "{own}": {(error.strerror or str(error)).lower()}'
            ) from error
        place = Place(self.prefix(own), _MOUNTED if self.mounts else own)
        _require_short(place.folder)
        try:
            place.run(["test", "-w", str(place.folder)], "look")
        except DrillError as error:
            raise DrillError(
                f'user "{USER}", whom a scratch server runs as, cannot reach folder "{folder}"',
                hint="Let the service make namespaces; see docs/recovery.md, Loading dumps.",
            ) from error
        return place


def find() -> Cage:
    """Return the closest cage that can be had here.

    Raises:
        DrillError: a program is missing, or we are root and may not become somebody else.
    """
    require("setpriv", package="util-linux")
    for cage in _cages():
        with suppress(DrillError):
            Place(cage.prefix(_MOUNTED), _MOUNTED).run(["true"], "shut a program in")
            return cage
    raise DrillError(
        f'could not become user "{USER}", whom a scratch server is to run as',
        hint="Give the service more capabilities; see docs/recovery.md, Loading dumps.",
    )


def require(*names: str, package: str, folders: Sequence[Path] = ()) -> Path:
    """Return the first of some programs that is there: in one of the folders, or else in PATH.

    Raises:
        DrillError: none is.
    """
    search = ":".join(map(str, folders)) or f"{os.environ.get('PATH', '')}:{_PATH}"
    for name in names:
        if path := shutil.which(name, path=search):
            return Path(path)
    raise DrillError(
        f'program "{names[0]}" is not there', hint=f'Install it: "apt-get install {package}".'
    )


def one_line(text: bytes) -> str:
    """Return some of a program's words as they can be shown."""
    said = " ".join(text.decode(errors="replace").split()).rstrip(".").replace('"', "'")
    shown = "".join(letter if letter.isprintable() else "?" for letter in said)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


def _cages() -> Iterator[Cage]:
    """Yield what there may be, the closest first."""
    apart = ("unshare", "--net", "--ipc")
    if os.geteuid() != 0:
        yield Cage((*apart, "--map-current-user", "--"), ())
        yield Cage((), ())
    elif _may_become_somebody():
        user = pwd.getpwnam(USER)
        ids = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
        owner = (user.pw_uid, user.pw_gid)
        yield Cage((*apart, "--mount", "--"), (*ids, "--no-new-privs"), owner, mounts=True)
        yield Cage((), (*ids, "--no-new-privs"), owner)


def _may_become_somebody() -> bool:
    """Tell whether root has all of its capabilities that this takes; services often have fewer."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is not None and int(found[1], 16) & _CAPABILITIES == _CAPABILITIES


def _require_short(folder: Path) -> None:
    """See to it that sockets in a folder can have a path.

    Raises:
        DrillError: it is too long.
    """
    if len(str(folder).encode()) > _LONGEST_PATH - _LONGEST_NAME:
        raise DrillError(
            f'folder "{folder}" has too long a path for sockets of a server',
            hint=f"Give one with {_LONGEST_PATH - _LONGEST_NAME} characters at the most.",
        )
