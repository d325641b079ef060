# SPDX-License-Identifier: Apache-2.0
"""A vault in a bucket of Amazon S3 or of any server that speaks its protocol."""

import base64
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

from snapvault import clock
from snapvault.adapters.stores import s3_errors
from snapvault.adapters.stores.naming import NAME_PATTERN, cut_short, require_name
from snapvault.adapters.stores.s3 import S3Settings, connect, lock_arguments, translated
from snapvault.adapters.stores.s3_body import PIECE, Download, FileBody, read_part
from snapvault.adapters.throttle import take_all, unlimited
from snapvault.errors import (
    IntegrityError,
    ObjectMissingError,
    StoreDeniedError,
    StoreError,
    StoreMissingError,
    StoreUnavailableError,
)
from snapvault.formats.names import VOLUMES
from snapvault.ports.store import Readable, StoredObject, StoreTraits
from snapvault.ports.throttle import Throttle

# LIMIT: one put has at most 5 GiB (Amazon S3).
PUT_LIMIT = 5 << 30
# LIMIT: one request deletes at most 1000 objects (Amazon S3).
_DELETE_BATCH = 1000


@dataclass(frozen=True, slots=True)
class _Upload:
    """A body with its digests; the MD5 is for servers that know no other."""

    body: bytes | FileBody
    size: int
    sha256: str
    md5: bytes | None = None


