# SPDX-License-Identifier: Apache-2.0
"""What an S3 server's error codes mean for us."""

import pytest

from snapvault.adapters.stores.retrying import StoreBusyError
from snapvault.adapters.stores.s3_errors import Request, from_code
from snapvault.errors import (
    IntegrityError,
    ObjectArchivedError,
    ObjectMissingError,
    SnapVaultError,
    StoreDeniedError,
    StoreError,
    StoreMissingError,
    StoreUnavailableError,
)

REQUEST = Request("store", "volumes/x", "s3://acme-dr/vault1", "acme-dr")


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("SlowDown", 503, StoreBusyError),
        ("InternalError", 500, StoreBusyError),
        ("ServiceUnavailable", 503, StoreBusyError),
        ("RequestTimeout", 400, StoreBusyError),
        ("ConditionalRequestConflict", 409, StoreBusyError),
        ("TooManyRequests", 429, StoreBusyError),
        ("502", 502, StoreUnavailableError),
        ("AccessDenied", 403, StoreDeniedError),
        ("InvalidAccessKeyId", 403, StoreDeniedError),
        ("SignatureDoesNotMatch", 403, StoreDeniedError),
        ("ExpiredToken", 400, StoreDeniedError),
        ("RequestTimeTooSkewed", 403, StoreDeniedError),
        ("PermanentRedirect", 301, StoreDeniedError),
        ("301", 301, StoreDeniedError),
        ("403", 403, StoreDeniedError),
        ("401", 401, StoreDeniedError),
        ("NoSuchKey", 404, ObjectMissingError),
        ("404", 404, ObjectMissingError),
        ("NoSuchBucket", 404, StoreMissingError),
        ("BadDigest", 400, IntegrityError),
        ("EntityTooLarge", 400, StoreError),
        ("InvalidStorageClass", 400, StoreError),
        ("InvalidObjectState", 403, ObjectArchivedError),
        ("NotImplemented", 501, StoreError),
        ("SomethingNew", 400, StoreError),
    ],
)
def test_every_code_has_its_error(code: str, status: int, kind: type[SnapVaultError]) -> None:
    error = from_code(code, status, "Some message.", REQUEST)

    assert type(error) is kind
    assert "\n" not in str(error)
    assert not str(error).endswith(".")


def test_a_missing_bucket_is_named_with_a_remedy() -> None:
    error = from_code("NoSuchBucket", 404, "", REQUEST)

    assert str(error) == 'bucket "acme-dr" does not exist'
    assert error.hint is not None


def test_an_error_nobody_knows_keeps_the_words_of_the_store() -> None:
    error = from_code("Odd", 400, "Something\n odd happened.", REQUEST)

    assert str(error) == (
        'could not store "volumes/x" in "s3://acme-dr/vault1": something odd happened (Odd)'
    )
