# SPDX-License-Identifier: Apache-2.0
"""Logical volumes as a source, thick and thin, read from snapshots that LVM takes.

All volumes of a source are snapshot at one moment. Thick ones are read whole, from a snapshot that
is removed in the end. Of thin ones the newest committed snapshot stays, one for each volume and
owner, without a device: its pool tells the next run what changed since.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from snapvault.adapters.sources import lvm_commands, lvm_thin
from snapvault.adapters.sources.lvm_commands import Volume
from snapvault.adapters.sources.lvm_hints import Hint, find_hints
from snapvault.adapters.sources.lvm_host import Host
from snapvault.adapters.sources.lvm_names import find_kept, find_leftovers, tags_of
from snapvault.adapters.sources.lvm_plan import (
    Plan,
    plan_snapshot,
    pool_warning,
    require_space,
)
from snapvault.adapters.sources.lvm_take import Taken, choose_together, take
from snapvault.adapters.sources.lvm_view import LvmDisk, LvmView, Moment
from snapvault.errors import ConfigError, SourceError
from snapvault.model.policy import LvmSpec
from snapvault.ports.events import Events
from snapvault.ports.source import NO_MARKS, Finding, Quiesce
from snapvault.units import format_size


class LvmSource:
    """Logical volumes by stream name.

    `owner` sets our snapshots apart from those of other vaults and sources. What lies at `needed`,
    and what the host and this process run from, is never kept suspended.
    """

    def __init__(
        self,
        name: str,
        volumes: Mapping[str, LvmSpec],
        *,
        owner: str,
        quiesce: Sequence[Quiesce] = (),
        events: Events,
        needed: Sequence[Path] = (),
    ) -> None:
        _require_sound(name, volumes)
        self._name = name
        self._volumes = dict(volumes)
        self._owner = owner
        self._quiesce = tuple(quiesce)
        self._events = events
        self._needed = tuple(needed)

    @property
    def name(self) -> str:
        """The source's name, unique in its vault."""
        return self._name

    def open(self, marks: Mapping[str, str] = NO_MARKS) -> LvmView:
        """Remove what a dead run left, snapshot all volumes, and ask the pools what changed."""
        volumes = lvm_commands.list_volumes()
        if self._remove_leftovers(volumes, marks):
            volumes = lvm_commands.list_volumes()
        plans = [self._plan(stream, volumes) for stream in self._volumes]
        require_space(plans)
        self._warn_of_pools(plans)
        kept = find_kept(volumes, self._owner, marks, self._volumes)
        host = Host()
        together, apart = choose_together(plans, host, self._needed)
        self._warn_of_apart(plans, apart)
        taken = take(plans, together, self._quiesce, host)
        try:
            hints = find_hints(plans, taken.snapshots, kept, marks, self._events)
            return _view(plans, taken, kept, hints)
        except BaseException as error:
            _remove_all(taken, error)
            raise

    def check(self) -> Iterator[Finding]:
        """Look for the programs, at each volume, at the room for its snapshot and at its pool."""
        try:
            lvm_commands.require_programs()
            volumes = lvm_commands.list_volumes()
        except SourceError as error:
            yield Finding("lvm", str(error), error)
            return
        plans: list[Plan] = []
        for stream, spec in self._volumes.items():
            try:
                plan = self._plan(stream, volumes)
            except SourceError as error:
                yield Finding(stream, str(error), error)
            else:
                plans.append(plan)
                kind = "thin" if plan.is_thin else "thick"
                size = format_size(plan.origin.size)
                yield Finding(stream, f'logical volume "{spec.volume}", {kind}, {size}, is there')
        yield from self._check_space(plans)
        yield from self._check_together(plans)

    def _check_space(self, plans: Sequence[Plan]) -> Iterator[Finding]:
        try:
            require_space(plans)
        except SourceError as error:
            yield Finding("snapshot space", str(error), error)
        else:
            for plan in plans:
                if not plan.is_thin:
                    yield Finding(
                        plan.stream, f"there are {format_size(plan.space)} for the snapshot"
                    )
        for pool in _pools_of(plans):
            message = f'thin pool "{pool.full_name}" has room'
            warning = pool_warning(pool)
            remedy = f'Run "lvextend --size +SIZE {pool.full_name}".' if warning else None
            yield Finding("thin pool", warning or message, remedy=remedy)
        if any(plan.is_thin for plan in plans):
            try:
                version = lvm_thin.require_tool()
            except SourceError as error:
                yield Finding("changes", str(error), remedy=error.hint)
            else:
                yield Finding("changes", f"{lvm_thin.TOOL} {version} tells them")

    def _check_together(self, plans: Sequence[Plan]) -> Iterator[Finding]:
        _, apart = choose_together(plans, Host(), self._needed)
        if len(plans) > 1:
            for plan in apart:
                yield Finding(plan.stream, _apart(plan), remedy=_APART_REMEDY)

    def _plan(self, stream: str, volumes: Sequence[Volume]) -> Plan:
        tags = tags_of(self._owner, stream)
        spec = self._volumes[stream]
        return plan_snapshot(stream, spec, tags, volumes, lvm_commands.list_groups)

    def _remove_leftovers(self, volumes: Sequence[Volume], marks: Mapping[str, str]) -> bool:
        """Remove what a dead run left; returns whether there was anything."""
        leftovers = find_leftovers(volumes, self._owner, marks, self._volumes)
        try:
            lvm_commands.remove(leftovers)
        except SourceError as error:
            # Somebody has one open. It costs space, and no backup of today.
            self._events.warn("snapshot.stuck", str(error))
        for leftover in leftovers:
            self._events.emit("snapshot.left_over", snapshot=leftover.full_name)
        return bool(leftovers)

    def _warn_of_pools(self, plans: Sequence[Plan]) -> None:
        for pool in _pools_of(plans):
            if warning := pool_warning(pool):
                self._events.warn("pool.nearly_full", warning, pool=pool.full_name)

    def _warn_of_apart(self, plans: Sequence[Plan], apart: Sequence[Plan]) -> None:
        if len(plans) > 1:
            for plan in apart:
                self._events.warn(
                    "snapshot.apart",
                    f"{_apart(plan)}. {_APART_REMEDY}",
                    stream=plan.stream,
                    volume=plan.origin.full_name,
                )


