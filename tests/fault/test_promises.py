# SPDX-License-Identifier: Apache-2.0
"""The promises of the README, each held against a vault of several nights."""

import random
from collections import Counter
from pathlib import Path

import pytest

from snapvault.engine.verify import Level
from snapvault.errors import ConfigError, KeyMissingError
from snapvault.formats import names
from tests.support.sealers import PaperSealer, fingerprint_of
from tests.support.sources import Faults
from tests.support.stores import RecordingStore
from tests.support.vaults import (
    MixedSource,
    SparseContent,
    VaultKit,
    gnupg_sealers,
    require_whole,
)

BLOCK = 4096
NIGHTS = 8


def sparse(source: MixedSource) -> SparseContent:
    disk = source.disks["root"]
    assert isinstance(disk, SparseContent)
    return disk


@pytest.fixture
def source() -> MixedSource:
    disk = SparseContent(4_000_000)
    disk.write(0, random.Random(1).randbytes(500_000))
    disk.write(3_000_000, random.Random(2).randbytes(300_000))
    return MixedSource(disks={"root": disk}, streams={"dump": random.Random(3).randbytes(300_000)})


@pytest.fixture
def kit(tmp_path: Path) -> VaultKit:
    return VaultKit(tmp_path, block_size=BLOCK)


def live_some_nights(kit: VaultKit, source: MixedSource) -> None:
    for number in range(NIGHTS):
        if number:
            sparse(source).write(number * 31_000, random.Random(number).randbytes(6000))
            dump = source.streams["dump"]
            place = number * 9000
            source.streams["dump"] = dump[:place] + b"row" * number + dump[place + 100 :]
        kit.night(source)


@pytest.mark.integration
def test_the_host_alone_opens_maps_but_no_volume_and_the_recovery_key_opens_all(
    tmp_path: Path, source: MixedSource
) -> None:
    with gnupg_sealers() as (host, recovery):
        kit = VaultKit(tmp_path, sealers=(host, recovery), block_size=BLOCK, volume_size=1 << 20)
        kit.night(source)
        volumes = [kit.store.get(name) for name in kit.objects(names.VOLUMES)]
        metadata = [kit.store.get(name) for name in kit.objects(names.META)]

        for volume in volumes:
            with pytest.raises(KeyMissingError):
                host.open(volume)

        assert volumes
        assert len(metadata) == 2
        assert all(host.open(each) for each in metadata)
        assert all(recovery.open(each) for each in volumes + metadata)


def test_a_host_cannot_restore_or_verify_fully_what_it_backed_up(
    kit: VaultKit, source: MixedSource
) -> None:
    kit.night(source)

    with pytest.raises(KeyMissingError):
        kit.verify(Level.FULL, kit.host())

    assert kit.verify(Level.OBJECTS, kit.host()).findings == ()
    assert kit.verify(Level.DATA, kit.host()).findings == ()


def test_restoring_the_last_of_many_nights_fetches_each_object_once(
    kit: VaultKit, source: MixedSource
) -> None:
    live_some_nights(kit, source)
    point = kit.inventory().of(source.name)[-1].point
    store = RecordingStore(kit.store)

    targets = kit.targets(point, store)

    fetched = Counter(name for name in store.called("get", "open"))
    needed = {names.volume(volume) for each in kit.contents(point).maps for volume in each.volumes}
    assert [target.content for target in targets] == list(source.at(point).values())
    assert {name for name in fetched if name.startswith(names.VOLUMES)} == needed
    assert set(fetched.values()) == {1}


def test_restoring_writes_each_byte_once_and_no_zeros(kit: VaultKit, source: MixedSource) -> None:
    live_some_nights(kit, source)
    point = kit.inventory().of(source.name)[-1].point

    targets = kit.targets(point)

    for target in targets:
        ends = 0
        for offset, length in sorted(target.writes):
            assert offset >= ends
            ends = offset + length
    assert sum(length for _, length in targets[0].writes) < 1_000_000
    assert sum(length for _, length in targets[1].writes) == point.streams[1].size


def test_there_is_never_a_second_full_backup(kit: VaultKit, source: MixedSource) -> None:
    live_some_nights(kit, source)

    first, *later = (held.point.counters for held in kit.inventory().of(source.name))

    assert first["volume_bytes"] > 1_000_000
    assert max(counters["volume_bytes"] for counters in later) < 30_000


