# SPDX-License-Identifier: Apache-2.0
"""From a URL to a store."""

from pathlib import Path

import pytest

from snapvault.adapters.stores.opening import StoreOptions, open_store
from snapvault.errors import ConfigError


def test_a_file_url_is_a_folder_and_may_have_escapes(tmp_path: Path) -> None:
    store = open_store((tmp_path / "my vault").as_uri())

    store.put("x", b"sealed")

    assert (tmp_path / "my vault" / "x").read_bytes() == b"sealed"
    assert store.location == (tmp_path / "my vault").as_uri()


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/vault1", "s3://bucket/vault1"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
    ],
)
def test_an_s3_url_is_a_bucket_and_a_prefix(url: str, location: str) -> None:
    options = StoreOptions(endpoint_url="http://127.0.0.1:9")

    assert open_store(url, options).location == location


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/srv/vault",
        "file://srv/vault",
        "file:vault",
        "https://bucket/vault",
        "s3://",
        "s3:///vault",
        "s3://bucket/a//b",
        "s3://bucket/a b",
        "s3://bucket/vault?x=1",
        "s3://bucket/vault#x",
    ],
)
def test_any_other_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url)

    assert f'"{url}"' in str(caught.value)


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        open_store("s3://bucket/vault", StoreOptions(endpoint_url="nonsense"))


def test_a_ca_bundle_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    options = StoreOptions(endpoint_url="https://127.0.0.1:9", ca_bundle=tmp_path / "ca.pem")

    with pytest.raises(ConfigError, match=r"ca\.pem"):
        open_store("s3://bucket/vault", options)
