# SPDX-License-Identifier: Apache-2.0
"""The fake of EBS refuses what AWS refuses, and agrees with moto where moto is right."""

import base64
import hashlib
import logging
import random
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from tests.support import ebs_fake
from tests.support.ebs_fake import EbsFake
from tests.support.ebs_fake_world import ACCOUNT, BLOCK, GIB

CHANCE = random.Random(5)
DATA = CHANCE.randbytes(BLOCK)
ONCE = Config(retries={"total_max_attempts": 1, "mode": "standard"})


@pytest.fixture
def cloud() -> Iterator[EbsFake]:
    with EbsFake() as found:
        found.world.looks_until_completed = 0
        yield found


@pytest.fixture
def ebs(cloud: EbsFake) -> Any:
    return client(cloud.endpoint_url, "ebs", cloud.key.access, cloud.key.secret)


@pytest.fixture
def ec2(cloud: EbsFake) -> Any:
    return client(cloud.endpoint_url, "ec2", cloud.key.access, cloud.key.secret)


def client(url: str, service: str, key: str, secret: str, region: str = "eu-west-1") -> Any:
    session = ebs_fake.session(key, secret, region=region)
    return session.client(service, endpoint_url=url, config=ONCE)


def digest(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def put(ebs: Any, snapshot: str, index: int, data: bytes = DATA, **more: Any) -> Any:
    asked = {"DataLength": BLOCK, "Checksum": digest(data), "ChecksumAlgorithm": "SHA256"}
    return ebs.put_snapshot_block(
        SnapshotId=snapshot, BlockIndex=index, BlockData=data, **{**asked, **more}
    )


def complete(ebs: Any, snapshot: str, blocks: list[bytes], **more: Any) -> Any:
    total = b"".join(hashlib.sha256(block).digest() for block in blocks)
    asked = {
        "ChangedBlocksCount": len(blocks),
        "Checksum": digest(total),
        "ChecksumAlgorithm": "SHA256",
        "ChecksumAggregationMethod": "LINEAR",
    }
    return ebs.complete_snapshot(SnapshotId=snapshot, **{**asked, **more})


def written(ebs: Any, indexes: list[int], **more: Any) -> str:
    """Make a completed snapshot with the same data in some blocks."""
    snapshot: str = ebs.start_snapshot(VolumeSize=1, **more)["SnapshotId"]
    for index in indexes:
        put(ebs, snapshot, index)
    complete(ebs, snapshot, [DATA] * len(indexes))
    return snapshot


def refused(call: Any, **parameters: Any) -> tuple[str, str | None, int]:
    """Return code, reason and status of the error that a call must end with."""
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    answer: Any = caught.value.response
    status = answer["ResponseMetadata"]["HTTPStatusCode"]
    return answer["Error"]["Code"], answer.get("Reason"), status


def listed(ebs: Any, snapshot: str, **more: Any) -> list[int]:
    blocks = ebs.list_snapshot_blocks(SnapshotId=snapshot, **more)["Blocks"]
    return [each["BlockIndex"] for each in blocks]


# --- writing --------------------------------------------------------------------------------


def test_a_token_makes_one_snapshot_and_not_another(cloud: EbsFake, ebs: Any) -> None:
    first = ebs.start_snapshot(VolumeSize=1, ClientToken="t")

    again = ebs.start_snapshot(VolumeSize=1, ClientToken="t")
    other = refused(ebs.start_snapshot, VolumeSize=2, ClientToken="t")

    assert again["SnapshotId"] == first["SnapshotId"]
    assert first["BlockSize"] == BLOCK
    assert other == ("ConflictException", None, 409)
    assert len(cloud.own_snapshots()) == 1


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"VolumeSize": 65_537}, "INVALID_VOLUME_SIZE"),
        ({"VolumeSize": 1, "Timeout": 4321}, "INVALID_PARAMETER_VALUE"),
        ({"VolumeSize": 1, "ParentSnapshotId": "snap-00000000000001000"}, "INVALID_SNAPSHOT_ID"),
        ({"VolumeSize": 1, "Tags": [{"Key": "aws:x", "Value": ""}]}, "INVALID_TAG"),
        (
            {"VolumeSize": 1, "KmsKeyArn": f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/1"},
            "INVALID_PARAMETER_VALUE",
        ),
        (
            {
                "VolumeSize": 1,
                "Encrypted": True,
                "KmsKeyArn": f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/1",
            },
            "INVALID_CUSTOMER_KEY",
        ),
    ],
)
def test_a_snapshot_that_makes_no_sense_is_not_started(
    ebs: Any, parameters: dict[str, Any], reason: str
) -> None:
    # 65537 is within what botocore lets through, and the parent is another account's.
    assert refused(ebs.start_snapshot, **parameters) == ("ValidationException", reason, 400)


