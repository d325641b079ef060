# SPDX-License-Identifier: Apache-2.0
"""From a store's URL to a store that tries again."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from snapvault import clock
from snapvault.adapters.stores.directory import DirectoryStore
from snapvault.adapters.stores.retrying import Patience, Persistence, RetryingStore
from snapvault.adapters.stores.retrying_versions import RetryingVersions
from snapvault.errors import ConfigError
from snapvault.model.locking import ObjectLock
from snapvault.ports.archive import Archive
from snapvault.ports.store import Store
from snapvault.ports.throttle import Throttle
from snapvault.ports.versions import StoreVersions

if TYPE_CHECKING:
    from snapvault.adapters.stores.s3 import S3Settings

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()/-]*")


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What the settings say about a store beyond its URL; all of it is for S3 alone.

    `region` and credentials that are not given come from boto3's own chain; those of `profile`
    go before all others. `ca_bundle` is a file of certificate authorities in PEM. `create_only` is
    what a probe found out, `lock` how what is put is locked. The two checksum settings are
    botocore's: puts carry a SHA-256 that the server verifies unless told otherwise; what is read
    is verified above, against the signed manifest.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    storage_class: str | None = None
    volume_storage_class: str | None = None
    request_checksum_calculation: Literal["when_supported", "when_required"] = "when_supported"
    response_checksum_validation: Literal["when_supported", "when_required"] = "when_required"
    ca_bundle: Path | None = None
    create_only: bool = True
    lock: ObjectLock | None = None


def open_store(
    url: str,
    options: StoreOptions | None = None,
    *,
    patience: Patience | None = None,
    throttle: Throttle | None = None,
    sleep: Callable[[float], None] = clock.sleep,
) -> Store:
    """Return the store at `file:///path` or `s3://bucket/prefix`. Nothing is asked of it yet.

    What is sent to it passes `throttle`; between two tries of a call it waits with `sleep`.

    Raises:
        ConfigError: the URL or the endpoint is wrong.
        StoreDeniedError: the AWS profile to use does not exist.
    """
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise ConfigError(f'store "{url}" has more than a path')
    if parts.scheme == "file":
        return RetryingStore(_open_directory(url, throttle), patience=patience, sleep=sleep)
    if parts.scheme == "s3":
        bucket = _open_bucket(url, options or StoreOptions(), throttle)
        return RetryingStore(bucket, patience=patience, sleep=sleep)
    raise ConfigError(
        f'store "{url}" is of no kind that we know',
        hint="Write file:///folder or s3://bucket/prefix.",
    )


def open_versions(
    url: str,
    options: StoreOptions,
    *,
    sleep: Callable[[float], None] = clock.sleep,
    count: Callable[[str, int], None] = lambda _kind, _amount: None,
) -> StoreVersions | None:
    """Return what shows the versions of a store's objects; None: this kind keeps none.

    Nothing is asked of it yet.

    Raises: as `open_store`.
    """
    if urlsplit(url).scheme != "s3":
        return None
    settings = _bucket_settings(url, options)
    from snapvault.adapters.stores.s3_versions import S3Versions  # noqa: PLC0415

    return RetryingVersions(S3Versions(settings), Persistence(sleep=sleep), count)


def open_archive(
    url: str,
    options: StoreOptions,
    *,
    sleep: Callable[[float], None] = clock.sleep,
    count: Callable[[str, int], None] = lambda _kind, _amount: None,
) -> Archive | None:
    """Return what thaws a store's objects; None: this kind has no archive.

    Nothing is asked of it yet.

    Raises: as `open_store`.
    """
    if urlsplit(url).scheme != "s3":
        return None
    settings = _bucket_settings(url, options)
    from snapvault.adapters.stores.s3_archive import S3Archive  # noqa: PLC0415

    return S3Archive(settings, Persistence(sleep=sleep), count)


def _open_directory(url: str, throttle: Throttle | None) -> Store:
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not path.is_absolute() or "\0" in str(path):
        raise ConfigError(
            f'store "{url}" does not name an absolute path',
            hint="Write three slashes: file:///folder.",
        )
    return DirectoryStore(path, throttle)


def _open_bucket(url: str, options: StoreOptions, throttle: Throttle | None) -> Store:
    settings = _bucket_settings(url, options)
    # A vault in a folder never pays for loading boto3.
    from snapvault.adapters.stores.s3_store import S3Store  # noqa: PLC0415

    return S3Store(settings, throttle)


def _bucket_settings(url: str, options: StoreOptions) -> "S3Settings":
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if not _BUCKET.fullmatch(parts.netloc):
        raise ConfigError(f'store "{url}" does not name a bucket', hint="Write s3://bucket/prefix.")
    if not _PREFIX.fullmatch(prefix) or "//" in prefix or len(prefix) > 100:
        raise ConfigError(
            f'store "{url}" has a prefix that is not safe as an object name',
            hint="Use letters, digits, dots, dashes and slashes, at most 100 of them.",
        )
    if options.ca_bundle is not None and not options.ca_bundle.is_file():
        raise ConfigError(f'ca_bundle "{options.ca_bundle}" does not exist')
    from snapvault.adapters.stores.s3 import S3Settings  # noqa: PLC0415

    return S3Settings(
        bucket=parts.netloc,
        prefix=prefix,
        endpoint_url=options.endpoint_url,
        region=options.region,
        profile=options.profile,
        storage_class=options.storage_class,
        volume_storage_class=options.volume_storage_class,
        request_checksum=options.request_checksum_calculation,
        response_checksum=options.response_checksum_validation,
        ca_bundle=options.ca_bundle,
        create_only=options.create_only,
        lock=options.lock,
    )