def test_an_unchanged_night_stores_no_volume(kit: VaultKit, source: MixedSource) -> None:
    kit.night(source)
    before = kit.objects(names.VOLUMES)

    held = kit.night(source)

    assert kit.objects(names.VOLUMES) == before
    assert held.point.counters["changed_bytes"] == 0
    require_whole(kit, source, [held.point])


@pytest.mark.parametrize("count", [1, 7, 40])
def test_a_night_costs_what_changed(tmp_path: Path, source: MixedSource, count: int) -> None:
    kit = VaultKit(tmp_path, block_size=BLOCK, volume_size=1 << 20)
    kit.night(source)
    for number in random.Random(5).sample(range(120), count):
        sparse(source).write(number * BLOCK + 9, random.Random(number).randbytes(BLOCK - 9))

    counters = kit.night(source).point.counters

    assert counters["changed_bytes"] == count * BLOCK
    assert count * (BLOCK - 9) <= counters["volume_bytes"] <= count * BLOCK + 300


def test_a_byte_inserted_early_in_a_stream_costs_a_block_or_two(
    kit: VaultKit, source: MixedSource
) -> None:
    kit.night(source)
    dump = source.streams["dump"]
    source.streams["dump"] = dump[:1000] + b"x" + dump[1000:]

    counters = kit.night(source).point.counters

    assert counters["changed_bytes"] <= 2 * 2048


def test_holes_are_not_read(kit: VaultKit, source: MixedSource) -> None:
    data = sum(map(len, sparse(source).pages.values()))

    counters = kit.night(source).point.counters

    assert counters["read_bytes"] == data + len(source.streams["dump"])
    assert source.record.bytes_read == counters["read_bytes"]


def test_a_night_on_a_host_with_its_state_reads_no_data_from_the_vault(
    kit: VaultKit, source: MixedSource
) -> None:
    kit.night(source)
    store = RecordingStore(kit.store)

    kit.night(source, store)

    assert store.called("get", "open") == [names.hash_key(kit.host_sealer.signer)]


def test_a_host_that_lost_its_state_goes_on_incrementally(
    kit: VaultKit, source: MixedSource
) -> None:
    live_some_nights(kit, source)
    kit.lose_state()
    sparse(source).write(50_000, b"changed")

    held = kit.night(source)

    assert held.point.sequence == NIGHTS + 1
    assert held.point.counters["changed_bytes"] == BLOCK
    assert held.point.counters["new_volumes"] == 1
    require_whole(kit, source, [each.point for each in kit.inventory().held])


def test_a_first_backup_that_failed_late_is_not_stored_twice(
    kit: VaultKit, source: MixedSource
) -> None:
    source.streams["tail"] = b"tail" * 5000
    source.faults = Faults(after_bytes=1_110_000)
    with pytest.raises(Exception, match="broke"):
        kit.night(source)
    before = kit.objects(names.VOLUMES)
    source.faults = Faults()

    held = kit.night(source)

    used = {name for each in kit.contents(held.point).maps for name in each.volumes}
    stored = sum(kit.objects(names.VOLUMES).values())
    assert sum(before.values()) > 900_000
    assert {names.volume(name) for name in used} >= set(before)
    # What the failed run had in its last, incomplete volume is all that is sent again.
    assert stored < 1_121_000 + kit.options.volume_size
    require_whole(kit, source, [held.point])


def test_verifying_on_the_host_asks_for_no_private_key_of_the_data(
    kit: VaultKit, source: MixedSource
) -> None:
    live_some_nights(kit, source)
    kit.lose_state()

    report = kit.verify(Level.DATA, kit.host())

    assert report.findings == ()
    assert report.points == NIGHTS
    assert report.objects == len(kit.objects("volumes/")) + 3 * NIGHTS + 1


def test_a_recipient_who_came_late_is_told_so_every_night(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)
    kit.night(one_disk())
    kit.host_sealer = TwoRecipients(holds="host")

    kit.night(one_disk())

    assert any(fingerprint_of("late") in warning for warning in kit.events.warnings)


def test_a_backup_that_no_recipient_could_restore_is_refused(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)
    kit.host_sealer = PaperSealer(recovery="late", holds="host")

    with pytest.raises(ConfigError, match="added after this vault was made"):
        kit.night(one_disk())


class TwoRecipients(PaperSealer):
    @property
    def recipients(self) -> tuple[str, ...]:
        return (*super().recipients, fingerprint_of("late"))


def one_disk() -> MixedSource:
    return MixedSource(disks={"root": bytearray(b"x" * 2000)}, streams={})
