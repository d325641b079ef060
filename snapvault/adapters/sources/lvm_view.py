# SPDX-License-Identifier: Apache-2.0
"""The view of logical volumes: their snapshots, read in place."""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime

from snapvault.adapters.sources import lvm_commands, lvm_mapper
from snapvault.adapters.sources.disk import read_whole
from snapvault.adapters.sources.lvm_commands import Volume
from snapvault.adapters.sources.lvm_hints import Hint
from snapvault.adapters.sources.lvm_plan import Plan
from snapvault.adapters.sources.reading import QuietReader
from snapvault.errors import SnapshotOverflowError, SourceError
from snapvault.ports.source import Changes, Consistency, Outcome
from snapvault.units import format_size


class LvmDisk:
    """One active snapshot of a logical volume, open."""

    def __init__(self, plan: Plan, snapshot: Volume, hint: Hint, stack: ExitStack) -> None:
        """Open it, and leave the closing to `stack`."""
        self._plan = plan
        self._snapshot = snapshot
        self._hint = hint
        self._label = f'the snapshot of logical volume "{plan.origin.full_name}"'
        descriptor = _open_device(snapshot)
        stack.callback(os.close, descriptor)
        self._reader = stack.enter_context(QuietReader(descriptor))
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size != plan.origin.size:
            raise SourceError(
                f'logical volume "{plan.origin.full_name}" was resized while it was snapshot',
                hint="Run the backup again.",
            )

    @property
    def name(self) -> str:
        """The stream's name."""
        return self._plan.stream

    @property
    def size(self) -> int:
        """Bytes, as the volume had when it was snapshot."""
        return self._plan.origin.size

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield what the thin pool has mapped; without that, everything."""
        if self._hint.mapped is not None:
            yield from self._hint.mapped
        elif self.size:
            yield 0, self.size

    def changes(self) -> Changes | None:
        """Tell what thin_delta told."""
        return self._hint.changes

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer; SnapshotOverflowError when the snapshot broke meanwhile."""
        try:
            read_whole(self._reader, offset, buffer, size=self.size, disk=self._label)
        except SourceError as error:
            # A snapshot that ran out of space gives read errors, and those would send people to
            # look for a broken disk.
            if isinstance(error.__cause__, OSError):
                self.require_whole()
            raise

    def require_whole(self) -> None:
        """See that the snapshot has kept everything that was overwritten.

        Raises:
            SnapshotOverflowError: it has not.
        """
        space = self._space()
        if space is not None and not space.is_valid:
            raise SnapshotOverflowError(
                f'the snapshot of logical volume "{self._plan.origin.full_name}" overflowed:'
                f" all its {format_size(space.size)} were used",
                hint="Raise snapshot_size, or back up when less is written.",
            )

    def facts(self) -> dict[str, str]:
        """Return what people may want to know of the snapshot."""
        space = self._space()
        facts = {"volume": self._plan.origin.full_name}
        if space is None:
            return {**facts, "snapshot": "thin"}
        return {**facts, "snapshot": "thick", "snapshot_used": str(space)}

    def _space(self) -> lvm_mapper.Space | None:
        if self._plan.is_thin or self._snapshot.device is None:
            return None
        return lvm_mapper.read_space(self._snapshot.device, self._snapshot.size)


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known of all snapshots of a view."""

    taken_at: datetime
    consistency: Consistency


class LvmView:
    """Snapshots that are removed in the end, but for those that the next run needs.

    `snapshots` are the new ones by stream, `kept` the ones that the parent's marks name; `marked`
    are the streams whose new snapshot is kept after the commit.
    """

    def __init__(
        self,
        moment: Moment,
        disks: Sequence[LvmDisk],
        snapshots: Mapping[str, Volume],
        kept: Sequence[Volume],
        marked: frozenset[str],
        stack: ExitStack,
    ) -> None:
        self._moment = moment
        self._disks = tuple(disks)
        self._kept = list(kept)
        self._marks = {stream: snapshots[stream].uuid for stream in sorted(marked)}
        self._temporary = dict(snapshots)
        self._stack = stack

    @property
    def taken_at(self) -> datetime:
        """The moment at which the volumes were held still."""
        return self._moment.taken_at

    @property
    def streams(self) -> tuple[LvmDisk, ...]:
        """The volumes' disks."""
        return self._disks

    def finish(self) -> Outcome:
        """See that no snapshot overflowed while it was read."""
        for disk in self._disks:
            disk.require_whole()
        facts = {disk.name: disk.facts() for disk in self._disks}
        return Outcome(self._moment.consistency, self._marks, facts)

    def committed(self, point: str) -> None:
        """Keep the new snapshots that were marked, without a device; remove the old ones."""
        self._stack.close()  # a device that is open stays
        keep = [self._temporary.pop(stream) for stream in self._marks]
        lvm_commands.deactivate(keep)
        lvm_commands.remove(self._kept)

    def close(self) -> None:
        """Remove every snapshot that is not to be kept."""
        self._stack.close()
        snapshots, self._temporary = self._temporary, {}
        lvm_commands.remove(snapshots.values())


def _open_device(snapshot: Volume) -> int:
    """Open the device that LVM made, once it is certain that it is the one."""
    try:
        descriptor = os.open(snapshot.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(
            f'could not open "{snapshot.path}": {(error.strerror or "").lower()}',
            hint="Run as root, or look whether udev makes devices.",
        ) from error
    found = os.fstat(descriptor)
    number = (os.major(found.st_rdev), os.minor(found.st_rdev))
    if not stat.S_ISBLK(found.st_mode) or number != snapshot.device:
        os.close(descriptor)
        raise SourceError(
            f'"{snapshot.path}" is not the device of snapshot "{snapshot.full_name}"',
            hint='Something else has that name; "dmsetup mknodes" makes what is missing.',
        )
    return descriptor
