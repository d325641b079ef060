# SPDX-License-Identifier: Apache-2.0
"""Counting what a store is asked for."""

import hashlib
from pathlib import Path

import pytest

from snapvault.adapters.stores.memory import MemoryStore
from snapvault.adapters.stores.metered import MeteredStore, StoreCounts
from snapvault.errors import StoreUnavailableError
from tests.support.stores import FailingStore


def test_calls_and_bytes_are_counted_by_kind(tmp_path: Path) -> None:
    store = MeteredStore(MemoryStore())
    path = tmp_path / "spooled"
    path.write_bytes(b"12345")

    store.put("a", b"123")
    store.put_file("b", path, size=5, sha256=hashlib.sha256(b"12345").hexdigest())
    store.get("a")
    with store.open("b") as readable:
        readable.read(2)
    store.get_part("a", 1, 1)
    store.stat("a")
    list(store.names())
    store.delete(["a", "b"])

    assert store.counts() == StoreCounts(
        stats=1, gets=1, opens=1, parts=1, listings=1, puts=2, deletes=2, bytes_up=8, bytes_down=6
    )
    assert store.counts().fetches == 2


def test_a_put_that_failed_moved_no_bytes() -> None:
    store = MeteredStore(FailingStore(MemoryStore(), lambda: StoreUnavailableError("away")))

    with pytest.raises(StoreUnavailableError):
        store.put("a", b"123")

    assert store.counts() == StoreCounts(puts=1)
