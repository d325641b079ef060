# SPDX-License-Identifier: Apache-2.0
"""Restoring disks to new EBS snapshots and volumes, against a fake as strict as AWS."""

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from snapvault.adapters.targets.ebs import EbsTarget
from snapvault.adapters.targets.ebs_blocks import Blocks
from snapvault.adapters.targets.ebs_service import EbsPlace, EbsService
from snapvault.errors import RestoreError
from tests.support import ebs_fake
from tests.support.ebs_fake import EbsFake
from tests.support.ebs_fake_world import ACCOUNT, BLOCK, GIB, Snapshot, Volume

pytestmark = pytest.mark.integration

MIB = 1 << 20
KIB = 1 << 10
CHANCE = random.Random(11)
TAGS = {"Name": "web01-root", "snapvault:restore-point": "0011223344556677"}


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[EbsFake]:
    with EbsFake() as found:
        for name, value in found.environment().items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def opened(cloud: EbsFake, **more: Any) -> EbsService:
    place = EbsPlace(**{"region": "eu-west-1", "endpoint_url": cloud.endpoint_url, **more})
    return EbsService.open(place)


def target_in(service: EbsService, size: int, spool: Path, **more: Any) -> EbsTarget:
    return EbsTarget(service, size, description="a test's disk", tags=TAGS, spool=spool, **more)


def only_snapshot(cloud: EbsFake) -> Snapshot:
    (found,) = cloud.own_snapshots()
    return found


def only_volume(cloud: EbsFake) -> Volume:
    (found,) = cloud.world.volumes.values()
    return found


def fill(target: EbsTarget, content: bytes | bytearray, pieces: list[tuple[int, int]]) -> None:
    """Write pieces, and zero everything else."""
    at = 0
    for start, stop in sorted(pieces):
        target.zero(at, start - at)
        at = stop
    target.zero(at, len(content) - at)
    for start, stop in pieces:
        target.write(start, memoryview(content)[start:stop])


def whole(target: EbsTarget, content: bytes) -> None:
    """Write a disk and commit it, as a restore does."""
    try:
        fill(target, content, [(0, len(content))])
        target.commit()
    except BaseException:
        target.abort()
        raise


def cut(size: int, least: int, most: int) -> list[tuple[int, int]]:
    """Cut a range into pieces of any length, in any order."""
    cuts = [0]
    while cuts[-1] < size:
        cuts.append(min(size, cuts[-1] + CHANCE.randint(least, most)))
    pieces = list(pairwise(cuts))
    CHANCE.shuffle(pieces)
    return pieces


