# SPDX-License-Identifier: Apache-2.0
"""Objects are removed for good, with all that lies over them, and not before their locks end."""

from dataclasses import replace
from pathlib import Path

import pytest

from snapvault.engine.removing import locks_of, remove
from snapvault.engine.vault import Vault
from tests.support.vaults import VaultKit
from tests.support.versioned import GOVERNANCE, VersionedStore

FREE, LOCKED = "volumes/aa/free.vol", "volumes/bb/locked.vol"


@pytest.fixture
def store() -> VersionedStore:
    return VersionedStore(GOVERNANCE)


@pytest.fixture
def vault(tmp_path: Path, store: VersionedStore) -> Vault:
    return replace(VaultKit(tmp_path, store=store).host(), versions=store, lock=GOVERNANCE)


def test_what_is_not_locked_goes_with_all_that_lies_over_it(
    vault: Vault, store: VersionedStore
) -> None:
    store.overlay(FREE, b"ours")
    store.overlay(FREE, b"theirs")
    store.delete([FREE])
    store.put(LOCKED, b"ours")
    store.delete([LOCKED])
    before = list(store.versions(LOCKED))

    locked = remove(vault, [FREE, LOCKED])

    assert locked == {LOCKED: store.locks()[LOCKED]}
    assert list(store.versions(FREE)) == []
    assert list(store.versions(LOCKED)) == before  # its marker too: it does not come back


def test_locks_are_those_of_the_versions_that_were_put_first(
    vault: Vault, store: VersionedStore
) -> None:
    store.put(LOCKED, b"ours")
    store.overlay(LOCKED, b"theirs")
    store.overlay(FREE, b"ours")
    store.overlay(FREE, b"theirs", locked=True)

    assert locks_of(vault, [FREE, LOCKED]) == {LOCKED: store.locks()[LOCKED]}


def test_without_locks_objects_are_deleted_by_name(vault: Vault, store: VersionedStore) -> None:
    store.overlay(FREE, b"ours")

    assert remove(replace(vault, lock=None), [FREE]) == {}
    assert store.markers() == [FREE]
