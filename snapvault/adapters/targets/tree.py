# SPDX-License-Identifier: Apache-2.0
"""A folder that an archive is unpacked into; nothing of it is seen before all of it is proven."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from snapvault.adapters import command
from snapvault.adapters.targets.tree_members import Member, MemberFilter
from snapvault.adapters.targets.tree_moving import Staging, conflict
from snapvault.adapters.targets.tree_selection import Selection
from snapvault.errors import IntegrityError, RestoreError, SourceError
from snapvault.ports.events import Events
from snapvault.units import format_size

_EXTRACT: Final = (
    "tar",
    "--extract",
    "--file=-",
    "--numeric-owner",
    "--same-permissions",
    "--xattrs",
    "--acls",
    "--selinux",
    "--sparse",
    "--warning=no-timestamp",
)
_FED_AT_ONCE: Final = 256 << 10  # bytes; most members are small
_NAMED: Final = 3  # complaints, in a message


@dataclass(frozen=True, slots=True)
class Taken:
    """What was unpacked: files of every kind but folders, and the bytes that they hold."""

    files: int = 0
    size: int = 0


class TreeTarget:
    """Unpacks an archive, or some paths of it, into a folder that may be there; a context manager.

    The archive is written in order, and more than once if `end_pass` says so. `commit` is for when
    its digest was proven: everything moves into place then. Until that, it lies in a hidden and
    private folder on the same file system, which goes when the context is left.

    Folders that are there stay as they are and are added to. Files that are there are replaced
    with `force` only, and found as soon as the archive names them.
    """

    def __init__(self, folder: Path, paths: Sequence[str], *, force: bool, events: Events) -> None:
        """`paths` are relative to the archived folder, without "..", never empty; "." is all."""
        self._folder = folder
        self._force = force
        self._events = events
        self._selection = Selection(paths)
        self._staging = Staging(folder)
        self._pass = ExitStack()
        self._program: command.Program | None = None
        self._filter: MemberFilter | None = None
        self._broken: IntegrityError | None = None
        self._waiting = bytearray()
        self._free = 0  # bytes that there was room for when the pass began
        self._taken = Taken()

    def __enter__(self) -> Self:
        self._staging.make()
        try:
            self._begin()
        except BaseException:
            self._staging.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._pass.close()
        self._staging.remove()

    @property
    def near(self) -> list[str]:
        """Names in the archive that a path which is not in it may have meant."""
        return self._selection.near()

    @property
    def taken(self) -> Taken:
        """What was unpacked so far, in this pass."""
        return self._taken

    def write(self, data: memoryview) -> None:
        """Take the archive's next bytes.

        Raises:
            RestoreError: they cannot be unpacked here, or a file among them has no room.
            TargetNotEmptyError: something is there already.
        """
        # What is wrong with the bytes is told by their digest, and only then by us.
        if self._broken is not None or self._filter is None:
            return
        try:
            self._filter.write(data)
        except IntegrityError as error:
            self._broken = error

    def end_pass(self) -> bool:
        """Take the end of the archive; return whether all of it is to be written once more.

        Raises:
            IntegrityError: it is no archive.
            RestoreError: tar could not unpack it.
        """
        try:
            if self._broken is not None:
                raise self._broken
            if self._filter is not None:
                self._filter.finish()
                self._feed_waiting()
            self._end_tar()
        finally:
            self._pass.close()
        selection = self._selection
        if selection.missing() or selection.links <= selection.fetched:
            return False
        selection.fetch_links()
        self._staging.empty()
        self._begin()
        return True

    def missing(self) -> list[str]:
        """Return the paths that are not in the archive."""
        return self._selection.missing()

    def commit(self) -> None:
        """Make it durable and move it into place.

        Raises:
            TargetNotEmptyError: something came to be there meanwhile.
            RestoreError: it could not be moved.
        """
        self._staging.discard(self._selection.fetched)
        self._staging.move(force=self._force)

    def _begin(self) -> None:
        # Only root may set the attributes that belong to the system.
        which = "*" if os.geteuid() == 0 else "user.*"
        argv = [*_EXTRACT, f"--xattrs-include={which}", f"--directory={self._staging.tree}"]
        try:
            self._program = self._pass.enter_context(
                command.stream(argv, live_input=True, environment={"TAR_OPTIONS": ""}, parsed=True)
            )
        except SourceError as error:
            raise RestoreError(str(error), hint=error.hint) from error
        self._waiting.clear()
        room = os.statvfs(self._staging.tree)
        self._free = room.f_bavail * room.f_frsize
        self._taken = Taken()
        self._filter = MemberFilter(self._takes, self._feed)

    def _takes(self, member: Member) -> bool:
        if not self._selection.takes(member):
            return False
        if member.name not in self._selection.fetched:
            found = conflict(
                self._folder,
                os.fsdecode(member.name),
                is_folder=member.is_folder,
                force=self._force,
            )
            if found is not None:
                raise found
        self._count(member)
        return True

    def _count(self, member: Member) -> None:
        """Count a file that is about to be unpacked; one that has no room is not begun."""
        is_kept = not member.is_folder and member.name not in self._selection.fetched
        self._taken = Taken(self._taken.files + is_kept, self._taken.size + member.size)
        lacking = self._taken.size - self._free
        if lacking > 0:
            raise RestoreError(
                f'not enough room in "{self._folder}" for "{os.fsdecode(member.name)}": with it,'
                f" {format_size(self._taken.size)} needed, {format_size(self._free)} free",
                hint=f"Free at least {format_size(lacking)} there, or restore elsewhere.",
            )

    def _feed(self, data: memoryview) -> None:
        self._waiting += data
        if len(self._waiting) >= _FED_AT_ONCE:
            self._feed_waiting()

    def _feed_waiting(self) -> None:
        waiting, self._waiting = self._waiting, bytearray()
        if self._program is None:
            raise ValueError("the target is not open")
        try:
            self._program.feed(waiting)
        except SourceError as error:
            raise self._could_not(self._program) from error

    def _end_tar(self) -> None:
        program = self._program
        if program is None:
            return
        program.end_input()
        try:
            while program.read_unchecked(1 << 16):
                pass
        except SourceError as error:
            raise self._could_not(program) from error
        if program.status:
            raise self._could_not(program)
        if said := _complaints(program.stderr):
            self._events.warn(
                "restore.incomplete",
                f'not everything about the files in "{self._folder}" could be restored: {said}',
            )

    def _could_not(self, program: command.Program) -> RestoreError:
        said = _complaints(program.stderr) or str(program.failure())
        return RestoreError(f'could not unpack into "{self._folder}": {said}')


def _complaints(stderr: bytes) -> str:
    """Return what tar said first, in one line; empty if nothing."""
    lines = [line.removeprefix("tar: ") for line in stderr.decode(errors="replace").split("\n")]
    told = [line for line in lines if line and not line.startswith("Exiting with failure")]
    more = len(told) - _NAMED
    return "; ".join(told[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
