# SPDX-License-Identifier: Apache-2.0
"""Bringing disks back as EBS snapshots and volumes, through the command line."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapvault import clock
from tests.acceptance.program import Host, image, shell
from tests.support.ebs_fake import BROKEN, EbsFake
from tests.support.ebs_fake_world import BLOCK

pytestmark = pytest.mark.integration

CHANCE = random.Random(23)
MIB = 1 << 20


@pytest.fixture
def cloud() -> Iterator[EbsFake]:
    with EbsFake() as found:
        yield found


@pytest.fixture
def recovery(recovery: Host, cloud: EbsFake) -> Host:
    recovery.environment = cloud.environment()
    return recovery


def address(cloud: EbsFake, *more: str, region: str = "eu-west-1") -> str:
    return f"ebs:{region}?{'&'.join([f'endpoint={cloud.endpoint_url}', *more])}"


def test_any_night_of_a_disk_becomes_a_snapshot(
    host: Host, recovery: Host, cloud: EbsFake, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.img"
    content = bytearray(CHANCE.randbytes(3 * MIB) + bytes(2 * MIB) + CHANCE.randbytes(100_001))
    host.protect({"web01": image(disk)}, volume_size="1 MiB")
    host.does("init")
    nights = []
    for night in range(3):
        # Small changes, so that most blocks have pieces in several volumes.
        for at in range(night * 20_000, 3 * MIB, 300_000):
            content[at : at + 5000] = CHANCE.randbytes(5000)
        disk.write_bytes(content)
        host.does("backup")
        nights.append(bytes(content))
    points = sorted(host.points("web01"), key=lambda point: str(point["taken_at"]))

    named = []
    for point in points:
        words = ("--point", point["id"], "--to", address(cloud), "--json")
        report = recovery.does("restore", "web01", *words).json
        (restored,) = report["restored"]
        assert restored["stream"] == point["streams"][0]["name"]
        assert (restored["region"], restored["size_gib"]) == ("eu-west-1", 1)
        assert (restored["volume"], restored["encrypted"]) == (None, False)
        assert restored["target"] == restored["snapshot"]
        named.append(restored["snapshot"])

    made = cloud.own_snapshots()
    assert [each.read(0, len(content)) for each in made] == nights
    assert [each.state for each in made] == ["completed"] * 3
    assert [each.tags["snapvault:restored-point"] for each in made] == [
        point["id"] for point in points
    ]
    assert made[0].tags["snapvault:restored-source"] == "web01"
    assert named == [each.id for each in made]
    assert list((recovery.state).rglob("spool/*")) == []


def test_the_disks_of_a_machine_become_volumes(
    host: Host, recovery: Host, cloud: EbsFake, tmp_path: Path
) -> None:
    contents = {name: CHANCE.randbytes(MIB + 7) for name in ("data", "root")}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    host.protect({"web01": {"streams": {name: image(tmp_path / name) for name in contents}}})
    host.does("init")
    host.does("backup")
    to = address(cloud, "zone=us-east-1b", "volume_type=gp2", region="us-east-1")

    done = recovery.does("restore", "web01", "--to", to)

    volumes = {each.tags["Name"]: each for each in cloud.world.volumes.values()}
    assert set(volumes) == {"web01-data", "web01-root"}
    for name, content in contents.items():
        volume = volumes[f"web01-{name}"]
        assert volume.read(0, MIB + 7) == content
        assert (volume.zone, volume.kind) == ("us-east-1b", "gp2")
        assert f'EBS snapshot "{volume.snapshot}" in region "us-east-1": 1 GiB' in done.stdout
        assert f'volume "{volume.id}" of it in zone "us-east-1b"' in done.stdout


def test_a_stream_that_is_no_disk_is_refused(
    host: Host, recovery: Host, cloud: EbsFake, tmp_path: Path
) -> None:
    (tmp_path / "disk.img").write_bytes(b"disk" * 10_000)
    host.protect(
        {"web01": {"streams": {"root": image(tmp_path / "disk.img"), "dump": shell("echo 1")}}}
    )
    host.does("init")
    host.does("backup")

    refusal = recovery.fails(16, "restore", "web01", "--to", address(cloud))
    recovery.does("restore", "web01", "--stream", "root", "--to", address(cloud))

    assert 'stream "dump" of source "web01" is no disk' in refusal
    assert "Choose a disk with --stream: root." in refusal
    assert len(cloud.own_snapshots()) == 1


@pytest.mark.parametrize(
    ("to", "told"),
    [
        ("ebs:", "names no AWS region"),
        ("ebs:Paris", "names no AWS region"),
        ("ebs:eu-west-1?zoen=eu-west-1a", 'Did you mean "zone"?'),
        ("ebs:eu-west-1?", 'unknown key ""'),
        ("ebs:eu-west-1?zone", "has no value"),
        ("ebs:eu-west-1?zone=a&zone=b", "twice"),
        ("ebs:eu-west-1?encrypted=maybe", "neither yes nor no"),
        ("ebs:eu-west-1?kms_key=1234", "ARN of a KMS key"),
        ("ebs:eu-west-1?encrypted=no&kms_key=arn:aws:kms:eu-west-1:111122223333:key/1", "not to"),
        ("ebs:eu-west-1?role=admin", "ARN of a role"),
        ("ebs:eu-west-1?endpoint=localhost", "is not a URL"),
        ("ebs:eu-west-1?volume_type=gp2", "no zone"),
        ("ebs:eu-west-1?zone=eu-west-1a&volume_type=gp4", 'Did you mean "gp'),
        ("ebs:eu-west-1?zone=eu-west-1a&volume_type=io2", "AWS tools"),
        ("ebs:eu-west-1?timeout=soon", "expected a duration"),
    ],
)
def test_an_address_that_makes_no_sense_is_a_usage_error(
    recovery: Host, to: str, told: str
) -> None:
    refusal = recovery.fails(2, "restore", "web01", "--to", to)

    assert told in " ".join(refusal.replace("│", " ").split())


def test_paths_cannot_go_to_ebs(recovery: Host) -> None:
    refusal = recovery.fails(2, "restore", "etc", "--path", "ssh", "--to", "ebs:eu-west-1")

    assert "not to EBS" in refusal


def test_a_profile_that_is_not_there_is_one_clear_line(
    used: Host, recovery: Host, cloud: EbsFake
) -> None:
    refusal = recovery.fails(16, "restore", "web01", "--to", address(cloud, "profile=nobody"))

    assert 'cannot restore to EBS in region "eu-west-1"' in refusal
    assert "nobody" in refusal


def test_a_missing_permission_is_one_clear_line_and_leaves_nothing(
    used: Host, recovery: Host, cloud: EbsFake
) -> None:
    cloud.deny("PutSnapshotBlock")

    refusal = recovery.fails(16, "restore", "web01", "--to", address(cloud))

    assert "not allowed to use ebs:PutSnapshotBlock" in refusal
    assert "Allow ebs:PutSnapshotBlock to these credentials in IAM." in refusal
    assert cloud.own_snapshots() == []


def test_what_could_not_be_deleted_is_named(used: Host, recovery: Host, cloud: EbsFake) -> None:
    cloud.deny("CompleteSnapshot", "DeleteSnapshot")

    refusal = recovery.fails(16, "restore", "web01", "--to", address(cloud))

    (left,) = cloud.own_snapshots()
    assert f'could not delete incomplete EBS snapshot "{left.id}"' in refusal
    assert "not allowed to use ebs:CompleteSnapshot" in refusal


def test_a_backup_host_cannot_restore_and_leaves_no_snapshot(used: Host, cloud: EbsFake) -> None:
    used.environment = cloud.environment()

    refusal = used.fails(12, "restore", "web01", "--to", address(cloud))

    assert "recovery key" in refusal
    assert cloud.own_snapshots() == []


def test_an_interrupted_restore_leaves_no_snapshot(
    used: Host, recovery: Host, cloud: EbsFake
) -> None:
    cloud.inject("PutSnapshotBlock", BROKEN, times=1 << 30)
    program = recovery.start("restore", "web01", "--to", address(cloud))
    deadline = clock.monotonic() + 60
    while not cloud.calls["PutSnapshotBlock"] and clock.monotonic() < deadline:
        clock.sleep(0.05)

    program.send_signal(signal.SIGINT)
    _, said = program.communicate(timeout=120)

    assert program.returncode == 128 + signal.SIGINT
    assert b"Traceback" not in said
    assert cloud.calls["StartSnapshot"] == 1
    assert cloud.own_snapshots() == []


def test_an_encrypted_volume_reads_as_the_disk(used: Host, recovery: Host, cloud: EbsFake) -> None:
    to = address(cloud, "zone=eu-west-1a", "encrypted=yes")

    report = recovery.does("restore", "web01", "--to", to, "--json").json

    (volume,) = cloud.world.volumes.values()
    assert report["restored"][0]["volume"] == volume.id
    assert report["restored"][0]["encrypted"]
    assert volume.read(0, 2 * BLOCK) == (b"content" * 10_000).ljust(2 * BLOCK, b"\0")
