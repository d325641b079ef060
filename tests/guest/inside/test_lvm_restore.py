# SPDX-License-Identifier: Apache-2.0
"""Restores to new logical volumes, real ones: what is in them, and when they have their name."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapvault.adapters.targets.lvm import LvmRestore
from snapvault.adapters.targets.lvm_address import parse
from snapvault.errors import RestoreError, TargetNotEmptyError
from tests.support import lvm
from tests.support.lvm import MIB

CHANCE = random.Random(29)
SIZE = 9 * MIB + 5000  # ends within an extent
PART = "web01-root.snapvault-restoring"


@pytest.fixture(scope="module")
def group() -> Iterator[str]:
    with lvm.volume_group() as name:
        lvm.thin_pool(name)
        yield name


@pytest.fixture(autouse=True)
def no_volumes_are_left(group: str) -> Iterator[None]:
    yield
    lvm.remove_volumes(group, but=[lvm.POOL])


@pytest.fixture
def dirty(group: str) -> None:
    """Leave old data where the next volumes will lie."""
    lvm.write(lvm.thick(group, "old"), 0, b"old " * (8 * MIB))
    lvm.remove_volumes(group, but=[lvm.POOL])


def opened(group: str, more: str = "") -> LvmRestore:
    return LvmRestore.open(parse(f"lvm:{group}{more}"))


def test_a_linear_volume_is_named_once_it_is_whole_and_zeros_elsewhere(
    group: str, dirty: None
) -> None:
    data = CHANCE.randbytes(MIB)
    target = opened(group).target("web01-root", SIZE)
    unfinished = (lvm.names_in(group), lvm.field(f"{group}/{PART}", "lv_tags"))

    target.zero(0, MIB)
    target.write(MIB, memoryview(data))
    target.zero(2 * MIB, SIZE - 2 * MIB)
    target.commit()

    assert unfinished == ([lvm.POOL, PART], "snapvault.restoring")
    assert sorted(lvm.names_in(group)) == [lvm.POOL, "web01-root"]
    assert lvm.field(f"{group}/web01-root", "lv_tags") == ""
    assert lvm.field(f"{group}/web01-root", "lv_layout") == "linear"
    assert lvm.content(f"{group}/web01-root") == bytes(MIB) + data + bytes(10 * MIB)


def test_a_thin_volume_takes_room_for_data_alone(group: str) -> None:
    restore = opened(group, f"?thin={lvm.POOL}")
    target = restore.target("web01-root", 2000 * MIB)

    target.zero(0, 1000 * MIB)
    target.zero(1001 * MIB, 999 * MIB)
    target.write(1000 * MIB, memoryview(b"data" * 10_000))
    target.commit()

    used = float(lvm.field(f"{group}/{lvm.POOL}", "data_percent")) / 100 * 96 * MIB
    assert used < MIB
    assert restore.grain == lvm.CHUNK
    with Path(f"/dev/{group}/web01-root").open("rb") as device:
        device.seek(1000 * MIB)
        assert device.read(40_000) == b"data" * 10_000


def test_what_a_dead_restore_left_is_removed_by_the_next_and_a_living_one_is_not(
    group: str,
) -> None:
    child = os.fork()
    if child == 0:
        try:
            opened(group).target("web01-root", SIZE)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    left = lvm.names_in(group)

    target = opened(group).target("web01-root", SIZE)
    with pytest.raises(RestoreError, match=r"is being restored") as second:
        opened(group).target("web01-root", SIZE)
    target.abort()

    assert left == [lvm.POOL, PART]
    assert "other restore" in str(second.value.hint)
    assert target.left_behind is None
    assert lvm.names_in(group) == [lvm.POOL]


def test_names_that_are_taken_are_refused_before_and_after(group: str) -> None:
    target = opened(group).target("late", MIB)
    lvm.thick(group, "late", "4M")
    lvm.thick(group, PART, "4M")  # nobody's tag is on it
    restore = opened(group)

    for name in ("late", "web01-root"):
        with pytest.raises(TargetNotEmptyError, match="exists already"):
            restore.target(name, MIB)
    with pytest.raises(TargetNotEmptyError, match="appeared while"):
        target.commit()
    target.abort()

    assert sorted(lvm.names_in(group)) == sorted(["late", lvm.POOL, PART])


def test_what_is_not_there_and_what_has_no_room_is_told(group: str) -> None:
    linear, thin = opened(group), opened(group, f"?thin={lvm.POOL}")

    with pytest.raises(RestoreError, match='no volume group "vg9"') as no_group:
        opened("vg9")
    with pytest.raises(RestoreError, match='has no thin pool "pool9"') as no_pool:
        opened(group, "?thin=pool9")
    with pytest.raises(RestoreError, match='not enough room in volume group "vg-guest"'):
        linear.require_room([(MIB, MIB), (1 << 40, MIB)])
    with pytest.raises(RestoreError, match='not enough room in thin pool "vg-guest/pool-0"'):
        thin.require_room([(1 << 40, 97 * MIB)])
    thin.require_room([(1 << 40, 90 * MIB)])

    assert str(no_group.value.hint) == f"There are: {group}."
    assert str(no_pool.value.hint) == f"It has: {lvm.POOL}."
