# SPDX-License-Identifier: Apache-2.0
"""Counting what a store is asked for."""

import hashlib
from pathlib import Path

import pytest

from snapvault.adapters.stores.memory import MemoryStore
from snapvault.adapters.stores.metered import MeteredStore, StoreCounts
from snapvault.errors import StoreUnavailableError
from snapvault.model.usage import Usage
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


def test_usage_is_counted_as_stores_bill_it(tmp_path: Path) -> None:
    store = MeteredStore(MemoryStore())
    volume, path = "volumes/ab/abcdef.vol", tmp_path / "spooled"
    path.write_bytes(b"12345")

    store.put("a", b"123")
    store.put_file(volume, path, size=5, sha256=hashlib.sha256(b"12345").hexdigest())
    store.stat("a")
    with store.open(volume) as readable:
        readable.read(2)
    store.get_part(volume, 0, 1)
    store.delete(["a", volume])

    assert store.usage() == Usage(
        puts=2,
        gets=3,
        deletes=1,
        bytes_up=8,
        bytes_down=3,
        volume_puts=1,
        volume_gets=2,
        volume_down=3,
    )


@pytest.mark.parametrize(("count", "requests"), [(0, 1), (1000, 1), (1001, 2), (2001, 3)])
def test_a_long_listing_and_a_long_deletion_are_several_requests(count: int, requests: int) -> None:
    inner = MemoryStore()
    names = [f"x{number}" for number in range(count)]
    for name in names:
        inner.put(name, b"")
    store = MeteredStore(inner)

    found = list(store.names())
    store.delete([each.name for each in found])

    assert store.usage() == Usage(puts=requests, deletes=-(-count // 1000))
