# SPDX-License-Identifier: Apache-2.0
"""Prune beside listings that lie: cut pages, keys that are gone, objects that vanish in between."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from snapvault.engine.vault import Vault
from snapvault.errors import ObjectMissingError, StoreError
from snapvault.formats import names, volume_list
from snapvault.model.point import Point
from snapvault.ports.store import Store, StoredObject
from tests.support.catalogs import MemoryCatalog
from tests.support.nights import Nights
from tests.support.stores import ForwardingStore, Verb


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    """A vault with points to expire and, from an earlier prune, objects whose grace is over."""
    nights = Nights(tmp_path, monkeypatch)
    nights.nights(6)
    nights.prune()
    nights.pass_days(7.5)
    nights.nights(2)
    return nights


class _Cut(ForwardingStore):
    """Ends listings below a prefix early and says nothing, as a server that loses its last page."""

    def __init__(self, inner: Store, prefix: str, shown: int, *, times: int | None = None) -> None:
        self._inner = inner
        self._prefix = prefix
        self._shown = shown
        self._times = times

    def names(self, prefix: str = "") -> Iterator[StoredObject]:
        found = self._inner.names(prefix)
        if prefix != self._prefix or self._times == 0:
            return found
        self._times = None if self._times is None else self._times - 1
        return islice(found, self._shown)


class _Stale(ForwardingStore):
    """Lists what was there once, beside what is there now."""

    def __init__(self, inner: Store, old: Collection[StoredObject]) -> None:
        self._inner = inner
        self._old = {each.name: each for each in old}

    def names(self, prefix: str = "") -> Iterator[StoredObject]:
        found = {name: each for name, each in self._old.items() if name.startswith(prefix)}
        found |= {each.name: each for each in self._inner.names(prefix)}
        return iter(sorted(found.values(), key=lambda each: each.name))


class _Vanishing(ForwardingStore):
    """Lists objects below a prefix that are gone when they are read."""

    def __init__(self, inner: Store, prefix: str) -> None:
        self._inner = inner
        self._prefix = prefix

    def _gate(self, verb: Verb, name: str) -> None:
        if verb in ("get", "open", "part", "stat") and name.startswith(self._prefix):
            raise ObjectMissingError(f'object "{name}" is not there')


def fresh(nights: Nights, store: Store) -> Vault:
    """Return a host that remembers nothing."""
    folder = nights.kit.folder / "fresh host"
    return replace(nights.kit.host(store), state=folder, catalog=MemoryCatalog())


def staying(nights: Nights) -> list[Point]:
    return [
        each.held.point for each in nights.prune(is_rehearsal=True).judged if each.verdict.stays
    ]


def require_needed(nights: Nights, points: list[Point]) -> None:
    """Everything that these points need is there."""
    vault, objects = nights.kit.host(), nights.kit.objects()
    needed = {record.name for each in points for record in (*each.objects, *each.lists)}
    assert needed <= objects.keys()
    for record in {record for each in points for record in each.lists}:
        listed = volume_list.decode(vault.store.get(record.name))
        assert {names.volume(each.volume) for each in listed} <= objects.keys()


def cuts(nights: Nights, prefix: str) -> list[int]:
    """Return after how many names of a listing to end it: at its beginning, middle and end."""
    count = sum(1 for _ in nights.kit.store.names(prefix))
    return sorted({1, count // 2, count - 1} & set(range(count)))


@pytest.mark.parametrize("prefix", [names.POINTS, names.PRUNES])
def test_a_cut_listing_of_manifests_or_records_stops_a_host_that_knows_them(
    nights: Nights, prefix: str
) -> None:
    nights.prune(is_rehearsal=True)
    before = nights.kit.objects()

    for shown in (0, *cuts(nights, prefix)):
        told = nights.prune(_Cut(nights.kit.store, prefix, shown))

        assert told.refusal
        assert nights.kit.objects() == before


@pytest.mark.parametrize("prefix", [names.META, names.LISTS, names.VOLUMES])
def test_a_cut_listing_of_objects_costs_no_point_anything(nights: Nights, prefix: str) -> None:
    kept = staying(nights)

    for shown in cuts(nights, prefix):
        nights.prune(_Cut(nights.kit.store, prefix, shown))

        require_needed(nights, kept)
    nights.settle()
    assert {each.point for each in kept} <= {each.point for each in nights.there()}
    nights.require_whole()
    nights.require_settled()


def test_a_cut_listing_of_manifests_on_a_new_host_costs_no_point_that_the_next_one_shows(
    nights: Nights,
) -> None:
    points = nights.there()
    for shown in cuts(nights, names.POINTS):
        nights.prune(vault=fresh(nights, _Cut(nights.kit.store, names.POINTS, shown, times=1)))

        require_needed(nights, [each for each in points if each in nights.there()])
    nights.require_restorable()


def test_keys_that_are_long_gone_cost_no_point_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = Nights(tmp_path, monkeypatch)
    nights.nights(6)
    old = list(nights.kit.store.names())
    nights.prune()
    nights.pass_days(7.5)
    nights.nights(2)
    nights.prune()
    kept = staying(nights)

    for stale in (_Stale(nights.kit.store, old),) * 2:
        nights.prune(stale)
        require_needed(nights, kept)
        nights.pass_days(8)
    with pytest.raises(StoreError):
        nights.prune(vault=fresh(nights, _Stale(nights.kit.store, old)))

    require_needed(nights, kept)
    nights.settle()
    nights.require_whole()
    nights.require_settled()


@pytest.mark.parametrize("prefix", [names.POINTS, names.LISTS, names.PRUNES])
def test_what_vanishes_between_listing_and_reading_stops_a_host_that_has_to_read_it(
    nights: Nights, prefix: str
) -> None:
    before, kept = nights.objects(), staying(nights)

    try:
        told = nights.prune(vault=fresh(nights, _Vanishing(nights.kit.store, prefix)))
    except StoreError:
        pass
    else:
        assert told.refusal or told.doubt

    assert nights.objects() == before
    require_needed(nights, kept)