def test_a_parent_must_be_there_completed_and_goes_without_encryption(ebs: Any) -> None:
    pending = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    done = written(ebs, [])

    missing = refused(ebs.start_snapshot, VolumeSize=1, ParentSnapshotId="snap-0123456789abcdef0")
    early = refused(ebs.start_snapshot, VolumeSize=1, ParentSnapshotId=pending)
    both = refused(ebs.start_snapshot, VolumeSize=1, ParentSnapshotId=done, Encrypted=True)

    assert missing == ("ResourceNotFoundException", "SNAPSHOT_NOT_FOUND", 404)
    assert early[1] == "INVALID_SNAPSHOT_ID"
    assert both[:2] == ("ValidationException", "INVALID_PARAMETER_VALUE")


@pytest.mark.parametrize(
    ("index", "data", "more", "reason"),
    [
        (0, DATA, {"Checksum": digest(b"other")}, "INVALID_BLOCK"),
        (0, DATA, {"Checksum": "AAAA"}, "INVALID_PARAMETER_VALUE"),
        (0, DATA, {"ChecksumAlgorithm": "MD5"}, "INVALID_PARAMETER_VALUE"),
        (0, DATA, {"DataLength": 1000}, "INVALID_PARAMETER_VALUE"),
        (0, DATA[:-1], {}, "INVALID_BLOCK"),
        (GIB // BLOCK, DATA, {}, "INVALID_BLOCK"),
    ],
)
def test_a_block_that_is_not_right_is_refused(
    cloud: EbsFake, ebs: Any, index: int, data: bytes, more: dict[str, Any], reason: str
) -> None:
    snapshot = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]

    found = refused(lambda: put(ebs, snapshot, index, data, **more))

    assert found == ("ValidationException", reason, 400)
    assert cloud.world.snapshots[snapshot].blocks == {}


@pytest.mark.parametrize(
    "more", [{"ChangedBlocksCount": 2}, {"Checksum": digest(b"other")}], ids=["count", "digest"]
)
def test_a_completion_that_does_not_add_up_is_refused(ebs: Any, more: dict[str, Any]) -> None:
    snapshot = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    put(ebs, snapshot, 7)

    found = refused(lambda: complete(ebs, snapshot, [DATA], **more))
    complete(ebs, snapshot, [DATA])

    assert found == ("ValidationException", "INVALID_PARAMETER_VALUE", 400)


def test_nothing_is_put_or_completed_after_completion(ebs: Any) -> None:
    snapshot = written(ebs, [1])

    late = refused(lambda: put(ebs, snapshot, 2))
    again = refused(lambda: complete(ebs, snapshot, [DATA]))

    assert late[:2] == again[:2] == ("ValidationException", "INVALID_SNAPSHOT_ID")


def test_a_snapshot_that_nobody_writes_to_is_cancelled(cloud: EbsFake, ebs: Any, ec2: Any) -> None:
    snapshot = ebs.start_snapshot(VolumeSize=1, Timeout=10)["SnapshotId"]

    cloud.advance(601)

    assert refused(lambda: put(ebs, snapshot, 0))[1] == "WRITE_REQUEST_TIMEOUT"
    assert ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"] == "error"


# --- reading --------------------------------------------------------------------------------


def test_a_snapshot_shows_its_volume_as_it_was(cloud: EbsFake, ebs: Any, ec2: Any) -> None:
    volume = cloud.add_volume(1)
    volume.write(3 * BLOCK - 2, b"past")
    snapshot = ec2.create_snapshot(VolumeId=volume.id)["SnapshotId"]
    volume.write(3 * BLOCK - 2, b"new!")

    blocks = ebs.list_snapshot_blocks(SnapshotId=snapshot)["Blocks"]
    answer = ebs.get_snapshot_block(SnapshotId=snapshot, **blocks[1])
    data = answer["BlockData"].read()

    assert [each["BlockIndex"] for each in blocks] == [2, 3]
    assert data == b"st" + bytes(BLOCK - 2)
    assert (answer["Checksum"], answer["DataLength"]) == (digest(data), BLOCK)


