# SPDX-License-Identifier: Apache-2.0
"""What is damaged or missing: found, remembered, stored again, and told of where it stays lost."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from snapvault.engine import damages, mending
from snapvault.engine.repair import Outcome
from snapvault.engine.vault import Held
from snapvault.engine.verify import Level
from snapvault.formats import emergency_kit, names
from snapvault.model.point import Point
from tests.support.vaults import MixedSource, VaultKit, require_whole

CHANCE = random.Random(13)


@pytest.fixture
def kit(tmp_path: Path) -> VaultKit:
    return VaultKit(tmp_path, volume_size=32 << 10)


@pytest.fixture
def source() -> MixedSource:
    return MixedSource(
        disks={"root": bytearray(CHANCE.randbytes(150_000))},
        streams={"dump": CHANCE.randbytes(50_000)},
    )


def change(source: MixedSource) -> None:
    disk = source.disks["root"]
    assert isinstance(disk, bytearray)
    disk[100_000:104_000] = CHANCE.randbytes(4000)
    source.streams["dump"] += CHANCE.randbytes(1000)


def volume_of(kit: VaultKit, held: Held, stream: str) -> str:
    """Return the name of the volume that holds the start of a stream."""
    contents = kit.contents(held.point)
    extents = next(
        extents
        for record, extents in zip(contents.streams, contents.maps, strict=True)
        if record.name == stream
    )
    return names.volume(extents.volumes[int(extents.place[0]) - 2])


def flip(kit: VaultKit, name: str) -> None:
    data = bytearray(kit.store.get(name))
    data[-1] ^= 1
    kit.replace(name, bytes(data))


def look(kit: VaultKit, *, is_rehearsal: bool = False) -> Outcome:
    return mending.look_at_data(kit.host(), is_rehearsal)


def lost_points(outcome: Outcome) -> set[str]:
    return {point for left in outcome.left for point in left.points}


@pytest.mark.parametrize("stream", ["root", "dump"])
def test_a_damaged_volume_that_verify_found_is_stored_again(
    kit: VaultKit, source: MixedSource, stream: str
) -> None:
    first = kit.night(source)
    change(source)
    second = kit.night(source)
    name = volume_of(kit, first, stream)
    flip(kit, name)
    kit.verify(Level.DATA, kit.host())

    third = kit.night(source)
    change(source)
    fourth = kit.night(source)

    for held in (third, fourth):
        assert name not in volumes_of(kit, held.point)
    # What lies in other volumes is not stored again.
    assert 0 < third.point.counters["rewritten_bytes"] <= (64 << 10)
    assert fourth.point.counters["rewritten_bytes"] == 0
    kit.store.delete([name])
    require_whole(kit, source, [third.point, fourth.point])
    told = look(kit)
    assert lost_points(told) == {first.point.point, second.point.point}
    assert any(f'stream "{stream}"' in each.message for each in told.left)


def test_what_repair_finds_missing_is_stored_again(kit: VaultKit, source: MixedSource) -> None:
    first = kit.night(source)
    lost = volume_of(kit, first, "root")
    kit.store.delete([lost])
    rehearsed = look(kit, is_rehearsal=True)
    assert damages.known(kit.host()) == frozenset()

    told = look(kit)
    second = kit.night(source)

    assert told.left == rehearsed.left
    assert told.left[0].message == f'volume "{lost}" is missing from the vault'
    assert '"snapvault backup web01" stores again' in told.left[1].message
    assert 'of stream "root", in 1 range, the first from byte 0 to ' in told.left[1].message
    require_whole(kit, source, [second.point])
    assert second.point.counters["read_bytes"] > 0
    assert lost_points(look(kit)) == {first.point.point}


def test_what_was_put_back_is_right_again(kit: VaultKit, source: MixedSource) -> None:
    first = kit.night(source)
    name = volume_of(kit, first, "root")
    whole = kit.store.get(name)
    flip(kit, name)
    kit.verify(Level.DATA, kit.host())
    assert damages.known(kit.host()) == {name}
    kit.replace(name, whole)

    told = look(kit)
    second = kit.night(source)

    assert [(each.name, each.how) for each in told.mended] == [(name, "is right again")]
    assert told.left == ()
    assert damages.known(kit.host()) == frozenset()
    assert second.point.counters["new_volumes"] == 0


def test_what_verify_finds_right_is_right_again(kit: VaultKit, source: MixedSource) -> None:
    first = kit.night(source)
    name = volume_of(kit, first, "root")
    whole = kit.store.get(name)
    flip(kit, name)
    for level in (Level.FULL, Level.DATA):
        assert kit.verify(level, replace(kit.host(), sealer=kit.recovery_sealer)).findings
        assert damages.known(kit.host()) == {name}
    kit.replace(name, whole)

    kit.verify(Level.OBJECTS, kit.host())
    after_a_look_at_sizes = damages.known(kit.host())
    kit.verify(Level.DATA, kit.host())

    assert after_a_look_at_sizes == {name}
    assert damages.known(kit.host()) == frozenset()


@pytest.mark.parametrize("kind", [".map", ".sig", ".list"])
def test_lost_metadata_of_the_newest_point_is_made_anew_from_this_hosts_copy(
    kit: VaultKit, source: MixedSource, kind: str
) -> None:
    kit.night(source)
    change(source)
    second = kit.night(source)
    for name in kit.objects():
        if name.endswith(kind):
            flip(kit, name)
    kit.verify(Level.DATA, kit.host())

    third = kit.night(source)

    assert third.point.counters["new_volumes"] == 0
    assert not {each.name for each in (*third.point.objects, *third.point.lists)} & {
        each.name for each in (*second.point.objects, *second.point.lists) if kind in each.name
    }
    require_whole(kit, source, [third.point])
    kit.lose_state()
    change(source)
    require_whole(kit, source, [kit.night(source).point])


@pytest.mark.parametrize(
    "lost",
    [
        lambda name: name.endswith(".asc"),
        lambda name: name == names.EMERGENCY_SCRIPT,
        lambda name: name == names.EMERGENCY_SIGNED,
        lambda name: name.startswith("restore.py") or name == names.EMERGENCY_TEXT,
    ],
    ids=["keys", "script", "signed script", "all of the script"],
)
def test_keys_and_the_emergency_script_are_written_again(
    kit: VaultKit, lost: Callable[[str], bool]
) -> None:
    gone = [name for name in kit.objects() if lost(name)]
    kit.store.delete(gone)

    rehearsed = mending.write_kit_again(kit.host(), True)
    assert not set(kit.objects()) & set(gone)
    told = mending.write_kit_again(kit.host(), False)

    assert rehearsed == told
    assert sorted(each.name for each in told.mended) == sorted(gone)
    assert kit.store.get(names.EMERGENCY_SCRIPT) == emergency_kit.script()
    assert kit.verify(Level.DATA).findings == ()
    assert mending.write_kit_again(kit.host(), False) == Outcome()


def test_a_script_that_nobody_signed_is_not_signed_now(kit: VaultKit) -> None:
    kit.store.delete([names.EMERGENCY_SIGNED])
    kit.replace(names.EMERGENCY_SCRIPT, b"print('trust me')")

    told = mending.write_kit_again(kit.host(), False)

    (left,) = told.left
    assert "remove the first" in left.message
    assert names.EMERGENCY_SIGNED not in kit.objects()


def volumes_of(kit: VaultKit, point: Point) -> set[str]:
    return {names.volume(each) for found in kit.contents(point).maps for each in found.volumes}
