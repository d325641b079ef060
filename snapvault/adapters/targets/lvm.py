# SPDX-License-Identifier: Apache-2.0
"""New logical volumes as targets, linear or thin, each under its name only when it is whole.

Until `commit` a volume is called `NAME.snapvault-restoring` and has a tag. Such a one that a dead
run left is removed by the next restore to the same name.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from snapvault.adapters.targets import lvm_programs
from snapvault.adapters.targets.device import DeviceTarget
from snapvault.adapters.targets.lvm_address import LvmPlace
from snapvault.adapters.targets.lvm_programs import Group, Volume
from snapvault.errors import RestoreError, TargetNotEmptyError
from snapvault.units import format_size

_SUFFIX: Final = ".snapvault-restoring"
_DIGITS: Final = 8
_SECTOR: Final = 512  # bytes
# LIMIT: a device-mapper name has at most 127 bytes (Linux): group and volume, with every hyphen
# doubled, and a hyphen between them.
_NAME_LENGTH: Final = 126


class LvmTarget:
    """A logical volume in the making; `LvmRestore.target` is the way in.

    What lies beyond the end of the disk, in its last extent, is zeros. Ranges of a thin volume
    that are zeros are left alone, and take no room.
    """

    def __init__(self, volume: Volume, name: str, device: DeviceTarget, *, is_thin: bool) -> None:
        """Take over a new, tagged volume that becomes `name`, and its open device."""
        self._volume = volume
        self._name = name
        self._device = device
        self._is_thin = is_thin
        self._touched = False
        self._over = False
        self._left_behind: str | None = None

    @property
    def left_behind(self) -> str | None:
        """What `abort` could not remove, and why: one line; None: nothing."""
        return self._left_behind

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data`."""
        self._touched = True
        self._device.write(offset, data)

    def reserve(self, offset: int, length: int) -> None:
        """Do nothing: a linear volume has all its room, and that of a pool is looked at before."""

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros."""
        if self._touched or not self._is_thin:
            self._device.zero(offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Read back what was written."""
        self._device.read_into(offset, buffer)

    def commit(self) -> None:
        """Make it durable, then give it its name.

        Raises:
            TargetNotEmptyError: another volume has the name by now.
        """
        if self._over:
            return
        self._device.commit()
        # ORDER: the name comes last. What has it is whole, and what a power cut leaves before
        # that has a name that says what it is.
        lvm_programs.untag(self._volume.full_name)
        try:
            lvm_programs.rename(self._volume.group, self._volume.name, self._name)
        except RestoreError as error:
            if self._name in lvm_programs.list_volumes(self._volume.group):
                raise TargetNotEmptyError(
                    f'logical volume "{self._volume.group}/{self._name}" appeared while it was'
                    " restored",
                    hint="Name another one.",
                ) from error
            raise
        self._over = True

    def abort(self) -> None:
        """Give up and remove the volume; see `left_behind`."""
        if self._over:
            return
        self._over = True
        self._device.abort()
        try:
            lvm_programs.remove(self._volume.full_name)
        except RestoreError as error:
            # Raised from here, it would hide why the restore was given up.
            self._left_behind = str(error)


