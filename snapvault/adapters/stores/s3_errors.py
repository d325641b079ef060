# SPDX-License-Identifier: Apache-2.0
"""What an S3 server's error codes mean for us: the error, and what to try.

Source: "Error responses" in the Amazon S3 API reference, and what other servers send.
"""

from dataclasses import dataclass

from snapvault.adapters.stores.retrying import StoreBusyError
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

CREDENTIALS_HINT = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile in ~/.aws, or an instance role."
)

_RIGHTS_HINT = (
    "Allow s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject and s3:DeleteObject "
    "on its objects, to these credentials."
)
_REGION_HINT = 'Set "region" of the vault to the region of the bucket.'

_DENIED: dict[str, tuple[str, str]] = {
    "AccessDenied": ("access denied", _RIGHTS_HINT),
    "AllAccessDisabled": ("access denied", _RIGHTS_HINT),
    "AccountProblem": ("there is a problem with the account", "Ask who runs the store."),
    "SignatureDoesNotMatch": ("the secret key is wrong", "Check AWS_SECRET_ACCESS_KEY."),
    "InvalidAccessKeyId": ("the access key is unknown", "Check AWS_ACCESS_KEY_ID."),
    "ExpiredToken": ("the credentials have expired", "Get new temporary credentials."),
    "ExpiredTokenException": ("the credentials have expired", "Get new temporary credentials."),
    "InvalidToken": ("the session token is invalid", "Check AWS_SESSION_TOKEN."),
    "TokenRefreshRequired": ("the session token is invalid", "Check AWS_SESSION_TOKEN."),
    "RequestTimeTooSkewed": ("the clocks differ too much", "Set the clock of this machine."),
    "AuthorizationHeaderMalformed": ("the region is wrong", _REGION_HINT),
    "PermanentRedirect": ("the bucket is in another region", _REGION_HINT),
    "TemporaryRedirect": ("the bucket is in another region", _REGION_HINT),
    "IllegalLocationConstraintException": ("the bucket is in another region", _REGION_HINT),
}

_BUSY = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "TooManyRequests",
    "BandwidthLimitExceeded",
    "ServiceUnavailable",
    "InternalError",
    "RequestTimeout",
    "RequestTimeoutException",
    "ConditionalRequestConflict",
    "OperationAborted",
}

_DAMAGED = {
    "BadDigest",
    "InvalidDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
}

_REFUSED: dict[str, tuple[str, str]] = {
    "EntityTooLarge": ("the object is too large for it", 'Lower "volume_size" in the policy.'),
    "InvalidStorageClass": (
        "it does not have this storage class",
        'Change "storage_class" of the vault.',
    ),
    "NotImplemented": (
        "it cannot do what was asked",
        "If this was a put, the store may not know create-only puts; probe it again.",
    ),
}


_UNLOCKABLE = ("InvalidRequest", "ObjectLockConfigurationNotFoundError", "NotImplemented")


class RangeError(StoreError):
    """An object ends before the part that was asked for; never leaves the S3 store."""


class PreconditionError(StoreError):
    """A name was taken, or an object is not the one it was; never leaves the S3 store."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was tried: "could not `verb`", and on which object; no name means the bucket."""

    verb: str
    name: str | None
    location: str
    bucket: str

    def summary(self, reason: str) -> str:
        """Say that it failed, and why."""
        what = f'"{self.name}" in "{self.location}"' if self.name else f'"{self.location}"'
        return f"could not {self.verb} {what}: {reason}"

    def no_store(self) -> StoreError:
        """Return the error for an answer that is not of an S3 server."""
        return StoreError(
            self.summary("what answers there does not speak S3"),
            hint="Check the vault's endpoint_url.",
        )


def missing(request: Request) -> ObjectMissingError:
    """Return the error for an object that is not there."""
    return ObjectMissingError(f'object "{request.name}" is not in "{request.location}"')


def bucket_missing(request: Request) -> StoreMissingError:
    """Return the error for a bucket that is not there."""
    return StoreMissingError(
        f'bucket "{request.bucket}" does not exist',
        hint="Create the bucket, or check the store's URL, its endpoint_url and its region.",
    )


def is_unlockable(error: StoreError) -> bool:
    """Tell whether a put or a lock may have failed because its bucket has no Object Lock."""
    return type(error) is StoreError and any(f"({code})" in str(error) for code in _UNLOCKABLE)


def unlockable(error: StoreError, request: Request) -> StoreError:
    """Return the error for a bucket that has no Object Lock, as far as its answer tells."""
    return StoreError(
        request.summary(f"the bucket has no Object Lock: {str(error).rpartition(': ')[2]}"),
        hint='Make a bucket with Object Lock for the vault, or leave out "object_lock".',
    )


def from_code(code: str, status: int, message: str, request: Request) -> SnapVaultError:
    """Return our error for an error code, or failing that for an HTTP status."""
    if code == "NoSuchBucket":
        return bucket_missing(request)
    if code == "InvalidObjectState":
        return ObjectArchivedError(
            request.summary("it is archived, and must be thawed first"),
            hint='"snapvault restore" asks for what it needs and waits; docs/cost.md says how.',
        )
    if code in _BUSY or status == 429:
        return StoreBusyError(request.summary(f"the store asked us to come back later ({code})"))
    if code in _DAMAGED:
        return IntegrityError(
            request.summary(f"the bytes that arrived are not what their SHA-256 says ({code})")
        )
    for table, kind in ((_DENIED, StoreDeniedError), (_REFUSED, StoreError)):
        if code in table:
            reason, hint = table[code]
            return kind(request.summary(f"{reason} ({code})"), hint=hint)
    return _from_status(code, status, message, request)


def _from_status(code: str, status: int, message: str, request: Request) -> SnapVaultError:
    if status == 404 and request.name is not None:
        return missing(request)
    reason = f"{_one_line(message)} ({code})" if message else code
    if status in (401, 403):
        return StoreDeniedError(
            request.summary(f"access denied ({code})"),
            hint="Check the access key, the secret key and what they are allowed to do.",
        )
    if status in (301, 307):
        return StoreDeniedError(
            request.summary("the bucket is in another region"), hint=_REGION_HINT
        )
    if status == 501:
        return StoreError(request.summary(reason))
    if status >= 500:
        return StoreUnavailableError(request.summary(reason))
    return StoreError(request.summary(reason))


def _one_line(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text[:1].lower() + text[1:]
