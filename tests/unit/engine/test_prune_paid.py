# SPDX-License-Identifier: Apache-2.0
"""What its storage class is paid for anyway stays until then."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault.adapters.stores.memory import MemoryStore
from snapvault.engine.prune import Pruned, prune
from snapvault.formats import names
from snapvault.ports.store import Store, StoredObject
from tests.support.nights import Nights
from tests.support.stores import ForwardingStore


class _ClassedStore(ForwardingStore):
    """Lists volumes as of the class STANDARD_IA, and the rest as STANDARD."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    def names(self, prefix: str = "") -> Iterator[StoredObject]:
        for found in self._inner.names(prefix):
            is_volume = found.name.startswith(names.VOLUMES)
            yield replace(found, storage_class="STANDARD_IA" if is_volume else "STANDARD")


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    return Nights(tmp_path, monkeypatch, _ClassedStore(MemoryStore()))


def volumes(nights: Nights) -> set[str]:
    return {name for name in nights.objects() if name.startswith(names.VOLUMES)}


def pruned(nights: Nights, *, paid_days: int, is_rehearsal: bool = False) -> Pruned:
    days = {"STANDARD_IA": paid_days} if paid_days else {}
    options = replace(nights.options(is_rehearsal=is_rehearsal), paid_days=days)
    return prune(nights.kit.host(), nights.rules, options)


def test_volumes_stay_until_their_days_are_paid_and_go_then(nights: Nights) -> None:
    nights.nights(8)
    pruned(nights, paid_days=30)
    nights.pass_days(8)
    before = nights.objects()

    told = pruned(nights, paid_days=30, is_rehearsal=True)
    kept = pruned(nights, paid_days=30)
    left = nights.objects()
    nights.pass_days(20)
    pruned(nights, paid_days=30)

    assert told.paid == kept.paid
    assert kept.paid[0] > 3
    assert kept.paid_until is not None
    assert timedelta(days=15) < kept.paid_until - (nights.now - timedelta(days=20))
    assert {name for name in before - left if name.startswith(names.VOLUMES)} == set()
    assert before - left != set()  # metadata went
    nights.require_whole()
    nights.require_settled()


def test_without_prices_nothing_waits_for_them(nights: Nights) -> None:
    nights.nights(8)
    pruned(nights, paid_days=0)
    nights.pass_days(8)
    before = volumes(nights)

    done = pruned(nights, paid_days=0)

    assert volumes(nights) < before
    assert done.paid == (0, 0)
    assert set(done.sizes) == {"STANDARD", "STANDARD_IA"}