# --- what comes back ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4096, BLOCK, BLOCK + 1, 3 * MIB, 5 * MIB + 12_345], ids=str)
def test_a_disk_of_any_size_becomes_a_snapshot_of_whole_gibibytes(
    cloud: EbsFake, spool: Path, size: int
) -> None:
    content = CHANCE.randbytes(size)

    with opened(cloud) as service:
        target = target_in(service, size, spool)
        fill(target, content, [(0, size)])
        target.commit()

    made = only_snapshot(cloud)
    assert made.state == "completed"
    assert made.gib == 1
    assert made.read(0, size) == content
    assert made.read(size, BLOCK) == bytes(BLOCK)
    assert sorted(made.blocks) == list(range(-(-size // BLOCK)))
    assert made.tags == TAGS
    assert made.description == "a test's disk"
    assert target.made.snapshot == made.id
    assert target.kept


def test_an_empty_disk_becomes_an_empty_snapshot(cloud: EbsFake, spool: Path) -> None:
    with opened(cloud) as service:
        target = target_in(service, 0, spool)
        target.commit()

    made = only_snapshot(cloud)
    assert (made.state, made.gib, made.blocks) == ("completed", 1, {})


def test_a_disk_beyond_one_gibibyte_takes_two(cloud: EbsFake, spool: Path) -> None:
    size = GIB + 512
    tail = CHANCE.randbytes(512)

    with opened(cloud) as service:
        target = target_in(service, size, spool)
        target.zero(0, GIB)
        target.write(GIB, memoryview(tail))
        target.commit()

    made = only_snapshot(cloud)
    assert made.gib == 2
    assert made.read(GIB, 512) == tail
    assert list(made.blocks) == [GIB // BLOCK]


@pytest.mark.parametrize("memory", [0, 3 * BLOCK, 64 * MIB])
def test_small_pieces_in_any_order_from_many_threads_become_whole_blocks(
    cloud: EbsFake, spool: Path, memory: int
) -> None:
    size = 8 * MIB + 777
    content = bytearray(CHANCE.randbytes(size))
    content[2 * MIB : 4 * MIB + 100_001] = bytes(2 * MIB + 100_001)
    pieces = cut(size, 1, 60 * KIB)
    holes = [(start, stop) for start, stop in pieces if not any(content[start:stop])]
    data = [piece for piece in pieces if piece not in set(holes)]

    with opened(cloud) as service:
        target = target_in(service, size, spool, memory=memory)
        for start, stop in holes:
            target.zero(start, stop - start)
        with ThreadPoolExecutor(8) as pool:
            writes = [
                pool.submit(target.write, start, memoryview(content)[start:stop])
                for start, stop in data
            ]
            for write in writes:
                write.result()
        target.commit()

    made = only_snapshot(cloud)
    assert made.read(0, size) == content
    # Every block once, zeros never.
    assert cloud.calls["PutSnapshotBlock"] == len(made.blocks) == 17 - 4
    assert list(spool.glob("*")) == []


def test_the_callers_buffer_may_be_used_again_once_write_returns(
    cloud: EbsFake, spool: Path
) -> None:
    cloud.delay["PutSnapshotBlock"] = 0.05
    content = CHANCE.randbytes(8 * BLOCK)
    buffer = bytearray(BLOCK)

    with opened(cloud) as service:
        target = target_in(service, len(content), spool)
        for start in range(0, len(content), BLOCK):
            buffer[:] = content[start : start + BLOCK]
            target.write(start, memoryview(buffer))
        target.commit()

    assert only_snapshot(cloud).read(0, len(content)) == content


def test_many_blocks_are_under_way_at_once(cloud: EbsFake, spool: Path) -> None:
    cloud.together["PutSnapshotBlock"] = 16
    content = CHANCE.randbytes(BLOCK)

    with opened(cloud) as service:
        target = target_in(service, 40 * BLOCK, spool)
        for index in range(40):
            target.write(index * BLOCK, memoryview(content))
        target.commit()

    assert cloud.most_in_flight["PutSnapshotBlock"] >= 16


def test_two_disks_share_one_service(cloud: EbsFake, spool: Path) -> None:
    contents = [CHANCE.randbytes(2 * MIB), CHANCE.randbytes(3 * MIB)]

    with opened(cloud) as service:
        targets = [target_in(service, len(each), spool) for each in contents]
        for target, content in zip(targets, contents, strict=True):
            fill(target, content, cut(len(content), 100, 300 * KIB))
        for target in targets:
            target.commit()

    found = [each.read(0, len(content)) for each, content in zip(
        cloud.own_snapshots(), contents, strict=True)]  # fmt: skip
    assert found == contents


# --- encryption and volumes -----------------------------------------------------------------


def test_a_volume_of_an_encrypted_snapshot_reads_as_the_disk_and_zeros(
    cloud: EbsFake, spool: Path
) -> None:
    size = 3 * MIB + 100
    content = bytearray(CHANCE.randbytes(size))
    content[BLOCK : 3 * BLOCK] = bytes(2 * BLOCK)

    with opened(cloud, encrypted=True, zone="eu-west-1b") as service:
        target = target_in(service, size, spool)
        fill(target, content, [(0, BLOCK), (3 * BLOCK, size)])
        target.commit()

    made = only_snapshot(cloud)
    volume = only_volume(cloud)
    assert made.encrypted
    assert made.kms_key == cloud.world.default_key("eu-west-1", ACCOUNT)
    assert volume.encrypted
    assert volume.read(0, size) == content
    assert volume.read(size, MIB) == bytes(MIB)
    assert volume.read(GIB - MIB, MIB) == bytes(MIB)
    assert sorted(volume.blocks) == list(range(GIB // BLOCK))
    assert cloud.calls["PutSnapshotBlock"] == GIB // BLOCK


def test_an_account_that_encrypts_by_itself_is_noticed(cloud: EbsFake, spool: Path) -> None:
    cloud.world.encryption_by_default = True

    with opened(cloud) as service:
        target = target_in(service, BLOCK, spool)
        target.abort()

    assert target.made.encrypted


def test_a_named_key_is_used(cloud: EbsFake, spool: Path) -> None:
    key = f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/1234abcd"
    cloud.world.kms_keys.add(key)

    with opened(cloud, encrypted=True, kms_key=key) as service:
        target = target_in(service, 0, spool)
        target.abort()
        started = [call for call in cloud.log if call.name == "StartSnapshot"]

    assert len(started) == 1
    assert cloud.refused.total() == 0


def test_an_unknown_key_is_named_by_the_error(cloud: EbsFake, spool: Path) -> None:
    key = f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/nobody"

    with (
        opened(cloud, encrypted=True, kms_key=key) as service,
        pytest.raises(RestoreError, match="KMS key does not exist"),
    ):
        target_in(service, 0, spool)

    assert cloud.own_snapshots() == []


@pytest.mark.parametrize(("kind", "gib"), [("gp3", 1), ("st1", 125)])
def test_a_volume_is_made_where_and_as_asked(
    cloud: EbsFake, spool: Path, kind: str, gib: int
) -> None:
    content = CHANCE.randbytes(MIB)

    with opened(cloud, zone="eu-west-1c", volume_type=kind) as service:
        target = target_in(service, MIB, spool)
        fill(target, content, [(0, MIB)])
        target.commit()

    volume = only_volume(cloud)
    assert target.made.volume == volume.id
    assert (volume.zone, volume.kind, volume.gib) == ("eu-west-1c", kind, gib)
    assert (volume.state, volume.tags) == ("available", TAGS)
    assert volume.read(0, 2 * MIB) == content + bytes(MIB)


# --- other places ---------------------------------------------------------------------------


def test_a_snapshot_can_be_made_in_any_region_and_account(cloud: EbsFake, spool: Path) -> None:
    role = "arn:aws:iam::222233334444:role/restore"
    cloud.add_role(role)

    with opened(cloud, region="us-east-1", role_arn=role) as service:
        target = target_in(service, BLOCK, spool)
        target.write(0, memoryview(CHANCE.randbytes(BLOCK)))
        target.commit()

    made = only_snapshot(cloud)
    assert (made.region, made.owner) == ("us-east-1", "222233334444")


def test_a_region_that_is_not_there_is_named_by_the_error(cloud: EbsFake, spool: Path) -> None:
    with (
        opened(cloud, region="eu-wets-1") as service,
        pytest.raises(RestoreError, match='region "eu-wets-1"'),
    ):
        target_in(service, BLOCK, spool)


def test_a_zone_of_another_region_is_refused_before_anything_is_made(cloud: EbsFake) -> None:
    with pytest.raises(RestoreError, match="no such availability zone") as caught:
        opened(cloud, zone="us-east-1a")

    assert "eu-west-1a, eu-west-1b" in str(caught.value.hint)
    assert cloud.calls["StartSnapshot"] == 0


def test_a_role_that_nobody_may_take_on_is_one_clear_line(cloud: EbsFake, spool: Path) -> None:
    role = "arn:aws:iam::222233334444:role/other"

    with (
        opened(cloud, role_arn=role) as service,
        pytest.raises(RestoreError, match="sts:AssumeRole"),
    ):
        target_in(service, BLOCK, spool)


# --- days on which AWS does not feel well ---------------------------------------------------


def test_throttling_and_lost_answers_are_waited_out(cloud: EbsFake, spool: Path) -> None:
    content = CHANCE.randbytes(10 * BLOCK)
    cloud.throttle("PutSnapshotBlock", every=4)
    cloud.throttle("PutSnapshotBlock", every=7, fault=ebs_fake.TOO_MANY)
    cloud.inject("PutSnapshotBlock", ebs_fake.LostAnswer(), after=3)
    cloud.inject("PutSnapshotBlock", ebs_fake.BROKEN, after=5)
    cloud.inject("StartSnapshot", ebs_fake.LostAnswer())
    cloud.inject("CompleteSnapshot", ebs_fake.THROTTLED)
    cloud.inject("DescribeSnapshots", ebs_fake.EC2_THROTTLED)

    with opened(cloud) as service:
        target = target_in(service, len(content), spool)
        fill(target, content, cut(len(content), 100 * KIB, MIB))
        target.commit()

    assert only_snapshot(cloud).read(0, len(content)) == content
    assert cloud.refused["PutSnapshotBlock", "RequestThrottledException"] > 0


@pytest.mark.parametrize("repeated", ["refuse", "accept"])
def test_a_completion_whose_answer_was_lost_still_counts(
    cloud: EbsFake, spool: Path, repeated: str
) -> None:
    cloud.direct.repeated_completion = repeated
    cloud.inject("CompleteSnapshot", ebs_fake.LostAnswer())

    with opened(cloud) as service:
        target = target_in(service, BLOCK, spool)
        target.write(0, memoryview(CHANCE.randbytes(BLOCK)))
        target.commit()

    assert only_snapshot(cloud).state == "completed"
    assert cloud.calls["CompleteSnapshot"] == 2


def test_a_snapshot_that_not_all_servers_know_of_yet_is_waited_for(
    cloud: EbsFake, spool: Path
) -> None:
    cloud.world.unknown_after_start = 2

    with opened(cloud) as service:
        target = target_in(service, BLOCK, spool)
        target.write(0, memoryview(CHANCE.randbytes(BLOCK)))
        target.commit()

    assert only_snapshot(cloud).state == "completed"


def test_a_block_that_cannot_be_put_ends_the_restore_and_leaves_nothing(
    cloud: EbsFake, spool: Path
) -> None:
    cloud.inject(
        "PutSnapshotBlock", ebs_fake.Refusal(400, "ValidationException", "INVALID_BLOCK"), after=2
    )

    with opened(cloud) as service:
        target = target_in(service, 4 * BLOCK, spool)
        with pytest.raises(RestoreError, match=r"could not write block \d of EBS snapshot"):
            whole(target, CHANCE.randbytes(4 * BLOCK))

    assert cloud.own_snapshots() == []
    assert cloud.calls["CompleteSnapshot"] == 0
    assert target.left_behind is None


@pytest.mark.parametrize(
    ("action", "named"),
    [
        ("StartSnapshot", "ebs:StartSnapshot"),
        ("CreateTags", "ec2:CreateTags"),
        ("PutSnapshotBlock", "ebs:PutSnapshotBlock"),
        ("CompleteSnapshot", "ebs:CompleteSnapshot"),
        ("DescribeSnapshots", "ec2:DescribeSnapshots"),
    ],
)
def test_a_missing_permission_is_named_and_nothing_is_left(
    cloud: EbsFake, spool: Path, action: str, named: str
) -> None:
    cloud.deny(action)

    with opened(cloud) as service, pytest.raises(RestoreError, match=named) as caught:
        whole(target_in(service, BLOCK, spool), CHANCE.randbytes(BLOCK))

    assert caught.value.hint == f"Allow {named} to these credentials in IAM."
    assert cloud.own_snapshots() == []


@pytest.mark.parametrize("action", ["CreateVolume", "DescribeAvailabilityZones"])
def test_a_volume_that_may_not_be_made_is_refused_before_any_work(
    cloud: EbsFake, action: str
) -> None:
    cloud.deny(action)

    with pytest.raises(RestoreError, match=f"not allowed to use ec2:{action}"):
        opened(cloud, zone="eu-west-1a")

    assert cloud.calls["StartSnapshot"] == 0


def test_a_volume_that_fails_leaves_the_snapshot_and_says_so(cloud: EbsFake, spool: Path) -> None:
    cloud.inject(
        "CreateVolume", ebs_fake.Refusal(400, "VolumeLimitExceeded", message="Too many"), after=1
    )

    with opened(cloud, zone="eu-west-1a") as service:
        target = target_in(service, BLOCK, spool)
        target.zero(0, BLOCK)
        with pytest.raises(RestoreError) as caught:
            target.commit()
        target.abort()

    made = only_snapshot(cloud)
    assert str(caught.value) == (
        f'EBS snapshot "{made.id}" is complete, but could not make a volume of it in zone '
        '"eu-west-1a": too many (VolumeLimitExceeded)'
    )
    assert target.kept


def test_credentials_that_expire_on_the_way_are_one_clear_line_and_name_what_is_left(
    cloud: EbsFake, spool: Path
) -> None:
    with opened(cloud) as service:
        target = target_in(service, 4 * BLOCK, spool)
        cloud.expire_credentials(after=1)
        with pytest.raises(RestoreError, match="the credentials have expired"):
            whole(target, CHANCE.randbytes(4 * BLOCK))

    made = only_snapshot(cloud)
    assert str(target.left_behind).startswith(
        f'could not delete incomplete EBS snapshot "{made.id}": the credentials have expired'
    )


def test_a_snapshot_that_fails_is_deleted(cloud: EbsFake, spool: Path) -> None:
    cloud.world.snapshots_to_fail = 1

    with opened(cloud) as service:
        target = target_in(service, BLOCK, spool)
        target.zero(0, BLOCK)
        with pytest.raises(RestoreError, match=r'EBS snapshot "snap-[0-9a-f]+" failed: internal'):
            target.commit()
        target.abort()

    assert cloud.own_snapshots() == []


def test_a_snapshot_that_stays_pending_is_kept_and_named(cloud: EbsFake, spool: Path) -> None:
    cloud.world.looks_until_completed = 1 << 30

    with opened(cloud, timeout=timedelta(seconds=1)) as service:
        target = target_in(service, BLOCK, spool)
        target.zero(0, BLOCK)
        with pytest.raises(RestoreError, match="is still pending after 1s") as caught:
            target.commit()
        target.abort()

    assert "it stays" in str(caught.value.hint)
    assert only_snapshot(cloud).sealed


def test_abort_deletes_the_snapshot_and_can_be_repeated(cloud: EbsFake, spool: Path) -> None:
    with opened(cloud) as service:
        target = target_in(service, 8 * BLOCK, spool, memory=0)
        target.write(100, memoryview(CHANCE.randbytes(7 * BLOCK)))

        target.abort()
        target.abort()

    assert cloud.own_snapshots() == []
    assert cloud.calls["DeleteSnapshot"] == 1
    assert list(spool.glob("*")) == []


def test_abort_after_commit_has_no_effect(cloud: EbsFake, spool: Path) -> None:
    with opened(cloud) as service:
        target = target_in(service, BLOCK, spool)
        target.zero(0, BLOCK)
        target.commit()

        target.abort()

    assert only_snapshot(cloud).state == "completed"


# --- the spool ------------------------------------------------------------------------------


def test_the_spool_takes_no_more_room_than_what_waits_in_it(spool: Path) -> None:
    whole: dict[int, bytes] = {}
    count, half = 20, 4096 * 3
    first, second = CHANCE.randbytes(half), CHANCE.randbytes(BLOCK - half)
    blocks = Blocks(count * BLOCK, BLOCK, whole.__setitem__, folder=spool, memory=0)

    def used() -> int:
        return os.fstat(blocks._spool._descriptor).st_blocks * 512

    for index in range(count):
        blocks.write(index * BLOCK, memoryview(first))
    waiting = used()
    for index in range(count):
        blocks.write(index * BLOCK + half, memoryview(second))
    left = used()
    blocks.close()

    assert count * half - half <= waiting <= count * half
    assert left <= half
    assert whole == dict.fromkeys(range(count), first + second)


def test_a_spool_without_room_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    blocks = Blocks(4 * BLOCK, BLOCK, lambda *_: None, folder=tmp_path / "file", memory=0)
    blocks.write(0, memoryview(b"a"))

    with pytest.raises(RestoreError, match="could not write the spool of incomplete blocks"):
        blocks.write(BLOCK, memoryview(b"b"))


# --- what is refused ------------------------------------------------------------------------


def test_reading_back_is_refused(cloud: EbsFake, spool: Path) -> None:
    with opened(cloud) as service:
        target = target_in(service, BLOCK, spool)

        with pytest.raises(RestoreError, match="cannot read back"):
            target.read_into(0, memoryview(bytearray(10)))
        target.abort()


def test_a_disk_that_ebs_cannot_hold_is_refused_before_anything_is_made(
    cloud: EbsFake, spool: Path
) -> None:
    with opened(cloud) as service, pytest.raises(RestoreError, match=r"at most 64\.0 TiB"):
        target_in(service, 65_536 * GIB + 1, spool)

    assert cloud.calls["StartSnapshot"] == 0


def test_a_disk_too_large_for_its_type_of_volume_is_refused_before_anything_is_made(
    cloud: EbsFake, spool: Path
) -> None:
    with (
        opened(cloud, zone="eu-west-1a", volume_type="standard") as service,
        pytest.raises(RestoreError, match=r"standard volume of 1\.0 TiB"),
    ):
        target_in(service, 1024 * GIB + 1, spool)

    assert cloud.calls["StartSnapshot"] == 0


@pytest.mark.parametrize("second", [(0, 10), (BLOCK - 1, 1), (BLOCK, BLOCK)])
def test_a_range_written_twice_is_a_mistake(
    cloud: EbsFake, spool: Path, second: tuple[int, int]
) -> None:
    with opened(cloud) as service:
        target = target_in(service, 2 * BLOCK, spool)
        target.write(0, memoryview(bytes(2 * BLOCK)))

        with pytest.raises(ValueError, match="written before"):
            target.zero(*second)
        target.abort()


def test_a_disk_that_is_not_whole_is_not_committed(cloud: EbsFake, spool: Path) -> None:
    with opened(cloud) as service:
        target = target_in(service, 2 * BLOCK, spool)
        target.write(0, memoryview(bytes(2 * BLOCK - 1)))

        with pytest.raises(ValueError, match="neither written nor zeroed"):
            target.commit()
        target.abort()

    assert cloud.own_snapshots() == []
