# SPDX-License-Identifier: Apache-2.0
"""Which volumes are meant, which snapshots stay, and what AWS's answers mean."""

from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from snapvault.adapters import aws
from snapvault.adapters.aws import Trouble
from snapvault.adapters.sources.ebs import beyond
from snapvault.adapters.sources.ebs_snapshots import STREAM, Snapshot, tag_value
from snapvault.adapters.sources.ebs_volumes import Volume, pick
from snapvault.errors import SourceError

ROOT = Volume("vol-1", "/dev/xvda", 1 << 30, is_boot=True)
DATA = Volume("vol-2", "/dev/sda1", 1 << 30)
WINDOWS = Volume("vol-3", "xvdF", 1 << 30)
ALL = [ROOT, DATA, WINDOWS]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ((), ALL),
        (("xvda",), [ROOT]),
        (("/dev/sda1", "sda1", "vol-2"), [DATA]),
        (("vol-3", "xvda"), [ROOT, WINDOWS]),
    ],
)
def test_volumes_are_picked_by_device_or_id(
    wanted: tuple[str, ...], expected: list[Volume]
) -> None:
    assert pick(ALL, wanted, "i-1") == expected


def test_streams_are_named_after_devices() -> None:
    assert [volume.own_name for volume in ALL] == ["xvda", "sda1", "xvdf"]


def test_a_device_that_cannot_name_a_stream_is_refused() -> None:
    with pytest.raises(SourceError, match='device "/dev/x y" of instance "i-1"'):
        pick([Volume("vol-1", "/dev/x y", 1)], (), "i-1")


def test_an_instance_without_ebs_volumes_is_refused() -> None:
    with pytest.raises(SourceError, match="has no EBS volumes"):
        pick([], (), "i-1")


@pytest.mark.parametrize("text", ["5a5a/web01", "a" * 255])
def test_an_owner_that_tags_can_hold_is_kept(text: str) -> None:
    assert tag_value(text) == text


@pytest.mark.parametrize("text", ["", "a*", "a" * 256, "ü", "a,b"])
def test_any_other_owner_is_hashed(text: str) -> None:
    assert len(tag_value(text)) == 64
    assert tag_value(text) != tag_value(text + "x")


def snapshot(number: int, stream: str) -> Snapshot:
    started = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=number)
    tags = {STREAM: stream}
    return Snapshot(f"{stream}{number}", "vol-1", 1, "completed", "", started, "standard", tags)


@pytest.mark.parametrize(
    ("keep", "expected"), [(0, {"a1", "a2", "a3", "b1"}), (1, {"a1", "a2"}), (3, set())]
)
def test_the_newest_of_each_stream_are_kept(keep: int, expected: set[str]) -> None:
    older = [snapshot(2, "a"), snapshot(3, "a"), snapshot(1, "b"), snapshot(1, "a")]

    assert set(beyond(older, keep)) == expected


@pytest.mark.parametrize(
    ("operation", "code", "status", "message", "trouble", "text"),
    [
        ("CreateSnapshots", "RequestLimitExceeded", 503, "", Trouble.BUSY, "slow down"),
        ("GetSnapshotBlock", "ThrottlingException", 400, "", Trouble.BUSY, "slow down"),
        ("GetSnapshotBlock", "InternalServerException", 500, "", Trouble.UNSURE, "failed to"),
        ("AssumeRole", "AccessDenied", 403, "", Trouble.DENIED, "use sts:AssumeRole"),
        (
            "CreateSnapshots",
            "UnauthorizedOperation",
            403,
            "User: u is not authorized to perform: ec2:CreateTags on resource: r",
            Trouble.DENIED,
            "use ec2:CreateTags",
        ),
        ("DescribeVolumes", "RequestExpired", 400, "", Trouble.CREDENTIALS, "have expired"),
        ("DescribeVolumes", "AuthFailure", 401, "", Trouble.CREDENTIALS, "does not know"),
        ("DescribeVolumes", "InvalidVolume.NotFound", 400, "", Trouble.MISSING, "not there"),
        ("X", "Odd", 400, "Too\nodd.", Trouble.REFUSED, r"^too odd \(Odd\)$"),
    ],
)
def test_answers_are_told_by_what_can_be_done(
    operation: str, code: str, status: int, message: str, trouble: Trouble, text: str
) -> None:
    answer = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }

    with (
        pytest.raises(SourceError, match="could not try: ") as caught,
        aws.told(SourceError, "could not try"),
    ):
        raise ClientError(answer, operation)  # type: ignore[arg-type]  # a part of an answer
    found = aws.diagnose(ClientError(answer, operation))  # type: ignore[arg-type]  # as above

    assert found.trouble is trouble
    with pytest.raises(aws.AwsError, match=text):
        raise found
    assert "\n" not in str(caught.value)
