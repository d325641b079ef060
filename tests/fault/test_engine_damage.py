# SPDX-License-Identifier: Apache-2.0
"""Every kind of damage to every kind of object: found by verify, named, and never restored."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from snapvault.engine import sequence
from snapvault.engine.contents import look_up
from snapvault.engine.restore import restore
from snapvault.engine.vault import Inventory, hash_key, read_record, sync
from snapvault.engine.verify import Level, Report, Verification
from snapvault.errors import IntegrityError, ObjectMissingError
from snapvault.formats import manifest, names
from snapvault.formats import vault as vault_format
from snapvault.ports.sealer import Readers
from tests.support.sealers import PaperSealer
from tests.support.targets import MemoryTarget
from tests.support.vaults import MixedSource, VaultKit

Damage = Callable[[bytes], bytes]


def flip_first(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def flip_middle(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


def flip_last(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 128])


FLIPS = [flip_first, flip_middle, flip_last]
KINDS = {
    "volume": names.VOLUMES,
    "map": ".map",
    "signature": ".sig",
    "list": names.LISTS,
    "hash key": ".hash",
    "manifest": names.POINTS,
}
DATA_KINDS = ["volume", "map", "list", "hash key"]  # what a restore reads


@pytest.fixture
def source() -> MixedSource:
    return MixedSource(
        disks={"root": bytearray(random.Random(1).randbytes(150_000))},
        streams={"dump": random.Random(2).randbytes(60_000)},
    )


@pytest.fixture
def kit(tmp_path: Path, source: MixedSource) -> VaultKit:
    """A vault of three nights."""
    kit = VaultKit(tmp_path, volume_size=64 << 10)
    for number in range(3):
        disk = source.disks["root"]
        assert isinstance(disk, bytearray)
        disk[number * 600 : number * 600 + 500] = random.Random(number).randbytes(500)
        source.streams["dump"] = source.streams["dump"][:-100] + b"row" * number
        kit.night(source)
    return kit


def object_of(kit: VaultKit, kind: str) -> str:
    """Return the name of an object of a kind that the newest point needs."""
    (point,) = (held.point for held in kit.inventory().held if held.point.sequence == 3)
    if kind == "volume":
        return names.volume(kit.contents(point).maps[0].volumes[0])
    if kind == "manifest":
        return next(iter(kit.objects(names.POINTS)))
    # The point's own map comes last among its objects, and is always read.
    wanted = [record.name for record in (*reversed(point.objects), *point.lists, point.hash_key)]
    return next(name for name in wanted if KINDS[kind] in name)


def try_to_restore(kit: VaultKit, inventory: Inventory) -> list[MemoryTarget]:
    """Restore the newest point as a fresh machine; the targets are returned, failed or not."""
    vault = kit.recovery()
    point = inventory.held[-1].point
    targets = [MemoryTarget(stream.size) for stream in point.streams]
    with pytest.raises(IntegrityError):
        restore(vault, look_up(vault, point, point.streams), targets)
    return targets


def require_named(report: Report, name: str) -> None:
    assert any(name in finding.message for finding in report.findings)


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("level", [Level.DATA, Level.FULL])
@pytest.mark.parametrize("kind", KINDS)
def test_verify_names_an_object_with_a_flipped_bit(
    kit: VaultKit, kind: str, level: Level, flip: Damage
) -> None:
    name = object_of(kit, kind)
    kit.replace(name, flip(kit.store.get(name)))

    report = kit.verify(level)

    require_named(report, name)


@pytest.mark.parametrize("level", [Level.DATA, Level.FULL])
def test_verify_names_a_damaged_manifest_that_the_catalog_already_knew(
    kit: VaultKit, level: Level
) -> None:
    vault = kit.recovery()
    sync(vault)
    name = object_of(kit, "manifest")
    kit.replace(name, flip_middle(kit.store.get(name)))

    report = kit.verify(level, vault)

    require_named(report, name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", list(Level))
def test_verify_names_an_object_that_is_cut_short(kit: VaultKit, kind: str, level: Level) -> None:
    name = object_of(kit, kind)
    kit.replace(name, kit.store.get(name)[:-1])

    report = kit.verify(level)

    require_named(report, name)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "manifest"])
@pytest.mark.parametrize("level", list(Level))
def test_verify_names_a_missing_object(kit: VaultKit, kind: str, level: Level) -> None:
    name = object_of(kit, kind)
    kit.store.delete([name])

    report = kit.verify(level)

    require_named(report, name)


def test_verify_says_which_points_a_damaged_volume_hurts(kit: VaultKit) -> None:
    points = [held.point for held in kit.inventory().held]
    (last,) = set(kit.contents(points[2]).maps[0].volumes) - set(
        kit.contents(points[1]).maps[0].volumes
    )
    kit.replace(names.volume(last), flip_middle(kit.store.get(names.volume(last))))

    (finding,) = kit.verify(Level.DATA).findings

    assert finding.points == (points[2].point,)


@pytest.mark.parametrize("damage", [*FLIPS, lambda data: data[:-1], lambda data: data + b"x"])
@pytest.mark.parametrize("kind", DATA_KINDS)
def test_a_damaged_object_is_never_restored(kit: VaultKit, kind: str, damage: Damage) -> None:
    name = object_of(kit, kind)
    kit.replace(name, damage(kit.store.get(name)))

    targets = try_to_restore(kit, kit.inventory())

    assert all(target.content is None for target in targets)
    if kind == "volume":
        assert all(target.aborted for target in targets)


@pytest.mark.parametrize("kind", DATA_KINDS)
def test_a_point_with_a_missing_object_is_never_restored(kit: VaultKit, kind: str) -> None:
    kit.store.delete([object_of(kit, kind)])

    targets = try_to_restore(kit, kit.inventory())

    assert all(target.content is None for target in targets)


def test_two_volumes_with_exchanged_contents_are_found_and_not_restored(kit: VaultKit) -> None:
    first, second, *_ = kit.objects(names.VOLUMES)
    contents = kit.store.get(first), kit.store.get(second)
    kit.replace(first, contents[1])
    kit.replace(second, contents[0])

    report = kit.verify(Level.DATA)

    require_named(report, first)
    require_named(report, second)
    assert all(target.content is None for target in try_to_restore(kit, kit.inventory()))


def test_exchanged_manifests_are_out_of_place(kit: VaultKit) -> None:
    first, second, _ = kit.objects(names.POINTS)
    contents = kit.store.get(first), kit.store.get(second)
    kit.replace(first, contents[1])
    kit.replace(second, contents[0])

    inventory = kit.inventory()

    assert [held.point.sequence for held in inventory.held] == [3]
    assert sum("out of place" in str(problem) for problem in inventory.problems) == 2


@pytest.mark.parametrize("level", [Level.DATA, Level.FULL])
def test_an_old_manifest_under_a_newer_name_is_found(kit: VaultKit, level: Level) -> None:
    vault = kit.recovery()
    sync(vault)
    first, _, third = kit.objects(names.POINTS)
    kit.replace(third, kit.store.get(first))

    known, fresh = kit.verify(level, vault), kit.verify(level)

    require_named(known, third)
    require_named(fresh, third)
    assert fresh.points == 2


def test_a_newest_point_that_vanished_is_reported_by_a_catalog_that_knew_it(
    kit: VaultKit,
) -> None:
    vault = kit.host()
    newest = sync(vault).held[-1]
    kit.store.delete([newest.manifest.name])

    inventory = sync(vault)

    assert newest.point.point in str(inventory.problems[0])
    assert len(inventory.of("web01")) == 2
    require_named(kit.verify(Level.OBJECTS, vault), newest.point.point)


def test_a_middle_point_that_vanished_is_reported_even_by_an_empty_catalog(kit: VaultKit) -> None:
    middle = kit.inventory().held[1]
    kit.store.delete([middle.manifest.name])

    report = kit.verify(Level.OBJECTS)

    require_named(report, middle.point.point)
    assert report.points == 2


def test_a_manifest_of_a_stranger_counts_as_nothing(
    kit: VaultKit,
) -> None:
    stranger = PaperSealer(host="stranger", holds="stranger")
    newest = kit.inventory().held[-1]
    content = kit.host_sealer.read_signed(kit.store.get(newest.manifest.name)).content
    kit.replace(newest.manifest.name, stranger.sign(content))

    report = kit.verify(Level.OBJECTS)

    require_named(report, newest.manifest.name)
    assert [held.point.sequence for held in kit.inventory().held] == [1, 2]


def test_a_manifest_of_another_vault_counts_as_nothing(kit: VaultKit, tmp_path: Path) -> None:
    other = VaultKit(tmp_path / "other")
    other.record = vault_format.VaultRecord("0f" * 16, kit.record.created_at, 512)
    held = other.night(MixedSource("mail", streams={"dump": b"x"}))
    kit.store.put(held.manifest.name, other.store.get(held.manifest.name))

    inventory = kit.inventory()

    assert [each.point.source for each in inventory.held] == ["web01"] * 3
    assert "another vault" in str(inventory.problems[0])


def test_a_backup_goes_on_from_an_older_point_when_the_newest_ones_maps_are_damaged(
    kit: VaultKit, source: MixedSource
) -> None:
    last = kit.inventory().held[-1].point
    own = names.map_of("web01", last.point)
    kit.replace(own, flip_middle(kit.store.get(own)))
    kit.lose_state()

    held = kit.night(source)

    assert held.point.sequence == 4
    assert held.point.parent is not None
    assert held.point.parent.point == last.point
    assert held.point.counters["changed_bytes"] < 5000
    assert kit.restored(held.point) == source.at(held.point)


@pytest.mark.parametrize("level", list(Level))
def test_a_replaced_vault_record_is_found(kit: VaultKit, level: Level) -> None:
    other = vault_format.VaultRecord("0f" * 16, kit.record.created_at, 512)
    kit.replace(names.VAULT, vault_format.encode(other))

    report = kit.verify(level)

    require_named(report, names.VAULT)


@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize("name", [names.EMERGENCY_SCRIPT, names.EMERGENCY_SIGNED])
def test_a_changed_emergency_script_is_found(kit: VaultKit, name: str, level: Level) -> None:
    kit.replace(name, kit.store.get(name) + b"\nimport antigravity\n")

    report = kit.verify(level)

    require_named(report, "emergency script" if name.endswith(".gpg") else name)


def test_an_emergency_script_that_a_stranger_signed_is_found(kit: VaultKit) -> None:
    script = b"print('restored')"
    stranger = PaperSealer(host="stranger", holds="stranger")
    kit.replace(names.EMERGENCY_SCRIPT, script)
    kit.replace(names.EMERGENCY_SIGNED, stranger.sign(script))

    report = kit.verify(Level.OBJECTS)

    require_named(report, names.EMERGENCY_SCRIPT)


@pytest.mark.parametrize("level", list(Level))
def test_a_missing_vault_record_is_found(kit: VaultKit, level: Level) -> None:
    kit.store.delete([names.VAULT])

    report = kit.verify(level)

    require_named(report, names.VAULT)


def test_no_flipped_bit_in_the_vault_record_changes_how_data_is_read(kit: VaultKit) -> None:
    whole = kit.store.get(names.VAULT)

    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        kit.replace(names.VAULT, bytes(flipped))
        try:
            record = read_record(kit.store)
        except (IntegrityError, ObjectMissingError):
            continue
        assert record is not None
        # Another vault id makes every manifest a stranger's; the rest has to be as it was.
        assert record.vault != kit.record.vault or record.block_size == kit.record.block_size


def test_a_key_object_that_holds_no_key_is_refused(kit: VaultKit) -> None:
    point = kit.inventory().held[-1].point
    kit.replace(point.hash_key.name, b"not a key")

    with pytest.raises(IntegrityError, match=r"keys/"):
        hash_key(kit.recovery(), point.hash_key)


def test_pipes_end_with_an_error_when_a_volume_is_damaged(kit: VaultKit) -> None:
    point = kit.inventory().held[-1].point
    name = object_of(kit, "volume")
    kit.replace(name, flip_last(kit.store.get(name)))

    with pytest.raises(IntegrityError, match=name):
        kit.streamed(point)


def sealed_again(kit: VaultKit, kind: str) -> str:
    """Seal what an object holds anew, as everybody can who has the public keys."""
    name = object_of(kit, kind)
    readers = Readers.RECOVERY if kind == "volume" else Readers.RECOVERY_AND_HOST
    again = kit.host_sealer.seal(kit.recovery_sealer.open(kit.store.get(name)), readers)
    kit.replace(name, again)
    return name


def test_a_map_that_somebody_sealed_again_is_not_the_one_that_was_stored(kit: VaultKit) -> None:
    sealed_again(kit, "map")

    targets = try_to_restore(kit, kit.inventory())

    assert all(target.content is None for target in targets)


def test_a_volume_that_somebody_sealed_again_is_found_though_its_bytes_are_right(
    kit: VaultKit,
) -> None:
    newest = kit.inventory().held[-1].point
    before = kit.restored(newest)

    name = sealed_again(kit, "volume")

    assert kit.restored(newest) == before
    with pytest.raises(IntegrityError, match=name):
        kit.streamed(newest)
    require_named(kit.verify(Level.DATA), name)


@pytest.mark.parametrize("stream", ["root", "dump"])
def test_bytes_that_differ_from_the_content_digest_are_never_committed(
    kit: VaultKit, stream: str
) -> None:
    vault = kit.recovery()
    point = kit.inventory().held[-1].point
    records = tuple(
        replace(each, digest="00" * 32) if each.name == stream else each for each in point.streams
    )
    contents = look_up(vault, point, records)
    targets = [MemoryTarget(each.size) for each in records]

    with pytest.raises(IntegrityError, match=f'stream "{stream}".* content digest'):
        restore(vault, contents, targets)

    assert all(target.aborted and target.content is None for target in targets)
    one = contents.only([each.name == stream for each in records])
    with pytest.raises(IntegrityError, match=f'stream "{stream}".* content digest'):
        sequence.stream_out(
            vault, one, sequence.arrange(one), kit.folder / "spool", bytearray().extend
        )


def test_verify_holds_every_stream_against_its_content_digest(kit: VaultKit) -> None:
    inventory = kit.inventory()
    *others, last = inventory.held
    streams = tuple(replace(each, digest="00" * 32) for each in last.point.streams)
    wrong = replace(last, point=replace(last.point, streams=streams))
    work = Verification(
        kit.recovery(),
        replace(inventory, held=(*others, wrong)),
        Level.FULL,
        100,
        kit.folder / "spool",
        random.Random(1),
    )

    (finding,) = work.run().findings

    assert "content digest" in finding.message
    assert finding.points == (last.point.point,)


def test_a_parent_that_was_signed_again_with_other_content_is_reported(kit: VaultKit) -> None:
    middle = kit.inventory().held[1]
    # Whoever has a host's key can do this, but not without the next manifest's telling.
    changed = replace(middle.point, host="other.example.org")
    kit.replace(middle.manifest.name, kit.host_sealer.sign(manifest.encode(changed)))

    (problem,) = kit.inventory().problems

    assert f'"{middle.point.point}" is not the one' in str(problem)


def test_metadata_that_somebody_else_sealed_is_not_even_decrypted(
    kit: VaultKit, source: MixedSource
) -> None:
    held = kit.inventory().of(source.name)[-1]
    name = next(each.name for each in held.point.objects if each.name.endswith(".map"))
    kit.replace(name, kit.host_sealer.seal(b"a bomb", Readers.RECOVERY_AND_HOST))
    vault = kit.recovery()
    decrypted: list[bytes] = []
    real = vault.sealer.open_stream
    vault.sealer.open_stream = lambda sealed, sink, **_: real(sealed, decrypted.append)  # type: ignore[method-assign]

    with pytest.raises(IntegrityError, match=name):
        look_up(vault, held.point, held.point.streams)

    assert decrypted == []