def test_changed_blocks_are_told_in_all_four_cases(cloud: EbsFake, ebs: Any, ec2: Any) -> None:
    volume = cloud.add_volume(1)
    for index in (0, 1, 2):
        volume.write(index * BLOCK, DATA)
    first = ec2.create_snapshot(VolumeId=volume.id)["SnapshotId"]
    volume.write(BLOCK, b"other")
    volume.discard(2 * BLOCK, BLOCK)
    volume.write(9 * BLOCK, b"new")
    second = ec2.create_snapshot(VolumeId=volume.id)["SnapshotId"]

    found = ebs.list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=second)

    told = {
        each["BlockIndex"]: ("FirstBlockToken" in each, "SecondBlockToken" in each)
        for each in found["ChangedBlocks"]
    }
    assert told == {1: (True, True), 2: (True, False), 9: (False, True)}
    assert (found["VolumeSize"], found["BlockSize"]) == (1, BLOCK)


def test_a_child_has_the_blocks_of_its_parent(ebs: Any) -> None:
    parent = written(ebs, [1, 2])

    child = written(ebs, [2, 3], ParentSnapshotId=parent)

    assert listed(ebs, child) == [1, 2, 3]
    found = ebs.list_changed_blocks(FirstSnapshotId=parent, SecondSnapshotId=child)
    assert [each["BlockIndex"] for each in found["ChangedBlocks"]] == [2, 3]


def test_snapshots_of_two_volumes_are_not_compared(cloud: EbsFake, ebs: Any, ec2: Any) -> None:
    one, other = (
        ec2.create_snapshot(VolumeId=cloud.add_volume(1).id)["SnapshotId"] for _ in range(2)
    )

    found = refused(ebs.list_changed_blocks, FirstSnapshotId=one, SecondSnapshotId=other)

    assert found == ("ValidationException", "UNRELATED_SNAPSHOTS", 400)


def test_pages_may_be_short_or_empty_and_end_with_all_blocks(cloud: EbsFake, ebs: Any) -> None:
    snapshot = written(ebs, list(range(7)))
    cloud.direct.page_cap = 3
    cloud.direct.empty_every = 2
    pages: list[list[int]] = []
    token: dict[str, str] = {}

    while True:
        page = ebs.list_snapshot_blocks(SnapshotId=snapshot, MaxResults=100, **token)
        pages.append([each["BlockIndex"] for each in page["Blocks"]])
        if "NextToken" not in page:
            break
        token = {"NextToken": page["NextToken"]}

    assert pages == [[0, 1, 2], [], [3, 4, 5], [], [6]]
    assert listed(ebs, snapshot, StartingBlockIndex=5) in ([5, 6], [])


def test_next_tokens_last_an_hour_and_block_tokens_a_week(cloud: EbsFake, ebs: Any) -> None:
    snapshot = written(ebs, [0, 1])
    cloud.direct.page_cap = 1
    page = ebs.list_snapshot_blocks(SnapshotId=snapshot)
    block = page["Blocks"][0]

    cloud.advance(3601)
    late_page = refused(ebs.list_snapshot_blocks, SnapshotId=snapshot, NextToken=page["NextToken"])
    ebs.get_snapshot_block(SnapshotId=snapshot, **block)
    cloud.advance(7 * 86_400)
    late_block = refused(ebs.get_snapshot_block, SnapshotId=snapshot, **block)

    assert late_page[1] == "INVALID_PAGE_TOKEN"
    assert late_block[1] == "INVALID_BLOCK_TOKEN"


def test_a_block_token_is_good_for_its_block_of_its_snapshot_alone(ebs: Any) -> None:
    one, other = written(ebs, [0, 1]), written(ebs, [0, 1])
    token = ebs.list_snapshot_blocks(SnapshotId=one)["Blocks"][0]["BlockToken"]

    elsewhere = refused(ebs.get_snapshot_block, SnapshotId=other, BlockIndex=0, BlockToken=token)
    neighbor = refused(ebs.get_snapshot_block, SnapshotId=one, BlockIndex=1, BlockToken=token)

    assert elsewhere[1] == neighbor[1] == "INVALID_BLOCK_TOKEN"


