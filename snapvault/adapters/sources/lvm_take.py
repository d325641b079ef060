# SPDX-License-Identifier: Apache-2.0
"""Taking the snapshots of one source: all of the same moment, or none."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from snapvault import clock
from snapvault.adapters.sources import lvm_commands, lvm_mapper
from snapvault.adapters.sources.lvm_commands import Volume
from snapvault.adapters.sources.lvm_hold import held
from snapvault.adapters.sources.lvm_host import Host
from snapvault.adapters.sources.lvm_mapper import Device
from snapvault.adapters.sources.lvm_names import new_name
from snapvault.adapters.sources.lvm_plan import Plan
from snapvault.errors import SourceError
from snapvault.ports.source import Consistency, Quiesce

_STRENGTH = tuple(Consistency)  # weakest first


@dataclass(frozen=True, slots=True)
class Taken:
    """Active snapshots by stream, when they were taken and what they are worth."""

    snapshots: Mapping[str, Volume]
    taken_at: datetime
    consistency: Consistency


@dataclass(frozen=True, slots=True)
class _Slot:
    """A thin snapshot that LVM knows and nobody uses, to be filled at the moment that counts."""

    pool: Device
    thin_id: int
    origin_id: int


def choose_together(
    plans: Sequence[Plan], host: Host, needed_paths: Iterable[Path]
) -> tuple[list[Plan], list[Plan]]:
    """Return the plans whose volumes can be held at once, and those that are snapshot apart.

    Apart is what this host runs from, and what another of the volumes lies on: suspended, it
    would stop those who are to resume it, or the suspending of the other. One alone needs no
    holding: LVM holds it itself.
    """
    if len(plans) < 2:
        return [], list(plans)
    needed = host.needed(needed_paths)
    devices = [plan.origin.device for plan in plans if plan.origin.device is not None]
    carrying = {below for device in devices for below in host.below({device}) - {device}}
    together: list[Plan] = []
    apart: list[Plan] = []
    for plan in plans:
        (apart if plan.origin.device in needed | carrying else together).append(plan)
    return (together, apart) if len(together) > 1 else ([], [*plans])


def take(
    plans: Sequence[Plan], together: Sequence[Plan], quiesce: Sequence[Quiesce], host: Host
) -> Taken:
    """Snapshot all volumes: those of `together` at one moment, the others right before it.

    Nothing is left behind when it fails.

    Raises:
        SourceError: LVM refuses, or the volumes could not be held still.
        QuiesceError: what uses them would not come to rest.
    """
    names = {plan.stream: new_name(plan.origin, clock.now()) for plan in plans}
    dormant = [plan for plan in together if plan.is_thin]
    try:
        slots = _prepare(dormant, names)
        with ExitStack() as rest:
            promises = [rest.enter_context(each()) for each in quiesce]
            taken_at = clock.now()
            for plan in plans:
                if plan not in together:
                    taken_at = clock.now()
                    _create(plan, names)
            if together:
                taken_at = _take_at_once(together, slots, names)
        snapshots = _activated(plans, dormant, names)
    except BaseException as error:
        _remove_named(plans, names, error)
        raise
    own = [
        Consistency.FILE_SYSTEM
        if plan.origin.device and host.is_mounted(plan.origin.device)
        else Consistency.CRASH
        for plan in plans
    ]
    return Taken(snapshots, taken_at, combined(own, promises))


def combined(own: Sequence[Consistency], promises: Sequence[Consistency]) -> Consistency:
    """Return what snapshots are worth: as the weakest, or what somebody promised for all."""
    weakest = min(own, key=_STRENGTH.index)
    return max((weakest, *promises), key=_STRENGTH.index)


def _prepare(plans: Sequence[Plan], names: Mapping[str, str]) -> dict[str, _Slot]:
    """Make thin snapshots, now, whose content is replaced at the moment that counts.

    QUIRK: lvcreate of LVM 2.03.16 breaks with its pool when a thin origin is suspended already:
    it sends the pool's message while it suspends the origin, which it then leaves out. So LVM makes
    its snapshot before, and the pool is told directly to take it again.
    """
    if not plans:
        return {}
    for plan in plans:
        lvm_commands.create_thin_snapshot(
            plan.origin, names[plan.stream], plan.tags, is_active=False
        )
    found = _find_named(plans, names)
    slots: dict[str, _Slot] = {}
    for plan in plans:
        snapshot = found.get(plan.stream)
        if snapshot is None or snapshot.thin_id is None or plan.origin.device is None:
            raise _vanished(plan)
        origin = lvm_mapper.read_thin(plan.origin.device)
        slots[plan.stream] = _Slot(origin.pool, snapshot.thin_id, origin.thin_id)
    return slots


def _take_at_once(
    plans: Sequence[Plan], slots: Mapping[str, _Slot], names: Mapping[str, str]
) -> datetime:
    """Suspend all origins, snapshot each, resume all; return the moment that they show."""
    with held([plan.origin.path for plan in plans]):
        moment = clock.now()
        thin = [plan for plan in plans if plan.stream in slots]
        for plan in thin:
            _fill(slots[plan.stream])
        thick = [plan for plan in plans if plan.stream not in slots]
        if thin and thick:
            lvm_mapper.resume([plan.origin.path for plan in thin])
        for plan in thick:
            _create(plan, names)
    return moment


def _fill(slot: _Slot) -> None:
    """Take a thin snapshot again, under its old number.

    SAFETY: its origin is suspended, as create_snap asks for; nobody has the snapshot open, since it
    is not active; the pool's transaction, by which LVM knows its own doings, stays as it is. Should
    we die between the two messages, LVM removes the snapshot that has no number like any other.
    """
    lvm_mapper.message(slot.pool, f"delete {slot.thin_id}")
    lvm_mapper.message(slot.pool, f"create_snap {slot.thin_id} {slot.origin_id}")


def _create(plan: Plan, names: Mapping[str, str]) -> None:
    name = names[plan.stream]
    if plan.is_thin:
        lvm_commands.create_thin_snapshot(plan.origin, name, plan.tags, is_active=True)
    else:
        lvm_commands.create_thick_snapshot(plan.origin, name, plan.space, plan.tags)


def _activated(
    plans: Sequence[Plan], dormant: Sequence[Plan], names: Mapping[str, str]
) -> dict[str, Volume]:
    """Return the snapshots by stream, all with a device."""
    if dormant:
        lvm_commands.activate([f"{each.origin.group}/{names[each.stream]}" for each in dormant])
    found = _find_named(plans, names)
    for plan in plans:
        snapshot = found.get(plan.stream)
        if snapshot is None or snapshot.device is None:
            raise _vanished(plan)
    return found


def _find_named(plans: Sequence[Plan], names: Mapping[str, str]) -> dict[str, Volume]:
    volumes = {volume.full_name: volume for volume in lvm_commands.list_volumes()}
    wanted = {plan.stream: f"{plan.origin.group}/{names[plan.stream]}" for plan in plans}
    return {stream: volumes[name] for stream, name in wanted.items() if name in volumes}


def _remove_named(plans: Sequence[Plan], names: Mapping[str, str], error: BaseException) -> None:
    """Remove what was made before a failure; what remains is noted with it."""
    try:
        lvm_commands.remove(_find_named(plans, names).values())
    except SourceError as failure:
        error.add_note(f"a snapshot may stay until the next run: {failure}")


def _vanished(plan: Plan) -> SourceError:
    return SourceError(
        f'the snapshot of logical volume "{plan.origin.full_name}" is not there',
        hint="Somebody else may remove snapshots; run the backup again.",
    )
