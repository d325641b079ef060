# SPDX-License-Identifier: Apache-2.0
"""A vault in a bucket of Amazon S3 or of any server that speaks its protocol.

Nothing here is tried twice: botocore's retries are off, `retrying` does it.
"""

import base64
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import boto3
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
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from snapvault.adapters.stores import s3_errors
from snapvault.adapters.stores.naming import NAME_PATTERN, require_name
from snapvault.adapters.stores.s3_body import PIECE, Download, FileBody
from snapvault.errors import (
    ConfigError,
    IntegrityError,
    ObjectMissingError,
    SnapVaultError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)
from snapvault.ports.store import Readable, StoredObject, StoreTraits

# LIMIT: one put has at most 5 GiB (Amazon S3).
PUT_LIMIT = 5 << 30
# LIMIT: one request deletes at most 1000 objects (Amazon S3).
_DELETE_BATCH = 1000
_CONNECTIONS = 16
_DEFAULT_REGION = "us-east-1"  # other servers than Amazon's rarely care

_NO_BATCH_DELETE = {"NotImplemented", "MissingContentMD5", "MethodNotAllowed"}

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
    `x-amz-checksum-sha256`: the SHA-256 then travels as the signature's payload hash.
    `create_only=False` is for those that replace objects whatever `If-None-Match` says.
    """

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    storage_class: str | None = None
    request_checksum: ChecksumUse = "when_supported"
    response_checksum: ChecksumUse = "when_required"
    ca_bundle: Path | None = None
    create_only: bool = True
    connect_timeout: float = 5.0
    read_timeout: float = 60.0


class S3Store:
    """Objects under a prefix of one bucket. One client serves all threads."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._bucket = settings.bucket
        self._prefix = f"{settings.prefix.strip('/')}/" if settings.prefix.strip("/") else ""
        self._bucket_seen = False
        # Otherwise botocore signs the hash of whatever it reads, and that proves the way alone.
        self._server_verifies = settings.request_checksum == "when_supported"
        with self._translated("open"):
            self._client = _connect(settings)

    @property
    def location(self) -> str:
        """Where the store is, for messages."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def stat(self, name: str) -> StoredObject:
        """Return the object's name and size."""
        return StoredObject(name, self._head("look up", name)["ContentLength"])

    def get(self, name: str) -> bytes:
        """Return a whole object."""
        with self.open(name) as readable:
            pieces = []
            while piece := readable.read(PIECE):
                pieces.append(piece)
            return b"".join(pieces)

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        """Open an object to be read once, in order.

        After a StoreUnavailableError `read` may be called again, and goes on where it was.
        """
        download = Download(
            name,
            self.location,
            fetch=partial(self._fetch, name),
            translated=partial(self._translated, "read", name),
        )
        try:
            download.connect()
            yield download
        finally:
            download.close()

    def names(self, prefix: str = "") -> Iterator[StoredObject]:
        """List the objects whose names start with `prefix`.

        The list is whole before its first item is given out: not every server sorts as
        Amazon does. It takes some 3 MB for the volumes of a terabyte.
        """
        found: list[StoredObject] = []
        arguments: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        while True:
            with self._translated("list"):
                page = self._client.list_objects_v2(**arguments)
            for item in page.get("Contents", []):
                name = item["Key"].removeprefix(self._prefix)
                if NAME_PATTERN.fullmatch(name):
                    found.append(StoredObject(name, item["Size"]))
            more = page.get("IsTruncated")
            if more is None:
                raise self._request("list").no_store()
            if not more:
                break
            token = page.get("NextContinuationToken")
            if not token or token == arguments.get("ContinuationToken"):
                raise StoreError(f'could not list "{self.location}": the listing does not go on')
            arguments["ContinuationToken"] = token
        self._bucket_seen = True
        return iter(sorted(found, key=lambda item: item.name))

    def put(self, name: str, data: bytes) -> None:
        """Make `data` readable under `name`."""
        self._store(name, data, len(data), hashlib.sha256(data).hexdigest())

    def put_file(self, name: str, path: Path, *, size: int, sha256: str) -> None:
        """Make a file's bytes readable under `name`."""
        try:
            with path.open("rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != size:
                    raise IntegrityError(
                        f'could not store "{name}": "{path}" does not have {size} bytes'
                    )
                if not self._server_verifies and _sha256_of(file) != sha256:
                    raise IntegrityError(
                        f'could not store "{name}": "{path}" is not what its SHA-256 says'
                    )
                self._store(name, FileBody(file), size, sha256)
        except OSError as error:
            raise StoreError(f'could not store "{name}": could not read "{path}"') from error

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects."""
        keys = [self._key(name) for name in names]
        for start in range(0, len(keys), _DELETE_BATCH):
            self._delete_batch(keys[start : start + _DELETE_BATCH])

    def probe(self) -> StoreTraits:
        """Write an object, try to replace it with a create-only put, and delete it."""
        name = f"probe/{secrets.token_hex(8)}"
        first, second = b"first", b"second"
        try:
            with self._translated("store", name):
                self._put_object(name, first, len(first), _sha256(first), create_only=False)
            create_only = self._refuses_to_replace(name, second)
            if self.get(name) != (first if create_only else second):
                create_only = False
        finally:
            self.delete([name])
        return StoreTraits(create_only=create_only)

    def _refuses_to_replace(self, name: str, data: bytes) -> bool:
        try:
            with self._translated("store", name):
                self._put_object(name, data, len(data), _sha256(data), create_only=True)
        except s3_errors.PreconditionError:
            return True
        except StoreError as error:
            if error.retryable or isinstance(error, (StoreDeniedError, ObjectMissingError)):
                raise
        return False

    def _store(self, name: str, body: bytes | FileBody, size: int, sha256: str) -> None:
        if size > PUT_LIMIT:
            raise StoreError(
                f'could not store "{name}": {size} bytes are more than one put can have',
                hint=f'Lower "volume_size" in the policy; the limit is {PUT_LIMIT} bytes.',
            )
        create_only = self._settings.create_only
        if not create_only and self._holds(name, size, sha256):
            return
        try:
            with self._translated("store", name):
                self._put_object(name, body, size, sha256, create_only=create_only)
        except s3_errors.PreconditionError:
            # The name is taken: by an earlier try of ours, whose answer was lost, or by others.
            if not self._holds(name, size, sha256):
                raise StoreUnavailableError(
                    f'could not store "{name}" in "{self.location}": it was there, and went away'
                ) from None

    def _put_object(
        self,
        name: str,
        body: bytes | FileBody,
        size: int,
        sha256: str,
        *,
        create_only: bool,
    ) -> None:
        arguments: dict[str, Any] = {
            "Bucket": self._bucket,
            "Key": self._key(name),
            "Body": body,
            "ContentLength": size,
            "ContentType": "application/octet-stream",
            "Metadata": {"sha256": sha256},
        }
        if self._server_verifies:
            arguments["ChecksumSHA256"] = base64.b64encode(bytes.fromhex(sha256)).decode()
        if self._settings.storage_class is not None:
            arguments["StorageClass"] = self._settings.storage_class
        if create_only:
            arguments["IfNoneMatch"] = "*"
        self._client.put_object(**arguments)
        self._bucket_seen = True

    def _holds(self, name: str, size: int, sha256: str) -> bool:
        """Return whether the very same object is there.

        Raises:
            IntegrityError: another one is.
        """
        try:
            head = self._head("look up", name)
        except ObjectMissingError:
            return False
        same = head["ContentLength"] == size
        if same:
            # Servers change the case of metadata keys, and some drop them.
            metadata = {key.lower(): value for key, value in head.get("Metadata", {}).items()}
            same = (metadata.get("sha256") or self._digest(name)) == sha256
        if not same:
            raise IntegrityError(f'object "{name}" in "{self.location}" already holds other bytes')
        return True

    def _digest(self, name: str) -> str:
        digest = hashlib.sha256()
        with self.open(name) as readable:
            while piece := readable.read(PIECE):
                digest.update(piece)
        return digest.hexdigest()

    def _head(self, verb: str, name: str) -> dict[str, Any]:
        key = self._key(name)
        try:
            with self._translated(verb, name):
                head: dict[str, Any] = self._client.head_object(Bucket=self._bucket, Key=key)
        except ObjectMissingError:
            # The answer to HEAD has no body to tell a missing object from a missing bucket.
            if not self._bucket_seen:
                with self._translated("look up"):
                    self._client.list_objects_v2(
                        Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1
                    )
                self._bucket_seen = True
            raise
        self._bucket_seen = True
        return head

    def _delete_batch(self, keys: list[str]) -> None:
        batch = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        with self._translated("delete from"):
            try:
                answer = self._client.delete_objects(Bucket=self._bucket, Delete=batch)
            except ClientError as error:
                if error.response["Error"].get("Code") not in _NO_BATCH_DELETE:
                    raise
                answer = {}
                for key in keys:
                    self._client.delete_object(Bucket=self._bucket, Key=key)
        for failure in answer.get("Errors", []):
            code = failure.get("Code", "")
            if code != "NoSuchKey":
                request = self._request("delete", failure["Key"].removeprefix(self._prefix))
                raise s3_errors.from_code(code, 0, failure.get("Message", ""), request)

    def _fetch(self, name: str, offset: int, etag: str | None) -> dict[str, Any]:
        """Ask for an object from an offset on; with an ETag, only while it is unchanged."""
        arguments = {"Bucket": self._bucket, "Key": self._key(name)}
        if offset or etag:
            arguments["Range"] = f"bytes={offset}-"
        if etag:
            arguments["IfMatch"] = etag
        with self._translated("read", name):
            answer: dict[str, Any] = self._client.get_object(**arguments)
        self._bucket_seen = True
        return answer

    def _key(self, name: str) -> str:
        return self._prefix + require_name(name)

    def _request(self, verb: str, name: str | None = None) -> s3_errors.Request:
        return s3_errors.Request(verb, name, self.location, self._bucket)

    @contextmanager
    def _translated(self, verb: str, name: str | None = None) -> Iterator[None]:
        """Turn the vendor's exceptions into ours."""
        try:
            yield
        except (BotoCoreError, ClientError, ResponseParserError, HTTPError) as error:
            raise _translate(error, self._request(verb, name)) from error


def _connect(settings: S3Settings) -> Any:
    checksums = settings.request_checksum == "when_supported"
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
            # SAFETY: the checksum header is signed, and the server compares it with the body;
            # to hash the body once more as the payload's signature would prove nothing new.
            "payload_signing_enabled": not checksums,
        },
    )
    try:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=settings.endpoint_url,
            config=config,
            verify=str(settings.ca_bundle) if settings.ca_bundle else None,
        )
    except ValueError as error:
        raise ConfigError(f'endpoint "{settings.endpoint_url}" is not a URL') from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sha256_of(file: FileIO) -> str:
    """Hash a file and go back to its start."""
    digest = hashlib.sha256()
    while piece := file.read(PIECE):
        digest.update(piece)
    file.seek(0)
    return digest.hexdigest()


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