def test_only_completed_snapshots_of_ones_own_are_read(cloud: EbsFake, ebs: Any, ec2: Any) -> None:
    cloud.world.looks_until_completed = 2
    snapshot = written(ebs, [0])
    (public,) = (
        each.id
        for each in cloud.world.snapshots.values()
        if each.public and each.region == "eu-west-1"
    )

    states: list[str] = []
    for _ in range(3):
        assert states or refused(ebs.list_snapshot_blocks, SnapshotId=snapshot)[2] == 400
        found = ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
        states.append(found[0]["State"])

    assert states == ["pending", "pending", "completed"]
    assert listed(ebs, snapshot) == [0]
    assert refused(ebs.list_snapshot_blocks, SnapshotId=public)[1] == "INVALID_SNAPSHOT_ID"


# --- EC2 ------------------------------------------------------------------------------------


def test_an_encrypted_snapshot_gives_random_bytes_where_it_has_no_block(
    cloud: EbsFake, ebs: Any, ec2: Any
) -> None:
    plain, encrypted = written(ebs, [1]), written(ebs, [1], Encrypted=True)

    made = [
        ec2.create_volume(AvailabilityZone="eu-west-1a", SnapshotId=each)["VolumeId"]
        for each in (plain, encrypted)
    ]

    zeros, noise = (cloud.world.volumes[each] for each in made)
    assert zeros.read(BLOCK, BLOCK) == noise.read(BLOCK, BLOCK) == DATA
    assert zeros.read(0, BLOCK) == bytes(BLOCK)
    assert len(set(noise.read(0, BLOCK))) == 256


def test_regions_and_accounts_do_not_see_each_other(cloud: EbsFake, ebs: Any) -> None:
    role = "arn:aws:iam::222233334444:role/backup"
    cloud.add_role(role)
    snapshot = written(ebs, [0])
    taken = cloud.client("sts").assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
    session = ebs_fake.session(
        taken["AccessKeyId"],
        taken["SecretAccessKey"],
        taken["SessionToken"],
        region="eu-west-1",
    )
    stranger = session.client("ebs", endpoint_url=cloud.endpoint_url, config=ONCE)

    elsewhere = refused(
        cloud.client("ebs", region="us-east-1").list_snapshot_blocks, SnapshotId=snapshot
    )
    other = refused(stranger.list_snapshot_blocks, SnapshotId=snapshot)

    assert elsewhere[0] == other[0] == "ResourceNotFoundException"


def test_filters_tags_and_owners_choose_snapshots(cloud: EbsFake, ec2: Any) -> None:
    volume = cloud.add_volume(1)
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "k", "Value": "v"}]}]
    tagged = ec2.create_snapshot(VolumeId=volume.id, TagSpecifications=tags)["SnapshotId"]
    plain = ec2.create_snapshot(VolumeId=volume.id)["SnapshotId"]

    def ids(**more: Any) -> list[str]:
        return [each["SnapshotId"] for each in ec2.describe_snapshots(**more)["Snapshots"]]

    assert ids(Filters=[{"Name": "tag:k", "Values": ["v*"]}]) == [tagged]
    assert ids(OwnerIds=["self"]) == [tagged, plain]
    assert len(ids()) == 3  # a stranger's public one too
    wrong = refused(ec2.describe_snapshots, Filters=[{"Name": "nope", "Values": ["x"]}])
    assert wrong == ("InvalidParameterValue", None, 400)


# --- faults ---------------------------------------------------------------------------------


def test_a_wrong_secret_is_refused(cloud: EbsFake) -> None:
    wrong = {
        service: refused(
            getattr(client(cloud.endpoint_url, service, cloud.key.access, "wrong"), call)
        )[0]
        for service, call in (("ec2", "describe_snapshots"), ("sts", "get_caller_identity"))
    }

    assert wrong == {"ec2": "AuthFailure", "sts": "SignatureDoesNotMatch"}


def test_credentials_expire_from_a_call_on(cloud: EbsFake, ebs: Any, ec2: Any) -> None:
    cloud.expire_credentials(after=1)

    ec2.describe_snapshots()
    codes = [
        refused(ec2.describe_snapshots)[0],
        refused(ebs.start_snapshot, VolumeSize=1)[0],
    ]
    cloud.renew_credentials()
    ec2.describe_snapshots()

    assert codes == ["RequestExpired", "ExpiredTokenException"]


