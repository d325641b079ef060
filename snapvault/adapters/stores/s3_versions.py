# SPDX-License-Identifier: Apache-2.0
"""The versions of objects in a bucket, and their locks: snapvault/ports/versions.py.

Source: "Using S3 Versioning" and "S3 Object Lock" in the Amazon S3 user guide.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from typing import Any, Final

from snapvault import clock
from snapvault.adapters.stores import s3_errors
from snapvault.adapters.stores.naming import NAME_PATTERN, require_name
from snapvault.adapters.stores.s3 import S3Settings, connect, lock_arguments, translated
from snapvault.adapters.stores.s3_body import Download
from snapvault.errors import ObjectMissingError, StoreDeniedError, StoreError
from snapvault.formats import names
from snapvault.model.locking import LockMode, ObjectLock
from snapvault.ports.store import Readable
from snapvault.ports.versions import LockProof, Version

# LIMIT: one request deletes at most 1000 versions (Amazon S3).
_DELETE_BATCH: Final = 1000
_PROBE: Final = "probe/lock-"
_PROBE_LOCK: Final = timedelta(seconds=60)
_GONE: Final = "it let a locked version be deleted"


class S3Versions:
    """The versions below a prefix of one bucket. It connects when it is first asked."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._bucket = settings.bucket
        self._prefix = f"{settings.prefix.strip('/')}/" if settings.prefix.strip("/") else ""

    @property
    def location(self) -> str:
        """Where the store is, for messages."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    @cached_property
    def _client(self) -> Any:
        with self._translated("open"):
            return connect(self._settings)

    def versions(self, prefix: str = "") -> Iterator[Version]:
        """List all versions; the list is whole before its first item is given out."""
        found: list[Version] = []
        arguments: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        while True:
            with self._translated("list versions in"):
                page = self._client.list_object_versions(**arguments)
            found += self._of_page(page)
            if not page.get("IsTruncated"):
                break
            following = (page.get("NextKeyMarker"), page.get("NextVersionIdMarker"))
            before = (arguments.get("KeyMarker"), arguments.get("VersionIdMarker"))
            if not following[0] or following == before:
                raise StoreError(f'could not list "{self.location}": the listing does not go on')
            arguments["KeyMarker"] = following[0]
            if following[1]:
                arguments["VersionIdMarker"] = following[1]
        # Stable: of one name, versions with bytes stay as the store sorts them, oldest last.
        return iter(sorted(found, key=lambda each: (each.name, not each.is_latest)))

    def open_version(self, version: Version) -> AbstractContextManager[Readable]:
        """Open a version to be read once, in order."""
        return self._opened(version)

    @contextmanager
    def _opened(self, version: Version) -> Iterator[Readable]:
        download = Download(
            version.name,
            self.location,
            fetch=partial(self._fetch, version),
            translated=partial(self._translated, "read", version.name),
        )
        try:
            download.connect()
            yield download
        finally:
            download.close()

    def locked_until(self, version: Version) -> datetime | None:
        """Return when the lock of a version ends; a legal hold never does."""
        with self._translated("look up the lock of", version.name):
            head = self._client.head_object(**self._address(version))
        until = head.get("ObjectLockRetainUntilDate")
        if head.get("ObjectLockLegalHoldStatus") == "ON":
            return datetime.max.replace(tzinfo=clock.now().tzinfo)
        return until if isinstance(until, datetime) else None

    def lock(self, version: Version, until: datetime) -> None:
        """Lock a version until then."""
        retention = {"Mode": self._lock.mode.value.upper(), "RetainUntilDate": until}
        with self._locking(version.name), self._translated("lock", version.name):
            self._client.put_object_retention(**self._address(version), Retention=retention)

    def remove(self, versions: Sequence[Version]) -> tuple[Version, ...]:
        """Remove versions for good; those that are locked, or may not be removed, are returned."""
        refused: list[Version] = []
        for start in range(0, len(versions), _DELETE_BATCH):
            refused += self._remove_batch(versions[start : start + _DELETE_BATCH])
        return tuple(refused)

    def bring_back(self, version: Version) -> None:
        """Copy a version over what hides it, within the store."""
        arguments: dict[str, Any] = {
            "Bucket": self._bucket,
            "Key": self._key(version.name),
            "CopySource": self._address(version),
        }
        storage_class = self._settings.storage_class
        if version.name.startswith(names.VOLUMES):
            storage_class = self._settings.volume_storage_class or storage_class
        if storage_class is not None:
            arguments["StorageClass"] = storage_class
        with self._translated("bring back", version.name):
            answer = self._client.copy_object(**arguments)
        if self._settings.lock is not None and answer.get("VersionId"):
            # Not with the copy: a put with a lock has to have a digest, and a copy has none.
            copy = replace(version, id=answer["VersionId"], is_latest=True)
            self.lock(copy, self._lock.until(clock.now()))

    def prove_lock(self) -> LockProof:
        """Lock a small object for a minute, and try to delete it and to shorten its lock."""
        self._sweep_probes()
        name = _PROBE + secrets.token_hex(8)
        left: list[tuple[str, datetime]] = []
        free, now = self._put_probe(f"{name}-free", {})
        may_delete = self._may(lambda: self._delete(free))
        if not may_delete:
            left.append((free.name, now))
        until = now + _PROBE_LOCK
        mode = self._lock.mode
        with self._locking(name):
            probe, _ = self._put_probe(name, lock_arguments(mode, until))
        trouble = self._broken(probe, until)
        if trouble == _GONE:
            return LockProof(False, _GONE, may_delete, True, tuple(left))
        may_bypass = self._may(lambda: self._delete(probe, BypassGovernanceRetention=True))
        if may_bypass and mode is LockMode.COMPLIANCE and not trouble:
            trouble = "it let a lock in compliance mode be ended"
        if not may_bypass:
            left.append((name, until))
        return LockProof(not trouble, trouble, may_delete, may_bypass, tuple(left))

    def _broken(self, probe: Version, until: datetime) -> str:
        """Try to break the lock of a probe, and return what that showed; nothing if it holds."""
        found = self.locked_until(probe)
        if found is None:
            return "it accepts locks and ignores them"
        if self._may(lambda: self._delete(probe)):
            return _GONE
        earlier = {
            "Mode": self._lock.mode.value.upper(),
            "RetainUntilDate": until - _PROBE_LOCK / 2,
        }
        self._may(
            lambda: self._client.put_object_retention(**self._address(probe), Retention=earlier)
        )
        kept = self.locked_until(probe)
        if kept is None or kept < found:
            return "it let a lock be shortened"
        return ""

    def _put_probe(self, name: str, lock: dict[str, Any]) -> tuple[Version, datetime]:
        """Put a small object, and return it and the time by the store's clock."""
        with self._translated("store", name):
            answer = self._client.put_object(
                Bucket=self._bucket,
                Key=self._key(name),
                Body=b"probe",
                ChecksumAlgorithm="SHA256",
                **lock,
            )
        now = clock.now()
        try:
            headers = answer["ResponseMetadata"]["HTTPHeaders"]
            now = parsedate_to_datetime(headers["date"])
        except (KeyError, TypeError, ValueError):
            pass  # its clock is as good as ours, then
        return Version(name, answer.get("VersionId", ""), 5, now, is_latest=True), now

    def _sweep_probes(self) -> None:
        """Remove the probes of earlier proofs, as far as that can be done by now."""
        try:
            self.remove(list(self.versions(_PROBE)))
        except StoreError as error:
            if error.retryable:
                raise

    def _delete(self, version: Version, **more: Any) -> None:
        with self._translated("delete", version.name):
            self._client.delete_object(**self._address(version), **more)

    def _may(self, call: Callable[[], object]) -> bool:
        """Tell whether the store lets something be done."""
        try:
            with self._translated("probe"):
                call()
        except StoreError as error:
            if error.retryable:
                raise
            return False
        return True

    def _remove_batch(self, versions: Sequence[Version]) -> list[Version]:
        wanted = [self._address(each) for each in versions]
        batch = [{key: each[key] for key in each if key != "Bucket"} for each in wanted]
        try:
            with self._translated("delete from"):
                answer = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": batch, "Quiet": True}
                )
        except StoreDeniedError:
            return list(versions)
        except StoreError as error:
            if error.retryable or isinstance(error, ObjectMissingError):
                raise
            # Not every server knows this request, or the checksum it comes with.
            return [each for each in versions if not self._may(partial(self._delete, each))]
        refused = []
        by_key = {(self._key(each.name), each.id): each for each in versions}
        for failure in answer.get("Errors", []):
            place = (failure.get("Key", ""), failure.get("VersionId") or "")
            code = failure.get("Code", "")
            if code in ("NoSuchKey", "NoSuchVersion"):
                continue
            request = self._request("delete", place[0].removeprefix(self._prefix))
            told = s3_errors.from_code(code, 0, failure.get("Message", ""), request)
            if not isinstance(told, StoreDeniedError):
                raise told
            # QUIRK: moto 5.2 leaves out the version that it refused to delete.
            refused += (
                [by_key[place]]
                if place in by_key
                else [each for each in versions if self._key(each.name) == place[0]]
            )
        return refused

    def _of_page(self, page: dict[str, Any]) -> Iterator[Version]:
        for key, is_marker in (("Versions", False), ("DeleteMarkers", True)):
            for item in page.get(key, []):
                name = item["Key"].removeprefix(self._prefix)
                if NAME_PATTERN.fullmatch(name):
                    yield Version(
                        name,
                        item.get("VersionId") or "",
                        item.get("Size", 0),
                        item["LastModified"],
                        bool(item.get("IsLatest")),
                        is_marker,
                        "" if is_marker else item.get("ETag", ""),
                    )

    def _fetch(self, version: Version, offset: int, etag: str | None) -> dict[str, Any]:
        arguments = self._address(version)
        if offset:
            arguments["Range"] = f"bytes={offset}-"
        if etag:
            arguments["IfMatch"] = etag
        with self._translated("read", version.name):
            answer: dict[str, Any] = self._client.get_object(**arguments)
        return answer

    @property
    def _lock(self) -> ObjectLock:
        """How what is put is locked; for who asks although nothing is to be, for a day."""
        return self._settings.lock or ObjectLock(LockMode.GOVERNANCE, timedelta(days=1))

    @contextmanager
    def _locking(self, name: str) -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            if not s3_errors.is_unlockable(error):
                raise
            raise s3_errors.unlockable(error, self._request("lock", name)) from error

    def _address(self, version: Version) -> dict[str, Any]:
        address = {"Bucket": self._bucket, "Key": self._key(version.name)}
        return address | ({"VersionId": version.id} if version.id else {})

    def _key(self, name: str) -> str:
        return self._prefix + require_name(name)

    def _request(self, verb: str, name: str | None = None) -> s3_errors.Request:
        return s3_errors.Request(verb, name, self.location, self._bucket)

    def _translated(self, verb: str, name: str | None = None) -> AbstractContextManager[None]:
        return translated(self._request(verb, name))