class S3Store:
    """Objects under a prefix of one bucket. One client serves all threads.

    What is sent passes `throttle`, and so does what is sent again.
    """

    def __init__(self, settings: S3Settings, throttle: Throttle | None = None) -> None:
        self._settings = settings
        self._throttle = throttle or unlimited()
        self._bucket = settings.bucket
        self._prefix = f"{settings.prefix.strip('/')}/" if settings.prefix.strip("/") else ""
        self._bucket_seen = False
        self._knows_sha256 = settings.request_checksum == "when_supported"
        with self._translated("open"):
            self._client = connect(settings)

    @property
    def location(self) -> str:
        """Where the store is, for messages."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def stat(self, name: str) -> StoredObject:
        """Return the object's name and size."""
        head = self._head("look up", name)
        return StoredObject(name, head["ContentLength"], _stored_at(head))

    def get(self, name: str) -> bytes:
        """Return a whole object."""
        with self.open(name) as readable:
            pieces = []
            while piece := readable.read(PIECE):
                pieces.append(piece)
            return b"".join(pieces)

    def get_part(self, name: str, offset: int, size: int) -> bytes:
        """Return some bytes of an object."""
        part = f"bytes={offset}-{offset + size - 1}"
        try:
            with self._translated("read", name):
                answer = self._client.get_object(
                    Bucket=self._bucket, Key=self._key(name), Range=part
                )
        except s3_errors.RangeError:
            raise cut_short(name, self.location) from None
        return read_part(
            answer, offset, size, request=self._request("read", name), translated=translated
        )

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
                    found.append(
                        StoredObject(name, item["Size"], _stored_at(item), item.get("StorageClass"))
                    )
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
        self._store(name, self._upload(data))

    def put_file(self, name: str, path: Path, *, size: int, sha256: str) -> None:
        """Make a file's bytes readable under `name`."""
        try:
            with path.open("rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != size:
                    raise IntegrityError(
                        f'could not store "{name}": "{path}" does not have {size} bytes'
                    )
                upload = _Upload(FileBody(file, size, self._throttle), size, sha256)
                if not self._knows_sha256:
                    md5 = _md5_of(file, sha256)
                    if md5 is None:
                        raise IntegrityError(
                            f'could not store "{name}": "{path}" is not what its SHA-256 says'
                        )
                    upload = replace(upload, md5=md5)
                self._store(name, upload)
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
        versions: list[str | None] = []
        try:
            with self._translated("store", name):
                versions.append(self._put_object(name, self._upload(first), create_only=False))
            create_only = self._refuses_to_replace(name, second, versions)
            if self.get(name) != (first if create_only else second):
                create_only = False
        finally:
            self._remove_probe(name, versions)
        return StoreTraits(create_only=create_only)

    def _remove_probe(self, name: str, versions: Sequence[str | None]) -> None:
        """Delete a probe for good; credentials that may not delete leave it (docs/immutability.md).

        Where versions are kept, deleting its name alone would hide it and keep both.
        """
        with suppress(StoreDeniedError):
            kept = [version for version in versions if version and version != "null"]
            for version in kept:
                with self._translated("delete", name):
                    self._client.delete_object(
                        Bucket=self._bucket, Key=self._key(name), VersionId=version
                    )
            if not kept:
                self.delete([name])

    def _refuses_to_replace(self, name: str, data: bytes, versions: list[str | None]) -> bool:
        try:
            with self._translated("store", name):
                versions.append(self._put_object(name, self._upload(data), create_only=True))
        except s3_errors.PreconditionError:
            return True
        except StoreError as error:
            if error.retryable or isinstance(error, (StoreDeniedError, StoreMissingError)):
                raise
        return False

    def _upload(self, data: bytes) -> _Upload:
        md5 = None if self._knows_sha256 else hashlib.md5(data, usedforsecurity=False).digest()
        size = len(data)
        body = data if size <= PIECE else FileBody(BytesIO(data), size, self._throttle)
        return _Upload(body, size, hashlib.sha256(data).hexdigest(), md5)

    def _store(self, name: str, upload: _Upload) -> None:
        if upload.size > PUT_LIMIT:
            raise StoreError(
                f'could not store "{name}": {upload.size} bytes are more than one put can have',
                hint=f'Lower "volume_size" in the policy; the limit is {PUT_LIMIT} bytes.',
            )
        create_only = self._settings.create_only
        if not create_only and self._holds(name, upload):
            return
        try:
            with self._translated("store", name):
                self._put_object(name, upload, create_only=create_only, is_locked=True)
        except s3_errors.PreconditionError:
            # The name is taken: by an earlier try of ours, whose answer was lost, or by others.
            if not self._holds(name, upload):
                raise StoreUnavailableError(
                    f'could not store "{name}" in "{self.location}": it was there, and went away'
                ) from None
        except StoreError as error:
            if self._settings.lock is None or not s3_errors.is_unlockable(error):
                raise
            raise s3_errors.unlockable(error, self._request("store", name)) from error

    def _put_object(
        self, name: str, upload: _Upload, *, create_only: bool, is_locked: bool = False
    ) -> str | None:
        """Put an object, and return the id of its version if the bucket keeps any."""
        if isinstance(upload.body, bytes):
            take_all(self._throttle, len(upload.body))
        arguments: dict[str, Any] = {
            "Bucket": self._bucket,
            "Key": self._key(name),
            "Body": upload.body,
            "ContentLength": upload.size,
            "ContentType": "application/octet-stream",
            "Metadata": {"sha256": upload.sha256},
        }
        if self._knows_sha256:
            arguments["ChecksumSHA256"] = _base64(bytes.fromhex(upload.sha256))
        elif upload.md5 is not None:
            arguments["ContentMD5"] = _base64(upload.md5)
        storage_class = self._settings.storage_class
        if name.startswith(VOLUMES):
            storage_class = self._settings.volume_storage_class or storage_class
        if storage_class is not None:
            arguments["StorageClass"] = storage_class
        if create_only:
            arguments["IfNoneMatch"] = "*"
        lock = self._settings.lock if is_locked else None
        if lock is not None:
            arguments |= lock_arguments(lock.mode, lock.until(clock.now()))
            if self._knows_sha256:
                # LIMIT: a put with a lock names its digest's algorithm, or has an MD5 (Amazon S3).
                arguments["ChecksumAlgorithm"] = "SHA256"
        answer = self._client.put_object(**arguments)
        self._bucket_seen = True
        version: str | None = answer.get("VersionId")
        return version

    def _holds(self, name: str, upload: _Upload) -> bool:
        """Return whether the very same object is there.

        Raises:
            IntegrityError: another one is.
        """
        try:
            head = self._head("look up", name)
        except ObjectMissingError:
            return False
        same = head["ContentLength"] == upload.size
        if same:
            # Servers change the case of metadata keys, and some drop them.
            metadata = {key.lower(): value for key, value in head.get("Metadata", {}).items()}
            same = (metadata.get("sha256") or self._digest(name)) == upload.sha256
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
        try:
            with self._translated("delete from"):
                answer = self._client.delete_objects(Bucket=self._bucket, Delete=batch)
        except StoreError as error:
            if type(error) is not StoreError:  # unavailable, denied or missing
                raise
            # Not every server knows this request, or the checksum it comes with.
            answer = {}
            with self._translated("delete from"):
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

    def _translated(self, verb: str, name: str | None = None) -> AbstractContextManager[None]:
        return translated(self._request(verb, name))


def _stored_at(answer: Mapping[str, Any]) -> datetime | None:
    moment = answer.get("LastModified")
    return moment if isinstance(moment, datetime) and moment.tzinfo is not None else None


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _md5_of(file: FileIO, sha256: str) -> bytes | None:
    """Return a file's MD5, or None if its SHA-256 is another; go back to its start."""
    expected, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    while piece := file.read(PIECE):
        expected.update(piece)
        md5.update(piece)
    file.seek(0)
    return md5.digest() if expected.hexdigest() == sha256 else None
