# SPDX-License-Identifier: Apache-2.0
"""What a server says of an archived object, and of asking for it twice."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

from snapvault.adapters.stores.retrying import Persistence
from snapvault.adapters.stores.s3 import S3Settings
from snapvault.adapters.stores.s3_archive import S3Archive
from snapvault.errors import SnapVaultError, StoreDeniedError, StoreError
from snapvault.ports.archive import Frost, Lying, Tier

VOLUME = "volumes/ab/abcdef.vol"


class _Client:
    """Answers as a server does, and records what it was asked."""

    def __init__(self, head: dict[str, Any] | None = None, refusal: str | None = None) -> None:
        self._head = head or {}
        self._refusal = refusal
        self.asked: list[dict[str, Any]] = []

    def head_object(self, **arguments: Any) -> dict[str, Any]:
        self.asked.append(arguments)
        return self._head

    def restore_object(self, **arguments: Any) -> None:
        self.asked.append(arguments)
        if self._refusal is not None:
            answer: Any = {
                "Error": {"Code": self._refusal, "Message": "No."},
                "ResponseMetadata": {"HTTPStatusCode": 409},
            }
            raise ClientError(answer, "RestoreObject")


def archive_of(client: _Client) -> S3Archive:
    found = S3Archive(S3Settings("acme-dr", prefix="vault1"), Persistence())
    found.__dict__["_client"] = client
    return found


@pytest.mark.parametrize(
    ("head", "lying"),
    [
        ({}, Lying(Frost.READABLE, "STANDARD")),
        ({"StorageClass": "GLACIER_IR"}, Lying(Frost.READABLE, "GLACIER_IR")),
        ({"StorageClass": "GLACIER"}, Lying(Frost.FROZEN, "GLACIER")),
        (
            {"StorageClass": "DEEP_ARCHIVE", "Restore": 'ongoing-request="true"'},
            Lying(Frost.THAWING, "DEEP_ARCHIVE"),
        ),
        (
            {
                "StorageClass": "GLACIER",
                "Restore": 'ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"',
            },
            Lying(Frost.READABLE, "GLACIER"),
        ),
    ],
)
def test_how_an_object_lies_is_read_from_its_head(head: dict[str, Any], lying: Lying) -> None:
    assert archive_of(_Client(head)).look(VOLUME) == lying


def test_a_thaw_names_its_tier_and_its_days() -> None:
    client = _Client()

    archive_of(client).thaw(VOLUME, tier=Tier.BULK, days=3)

    assert client.asked == [
        {
            "Bucket": "acme-dr",
            "Key": f"vault1/{VOLUME}",
            "RestoreRequest": {"Days": 3, "GlacierJobParameters": {"Tier": "Bulk"}},
        }
    ]


def test_asking_again_for_what_is_on_its_way_is_no_error() -> None:
    client = _Client(refusal="RestoreAlreadyInProgress")

    archive_of(client).thaw(VOLUME, tier=Tier.STANDARD, days=7)

    assert len(client.asked) == 1


@pytest.mark.parametrize(
    ("refusal", "error"), [("AccessDenied", StoreDeniedError), ("NotImplemented", StoreError)]
)
def test_a_thaw_that_is_refused_says_why(refusal: str, error: type[SnapVaultError]) -> None:
    archive = archive_of(_Client(refusal=refusal))

    with pytest.raises(error, match=f'could not thaw "{VOLUME}"'):
        archive.thaw(VOLUME, tier=Tier.STANDARD, days=7)