class LvmRestore:
    """One restore of one disk or several to new logical volumes of one group."""

    def __init__(self, place: LvmPlace, group: Group, volumes: dict[str, Volume]) -> None:
        """Take what LVM tells of the group; `open` is the way in."""
        self._place = place
        self._group = group
        self._volumes = volumes
        self._pool = _pool_of(place, volumes)

    @classmethod
    def open(cls, place: LvmPlace) -> Self:
        """Look at the group, and at the thin pool if there is one; changes nothing.

        Raises:
            RestoreError: one of them is not there, or LVM lets us not look.
        """
        groups = {group.name: group for group in lvm_programs.list_groups()}
        if place.group not in groups:
            none = 'This host has none at all; "vgcreate" makes one.'
            known = f"There are: {', '.join(sorted(groups))}." if groups else none
            rights = "Run as root: LVM shows nothing to anybody else."
            raise RestoreError(
                f'there is no volume group "{place.group}"',
                hint=known if os.geteuid() == 0 else rights,
            )
        return cls(place, groups[place.group], lvm_programs.list_volumes(place.group))

    @property
    def grain(self) -> int:
        """What room is taken in, in bytes: a chunk of the pool, or an extent of the group."""
        return max(1, self._pool.chunk if self._pool is not None else self._group.extent)

    def path_of(self, name: str) -> Path:
        """Return the path of a volume's device, whether it is there or not."""
        return Path("/dev", self._group.name, name)

    def is_there(self, name: str) -> bool:
        """Tell whether the group has a volume of that name."""
        return name in self._volumes

    def require_room(self, disks: Sequence[tuple[int, int]]) -> None:
        """Make sure that there is room for new volumes: for each its size, and its grains of data.

        Raises:
            RestoreError: there is less.
        """
        if self._pool is not None:
            free = int(self._pool.size * (100 - self._pool.used_percent) / 100)
            needed = sum(data for _, data in disks)
            what = f'thin pool "{self._pool.full_name}"'
        else:
            free = self._group.free
            needed = sum(-(-max(1, size) // self.grain) * self.grain for size, _ in disks)
            what = f'volume group "{self._group.name}"'
        if free < needed:
            raise RestoreError(
                f"not enough room in {what}:"
                f" {format_size(needed)} needed, {format_size(free)} free",
                hint=f"Free at least {format_size(needed - free)} there, or restore elsewhere.",
            )

    def require_free(self, name: str) -> None:
        """Refuse a name that is taken.

        Raises:
            TargetNotEmptyError: it is.
        """
        if self.is_there(name):
            raise TargetNotEmptyError(
                f'logical volume "{self._group.name}/{name}" exists already',
                hint="Name another one; or overwrite it with --force, or only what differs with"
                " --in-place.",
            )

    def target(self, name: str, size: int) -> LvmTarget:
        """Make a volume for a disk of `size` bytes.

        Raises:
            TargetNotEmptyError: the name is taken.
            RestoreError: LVM refuses, or another restore to the name is under way.
        """
        self.require_free(name)
        part = _part_name(self._group.name, name)
        self._sweep(part)
        pool = self._pool.name if self._pool is not None else None
        # LIMIT: LVM counts in whole sectors, and makes no volume of nothing.
        sectors = max(1, -(-size // _SECTOR))
        lvm_programs.create(self._group.name, part, sectors * _SECTOR, pool=pool)
        try:
            volume = lvm_programs.list_volumes(self._group.name)[part]
            device = DeviceTarget.open(Path(volume.device), volume.size, force=True)
        except BaseException as error:
            try:
                lvm_programs.remove(f"{self._group.name}/{part}")
            except RestoreError as failure:
                error.add_note(str(failure))
            raise
        target = LvmTarget(volume, name, device, is_thin=pool is not None)
        try:
            target.zero(size, volume.size - size)
        except BaseException:
            target.abort()
            raise
        return target

    def _sweep(self, part: str) -> None:
        """Remove what a dead run left; LVM refuses what a living one has open."""
        found = self._volumes.get(part)
        if found is None:
            return
        if lvm_programs.TAG not in found.tags:
            raise TargetNotEmptyError(
                f'logical volume "{found.full_name}" exists already',
                hint="A restore makes one of this name; if nobody needs it, remove it:"
                f" lvremove {found.full_name}.",
            )
        try:
            lvm_programs.remove(found.full_name)
        except RestoreError as error:
            raise RestoreError(
                f'logical volume "{found.full_name}" is being restored: {error}',
                hint="Wait for the other restore, or name another volume.",
            ) from error


def _pool_of(place: LvmPlace, volumes: dict[str, Volume]) -> Volume | None:
    if place.pool is None:
        return None
    found = volumes.get(place.pool)
    if found is None or not found.is_thin_pool:
        pools = sorted(volume.name for volume in volumes.values() if volume.is_thin_pool)
        raise RestoreError(
            f'volume group "{place.group}" has no thin pool "{place.pool}"',
            hint=f"It has: {', '.join(pools)}." if pools else "Leave out thin.",
        )
    return found


def _part_name(group: str, name: str) -> str:
    """Return what a volume is called until it is whole; a long name is cut and made unique."""
    room = _NAME_LENGTH - _mapped_length(group) - _mapped_length(_SUFFIX)
    if _mapped_length(name) <= room:
        return f"{name}{_SUFFIX}"
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]
    while name and _mapped_length(name) > room - _DIGITS - 1:
        name = name[:-1]
    return f"{name}_{digest}{_SUFFIX}"


def _mapped_length(name: str) -> int:
    return len(name) + name.count("-")
