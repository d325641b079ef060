# SPDX-License-Identifier: Apache-2.0
"""Every store that SnapVault can keep a vault in, fresh and empty."""

from pathlib import Path

import pytest

from snapvault.adapters.stores.directory import DirectoryStore
from snapvault.adapters.stores.memory import MemoryStore
from snapvault.adapters.stores.opening import StoreOptions, open_store
from snapvault.ports.store import Store
from tests.support import s3


@pytest.fixture
def memory_store() -> Store:
    return MemoryStore()


@pytest.fixture
def directory_store(tmp_path: Path) -> Store:
    return DirectoryStore(tmp_path / "vault")


@pytest.fixture
def s3_http_store(monkeypatch: pytest.MonkeyPatch) -> Store:
    return _s3_store(monkeypatch, StoreOptions(endpoint_url=s3.server().endpoint_url))


@pytest.fixture
def s3_https_store(monkeypatch: pytest.MonkeyPatch) -> Store:
    options = StoreOptions(
        endpoint_url=s3.https_endpoint(),
        ca_bundle=s3.authority().ca_bundle,
        response_checksum_validation="when_supported",
    )
    return _s3_store(monkeypatch, options)


@pytest.fixture
def s3_without_checksums_store(monkeypatch: pytest.MonkeyPatch) -> Store:
    options = StoreOptions(
        endpoint_url=s3.server().endpoint_url, request_checksum_calculation="when_required"
    )
    return _s3_store(monkeypatch, options)


def _s3_store(monkeypatch: pytest.MonkeyPatch, options: StoreOptions) -> Store:
    for name, value in s3.server().environment().items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{s3.BUCKET}/{s3.fresh_prefix()}", options)
