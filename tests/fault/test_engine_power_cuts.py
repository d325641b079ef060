# SPDX-License-Identifier: Apache-2.0
"""The power is cut at every single write of a run, just before it and just after it."""

import random
from pathlib import Path
from typing import Literal

import pytest

from snapvault.engine.verify import Level
from snapvault.errors import StoreUnavailableError
from snapvault.formats import names
from tests.support.stores import CrashingStore, FailingStore, PowerCut, RecordingStore
from tests.support.vaults import MixedSource, VaultKit, require_whole

# Four volumes of changed blocks and literals; map, signature, two lists, manifest.
WRITES = 9


def changed_source() -> MixedSource:
    return MixedSource(
        disks={"root": bytearray(random.Random(1).randbytes(150_000))},
        streams={"dump": random.Random(2).randbytes(60_000)},
    )


def change(source: MixedSource) -> None:
    disk = source.disks["root"]
    assert isinstance(disk, bytearray)
    disk[10_000:80_000] = random.Random(3).randbytes(70_000)
    source.streams["dump"] = source.streams["dump"][:30_000] + random.Random(4).randbytes(40_000)


def new_kit(folder: Path) -> VaultKit:
    return VaultKit(folder, volume_size=32 << 10)


def test_a_run_makes_as_many_writes_as_are_cut_here(tmp_path: Path) -> None:
    kit, source = new_kit(tmp_path), changed_source()
    kit.night(source)
    change(source)
    store = RecordingStore(kit.store)

    kit.night(source, store)

    assert len(store.called("put", "delete")) == WRITES
    assert store.called("put")[-1].startswith(names.POINTS)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("writes", range(WRITES))
def test_a_power_cut_leaves_the_new_point_invisible_or_whole(
    tmp_path: Path, writes: int, when: Literal["before", "after"]
) -> None:
    kit, source = new_kit(tmp_path), changed_source()
    first = kit.night(source)
    earlier = {name: kit.store.get(name) for name in kit.objects()}
    change(source)

    with pytest.raises(PowerCut):
        kit.night(source, CrashingStore(kit.store, writes_before_crash=writes, when=when))

    assert {name: kit.store.get(name) for name in earlier} == earlier
    inventory = kit.inventory()
    there = [held.point for held in inventory.of(source.name)]
    last_write_landed = writes == WRITES - 1 and when == "after"
    assert inventory.problems == ()
    assert len(there) == 1 + last_write_landed
    assert there[0] == first.point
    require_whole(kit, source, there)
    assert kit.verify(Level.FULL).findings == ()


@pytest.mark.parametrize("lose_state", [False, True], ids=["with state", "without state"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("writes", range(WRITES))
def test_the_run_after_a_power_cut_completes(
    tmp_path: Path, writes: int, when: Literal["before", "after"], *, lose_state: bool
) -> None:
    kit, source = new_kit(tmp_path), changed_source()
    kit.night(source)
    before = set(kit.objects(names.VOLUMES))
    change(source)
    with pytest.raises(PowerCut):
        kit.night(source, CrashingStore(kit.store, writes_before_crash=writes, when=when))
    if lose_state:
        kit.lose_state()
    left = set(kit.objects(names.VOLUMES)) - before

    held = kit.night(source)

    require_whole(kit, source, [each.point for each in kit.inventory().held])
    assert kit.verify(Level.FULL).findings == ()
    if not lose_state:
        used = {
            names.volume(name) for each in kit.contents(held.point).maps for name in each.volumes
        }
        assert left <= used


@pytest.mark.parametrize("writes", range(WRITES))
def test_a_store_that_fails_once_fails_the_run_and_nothing_else(
    tmp_path: Path, writes: int
) -> None:
    kit, source = new_kit(tmp_path), changed_source()
    kit.night(source)
    change(source)
    failing = FailingStore(
        kit.store,
        lambda: StoreUnavailableError("the store is away"),
        verbs=["put"],
        times=1,
        after=writes,
    )

    with pytest.raises(StoreUnavailableError):
        kit.night(source, failing)

    assert len(kit.inventory().of(source.name)) == 1
    assert list((tmp_path / "state").rglob("*.sealing")) == []
    assert source.record.left_open == 0
    kit.night(source)
    require_whole(kit, source, [each.point for each in kit.inventory().held])


def test_volumes_left_by_a_lost_run_are_not_needed(tmp_path: Path) -> None:
    kit, source = new_kit(tmp_path), changed_source()
    with pytest.raises(PowerCut):
        kit.night(source, CrashingStore(kit.store, writes_before_crash=3))
    kit.store.delete([*kit.objects(names.VOLUMES)][:2])

    held = kit.night(source)

    require_whole(kit, source, [held.point])
    assert kit.verify(Level.FULL).findings == ()
