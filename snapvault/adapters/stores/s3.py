# SPDX-License-Identifier: Apache-2.0
"""botocore: the client of one bucket's server, and its exceptions translated into ours.

botocore's own retries are off: `retrying` is the one place that tries again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.loaders import Loader, create_loader
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from snapvault.adapters.stores import s3_errors
from snapvault.errors import (
    ConfigError,
    IntegrityError,
    SnapVaultError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)
from snapvault.model.locking import LockMode, ObjectLock

_CONNECTIONS = 16
_DEFAULT_REGION = "us-east-1"  # other servers than Amazon's rarely care

_UNANSWERED = (NoConnectionError, HTTPClientError, IncompleteReadError, HTTPError)
_UNKNOWN_TO_STORE = (
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    CredentialRetrievalError,
    TokenRetrievalError,
)

ChecksumUse = Literal["when_supported", "when_required"]


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Where a bucket is and what its server can do; waits in seconds.

    `request_checksum="when_required"` is for servers that do not know the header
    `x-amz-checksum-sha256`: a `Content-MD5` then guards the way, at the cost of hashing.
    `create_only=False` is for those that replace objects whatever `If-None-Match` says. What is
    put is locked as `lock` says, but for probes.
    """

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    storage_class: str | None = None
    volume_storage_class: str | None = None
    request_checksum: ChecksumUse = "when_supported"
    response_checksum: ChecksumUse = "when_required"
    ca_bundle: Path | None = None
    create_only: bool = True
    lock: ObjectLock | None = None
    connect_timeout: float = 5.0
    read_timeout: float = 60.0


def lock_arguments(mode: LockMode, until: datetime) -> dict[str, Any]:
    """Return what makes a put lock its object."""
    return {"ObjectLockMode": mode.value.upper(), "ObjectLockRetainUntilDate": until}


@contextmanager
def translated(request: s3_errors.Request) -> Iterator[None]:
    """Turn the vendor's exceptions into ours.

    Raises:
        PreconditionError: If-Match or If-None-Match did not hold.
        RangeError: the range lies beyond the object's end.
    """
    try:
        yield
    except (BotoCoreError, ClientError, ResponseParserError, HTTPError) as error:
        raise _translate(error, request) from error


def connect(settings: S3Settings) -> Any:
    """Return a client for all threads.

    Raises:
        ConfigError: the endpoint is no URL.
    """
    config = Config(
        region_name=settings.region or (_DEFAULT_REGION if settings.endpoint_url else None),
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
        user_agent_extra="snapvault",
        request_checksum_calculation="when_required",  # puts bring their own SHA-256
        response_checksum_validation=settings.response_checksum,
        s3={
            "addressing_style": "path" if settings.endpoint_url else "auto",
            # SAFETY: every put carries a digest in a signed header, which the server compares
            # with the body; to hash the body once more for the signature proves nothing new.
            "payload_signing_enabled": False,
        },
    )
    try:
        # Without boto3, which adds nothing to a client that we use, and takes long to load.
        return _session(settings.profile).create_client(
            "s3",
            endpoint_url=settings.endpoint_url,
            config=config,
            verify=str(settings.ca_bundle) if settings.ca_bundle else None,
        )
    except ValueError as error:
        raise ConfigError(f'endpoint "{settings.endpoint_url}" is not a URL') from error


def _session(profile: str | None) -> botocore.session.Session:
    """Return a new session: credentials are looked for anew, service models parsed once."""
    session = botocore.session.Session(profile=profile)
    session.register_component("data_loader", _models(session.get_config_variable("data_path")))
    return session


class _AnyService(list[str]):
    """A list of services that has every one: what there is shows when its model is loaded."""

    def __contains__(self, service: object) -> bool:
        return True


class _Models(Loader):
    """A loader of service models that does not look for all services to find one."""

    def list_available_services(self, type_name: str) -> list[str]:
        """Return a list that says yes; else four hundred folders are looked into at each start."""
        del type_name
        return _AnyService()


@cache
def _models(search_path: str | None) -> Loader:
    """Return the loader of service models; parsing them costs 0.1 s of CPU."""
    folders = create_loader(search_path).search_paths
    return _Models(folders, include_default_search_paths=False)


def _translate(  # noqa: PLR0911 - one return a remedy
    error: Exception, request: s3_errors.Request
) -> SnapVaultError:
    if isinstance(error, ClientError):
        return _translate_answer(error, request)
    if isinstance(error, SSLError):
        return _translate_tls(error, request)
    if isinstance(error, _UNANSWERED):
        return StoreUnavailableError(
            request.summary(f"the store does not answer: {_text(error)}"),
            hint="Check the network, and the vault's endpoint_url.",
        )
    if isinstance(error, _UNKNOWN_TO_STORE):
        return StoreDeniedError(
            request.summary(f"no credentials: {_text(error)}"), hint=s3_errors.CREDENTIALS_HINT
        )
    if isinstance(error, FlexibleChecksumError):
        return IntegrityError(request.summary("the store's own checksum does not match"))
    if isinstance(error, ResponseParserError):
        return request.no_store()
    return StoreError(request.summary(_text(error)))


def _translate_answer(error: ClientError, request: s3_errors.Request) -> SnapVaultError:
    details = error.response.get("Error", {})
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(details.get("Code", status))
    if status == 412 or code in ("PreconditionFailed", "412"):
        return s3_errors.PreconditionError(request.summary("its precondition failed"))
    if status == 416 or code == "InvalidRange":
        return s3_errors.RangeError(request.summary("it has no such part"))
    return s3_errors.from_code(code, status, details.get("Message", ""), request)


def _translate_tls(error: SSLError, request: s3_errors.Request) -> SnapVaultError:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text or "match" in text:
        return StoreDeniedError(
            request.summary("its TLS certificate cannot be verified"),
            hint='Name the authority that signed it as "ca_bundle" of the vault.',
        )
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
        return StoreDeniedError(
            request.summary("it does not speak TLS"),
            hint="Use http:// in the vault's endpoint_url, or put TLS in front of the server.",
        )
    return StoreUnavailableError(request.summary(f"TLS failed: {_text(error)}"))


def _text(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text[:1].lower() + text[1:]