_APART_REMEDY = "Back it up as a source of its own if its moment matters to the others."


def _apart(plan: Plan) -> str:
    return (
        f'logical volume "{plan.origin.full_name}" is snapshot shortly before the others:'
        " this host runs from it, or another one lies on it, so it cannot be held still with them"
    )


def _require_sound(name: str, volumes: Mapping[str, LvmSpec]) -> None:
    if not volumes:
        raise ConfigError(f'source "{name}" has no logical volumes')
    seen: set[str] = set()
    for spec in volumes.values():
        group, _, volume = spec.volume.partition("/")
        if not group or not volume or "/" in volume:
            raise ConfigError(
                f'"{spec.volume}" does not name a logical volume',
                hint="Write it as group/volume: vg0/root.",
            )
        if spec.volume in seen:
            raise ConfigError(f'source "{name}" has logical volume "{spec.volume}" twice')
        seen.add(spec.volume)


def _pools_of(plans: Sequence[Plan]) -> list[Volume]:
    return list({plan.pool.uuid: plan.pool for plan in plans if plan.pool is not None}.values())


def _view(
    plans: Sequence[Plan], taken: Taken, kept: Mapping[str, Volume], hints: Mapping[str, Hint]
) -> LvmView:
    with ExitStack() as stack:
        disks = [
            LvmDisk(plan, taken.snapshots[plan.stream], hints.get(plan.stream, Hint()), stack)
            for plan in plans
        ]
        marked = frozenset(stream for stream, hint in hints.items() if hint.can_mark)
        moment = Moment(taken.taken_at, taken.consistency)
        kept_ones = list(kept.values())
        return LvmView(moment, disks, taken.snapshots, kept_ones, marked, stack.pop_all())


def _remove_all(taken: Taken, error: BaseException) -> None:
    try:
        lvm_commands.remove(taken.snapshots.values())
    except SourceError as failure:
        error.add_note(f"a snapshot stays until the next run: {failure}")
