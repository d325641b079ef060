# SPDX-License-Identifier: Apache-2.0
"""What is to be snapshot, and whether it can be: decided from what LVM tells, before anything."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from snapvault.adapters.sources.lvm_commands import Volume
from snapvault.adapters.sources.lvm_names import OURS
from snapvault.errors import SourceError
from snapvault.model.policy import LvmSpec
from snapvault.units import KIB, format_size

_SMALLEST: Final = 512 * KIB  # bytes; LVM refuses snapshots of less than some of its chunks
_NEARLY_FULL: Final = 90.0  # percent


@dataclass(frozen=True, slots=True)
class Plan:
    """One volume to snapshot, for one stream.

    `space` is what a thick one's snapshot gets, in bytes; 0 for a thin one, which has `pool` and
    the `metadata` volume of that.
    """

    stream: str
    origin: Volume
    tags: frozenset[str]
    space: int = 0
    pool: Volume | None = None
    metadata: Volume | None = None

    @property
    def is_thin(self) -> bool:
        """Whether its snapshot lives in the pool of its origin."""
        return self.pool is not None


def plan_snapshot(
    stream: str,
    spec: LvmSpec,
    tags: frozenset[str],
    volumes: Sequence[Volume],
    list_groups: Callable[[], Sequence[str]],
) -> Plan:
    """Find the volume of a stream and see that it can be snapshot.

    Raises:
        SourceError: it is not there, is not in use as a volume, or its pool is full or broken.
    """
    origin = _find(spec.volume, volumes, list_groups)
    _require_ordinary(origin)
    if origin.pool is None:
        return Plan(stream, origin, tags, space=_space_for(spec, origin))
    by_uuid = {volume.uuid: volume for volume in volumes}
    pool = by_uuid.get(origin.pool)
    metadata = by_uuid.get(pool.metadata) if pool is not None and pool.metadata else None
    if pool is None or metadata is None:
        raise SourceError(f'LVM does not tell the thin pool of logical volume "{spec.volume}"')
    _require_usable(pool)
    return Plan(stream, origin, tags, pool=pool, metadata=metadata)


def require_space(plans: Iterable[Plan]) -> None:
    """See that every volume group has room for all its thick snapshots.

    Raises:
        SourceError: one has not.
    """
    wanted: dict[str, int] = defaultdict(int)
    free: dict[str, int] = {}
    for plan in plans:
        wanted[plan.origin.group] += plan.space
        free[plan.origin.group] = plan.origin.group_free
    for group, space in wanted.items():
        if space > free[group]:
            raise SourceError(
                f'no free extents in volume group "{group}" for snapshots:'
                f" {format_size(space)} wanted, {format_size(free[group])} free",
                hint=f'Free at least {format_size(space - free[group])} in volume group "{group}",'
                " or lower snapshot_size.",
            )


def pool_warning(pool: Volume) -> str | None:
    """Return what is worrying about a thin pool that can be used."""
    for what, percent in (("data", pool.data_percent), ("metadata", pool.metadata_percent)):
        if percent is not None and percent > _NEARLY_FULL:
            return (
                f'thin pool "{pool.full_name}" is nearly full: {percent:g} % of its {what} space'
                " is used, and what is overwritten takes more while a snapshot is there"
            )
    return None


def _find(name: str, volumes: Sequence[Volume], list_groups: Callable[[], Sequence[str]]) -> Volume:
    group = name.partition("/")[0]
    here = {volume.full_name: volume for volume in volumes if volume.group == group}
    if name in here:
        return here[name]
    if not here:
        groups = list_groups()
        if group not in groups:
            raise SourceError(
                f'volume group "{group}" is not there',
                hint=_meant(group, groups) or "Correct its name, or attach the disks it is on.",
            )
    public = [each.full_name for each in here.values() if "private" not in each.role]
    raise SourceError(
        f'logical volume "{name}" is not there',
        hint=_meant(name, public) or 'Correct its name; "lvs" lists what is there.',
    )


def _meant(name: str, candidates: Sequence[str]) -> str | None:
    near = get_close_matches(name, candidates, n=1, cutoff=0.6)
    return f'Did you mean "{near[0]}"?' if near else None


def _require_ordinary(volume: Volume) -> None:
    """Refuse what is no disk of anybody's."""
    name = f'logical volume "{volume.full_name}"'
    if OURS in volume.tags:
        raise SourceError(
            f"{name} is a snapshot of SnapVault's own", hint="Back up the volume that it is of."
        )
    if "pool" in volume.layout:
        raise SourceError(
            f"{name} is a pool, and no disk", hint="Back up the volumes that live in it."
        )
    if "private" in volume.role:
        raise SourceError(
            f"{name} is hidden: a part of another", hint="Back up the volume that it is a part of."
        )
    if "thicksnapshot" in volume.role:
        raise SourceError(
            f"{name} is a snapshot itself, and LVM makes none of those",
            hint="Back up its origin, or read the snapshot as an image.",
        )
    if volume.is_merging:
        raise SourceError(
            f"{name} is being merged with a snapshot", hint="Back it up when that is done."
        )
    if volume.health == "partial":
        raise SourceError(
            f"{name} lacks a physical volume", hint="Attach the missing disk; see pvs and vgs."
        )
    if volume.device is None:
        raise SourceError(
            f"{name} is not active on this host",
            hint=f'Run "lvchange -ay {volume.full_name}", or back it up where it is in use.',
        )
    if volume.is_suspended:
        raise SourceError(
            f"{name} is suspended: nothing that uses it goes on",
            hint=f'If nobody is working on it, run "dmsetup resume {volume.path}".',
        )


def _require_usable(pool: Volume) -> None:
    name = f'thin pool "{pool.full_name}"'
    if pool.health == "failed":
        raise SourceError(f"{name} has failed", hint=_repair(pool))
    if pool.needs_check:
        raise SourceError(f"the metadata of {name} needs a check", hint=_repair(pool))
    if pool.health == "metadata_read_only":
        raise SourceError(
            f"the metadata of {name} is read-only: it is full or damaged",
            hint=f'Run "lvextend --poolmetadatasize +SIZE {pool.full_name}" if it is full.'
            f" {_repair(pool)}",
        )
    for what, percent, option in (
        ("data", pool.data_percent, "--size"),
        ("metadata", pool.metadata_percent, "--poolmetadatasize"),
    ):
        is_out = pool.health == "out_of_data" and what == "data"
        if is_out or (percent is not None and percent >= 100.0):
            raise SourceError(
                f"{name} is out of {what} space",
                hint=f'Run "lvextend {option} +SIZE {pool.full_name}", or remove volumes from it.',
            )


def _repair(pool: Volume) -> str:
    return f'Stop what uses it and run "lvconvert --repair {pool.full_name}"; see lvmthin(7).'


def _space_for(spec: LvmSpec, origin: Volume) -> int:
    """Return the space for old data, in whole extents; no more than LVM would use.

    A snapshot takes 16 bytes for each 4 KiB that it keeps, and some chunks for itself.
    """
    wanted = spec.snapshot_size or origin.size * spec.snapshot_percent // 100
    most = origin.size + origin.size // 200 + _SMALLEST
    size = min(max(wanted, _SMALLEST), most)
    return size + -size % origin.extent_size