def test_quotas_and_faults_hit_the_calls_they_are_meant_for(cloud: EbsFake, ebs: Any) -> None:
    snapshot = written(ebs, [0])
    cloud.throttle("ListSnapshotBlocks", every=2)
    cloud.limit("StartSnapshot", per_second=0.001, burst=1)
    cloud.deny("CompleteSnapshot")
    cloud.inject("PutSnapshotBlock", ebs_fake.LostAnswer())

    ebs.list_snapshot_blocks(SnapshotId=snapshot)
    second = refused(ebs.list_snapshot_blocks, SnapshotId=snapshot)
    ebs.list_snapshot_blocks(SnapshotId=snapshot)
    started = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    faster = refused(ebs.start_snapshot, VolumeSize=1)
    with pytest.raises(ConnectionClosedError):
        put(ebs, started, 3)
    denied = refused(lambda: complete(ebs, started, [DATA]))

    assert second == ("RequestThrottledException", "ACCOUNT_THROTTLED", 400)
    assert faster[0] == "RequestThrottledException"
    assert denied == ("AccessDeniedException", "UNAUTHORIZED_ACCOUNT", 403)
    assert list(cloud.world.snapshots[started].blocks) == [3]
    assert cloud.refused["ListSnapshotBlocks", "RequestThrottledException"] == 1


# --- moto -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    try:
        from moto.server import ThreadedMotoServer
    except ImportError:
        pytest.fail("moto is missing: pip install 'moto[server]'")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def both(cloud: EbsFake, moto_url: str) -> list[dict[str, Any]]:
    """Return the clients of the fake and those of moto."""
    return [
        {name: client(url, name, cloud.key.access, cloud.key.secret) for name in ("ec2", "ebs")}
        for url in (cloud.endpoint_url, moto_url)
    ]


def test_a_written_snapshot_reads_the_same_as_from_moto(both: list[dict[str, Any]]) -> None:
    found = []

    for clients in both:
        ebs = clients["ebs"]
        started = ebs.start_snapshot(VolumeSize=2, Description="d")
        for index in (5, 1, 4000):
            put(ebs, started["SnapshotId"], index)
        complete(ebs, started["SnapshotId"], [DATA] * 3)
        listing = ebs.list_snapshot_blocks(SnapshotId=started["SnapshotId"])
        blocks = {each["BlockIndex"]: each["BlockToken"] for each in listing["Blocks"]}
        answer = ebs.get_snapshot_block(
            SnapshotId=started["SnapshotId"], BlockIndex=5, BlockToken=blocks[5]
        )
        found.append(
            (
                {key: started[key] for key in ("Status", "VolumeSize", "Description")},
                sorted(blocks),
                listing["VolumeSize"],
                answer["BlockData"].read(),
                (answer["Checksum"], answer["ChecksumAlgorithm"], answer["DataLength"]),
            )
        )

    assert found[0] == found[1]


def test_volumes_and_snapshots_are_described_as_by_moto(both: list[dict[str, Any]]) -> None:
    volume_keys = ("Size", "AvailabilityZone", "VolumeType", "Encrypted", "Tags", "State")
    snapshot_keys = ("VolumeSize", "Description", "Encrypted", "Tags", "State", "Progress")
    found = []

    for clients in both:
        ec2 = clients["ec2"]

        def tags(kind: str) -> list[dict[str, Any]]:
            return [{"ResourceType": kind, "Tags": [{"Key": "a", "Value": "b & <c>"}]}]

        volume = ec2.create_volume(
            AvailabilityZone="eu-west-1a",
            Size=3,
            VolumeType="gp3",
            TagSpecifications=tags("volume"),
        )["VolumeId"]
        ec2.get_waiter("volume_available").wait(
            VolumeIds=[volume], WaiterConfig={"Delay": 0, "MaxAttempts": 10}
        )
        snapshot = ec2.create_snapshot(
            VolumeId=volume, Description="d", TagSpecifications=tags("snapshot")
        )["SnapshotId"]
        (seen,) = ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
        (disk,) = ec2.describe_volumes(VolumeIds=[volume])["Volumes"]
        assert seen["VolumeId"] == volume
        ec2.delete_snapshot(SnapshotId=snapshot)
        found.append(
            (
                {key: disk[key] for key in volume_keys},
                {key: seen[key] for key in snapshot_keys},
                refused(ec2.describe_snapshots, SnapshotIds=[snapshot])[0],
                refused(ec2.describe_volumes, VolumeIds=["vol-0123456789abcdef0"])[0],
            )
        )

    assert found[0] == found[1]
