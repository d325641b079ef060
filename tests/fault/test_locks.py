# SPDX-License-Identifier: Apache-2.0
"""Locks are renewed while they are needed; prune leaves what is locked, and gets it later."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path

import pytest

from snapvault.engine.holding import hold
from snapvault.engine.locking import Renewed, renew
from snapvault.engine.prune_plan import Rules
from snapvault.engine.vault import Vault, sync
from snapvault.errors import StoreDeniedError
from snapvault.formats import names
from snapvault.model.policy import Retention
from tests.support.nights import GRACE, Nights
from tests.support.versioned import GOVERNANCE, VersionedStore

FOR = GOVERNANCE.period


@pytest.fixture
def store() -> VersionedStore:
    return VersionedStore(GOVERNANCE)


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: VersionedStore) -> Nights:
    return Nights(tmp_path, monkeypatch, store=store)


@pytest.fixture
def host(nights: Nights, store: VersionedStore) -> Callable[[], Vault]:
    return lambda: replace(nights.kit.host(), versions=store, lock=GOVERNANCE)


def renewed(nights: Nights, vault: Vault, *, budget: int | None = None) -> Renewed:
    found = renew(vault, nights.rules, budget=budget)
    assert found is not None
    return found


def test_everything_is_locked_when_it_is_put(nights: Nights, store: VersionedStore) -> None:
    nights.nights(2)
    hold(nights.kit.host(), sync(nights.kit.host()).held[0], reason="", host="h")

    free = [name for name, until in store.locks().items() if until is None]

    assert free == []


def test_months_of_nights_keep_what_is_needed_locked_at_about_one_request_in_a_period(
    nights: Nights, store: VersionedStore, host: Callable[[], Vault]
) -> None:
    nights.rules = {"web01": Rules(Retention(last=2, weekly=8), UTC)}
    nights.night()
    first = renewed(nights, host())
    store.asked.looked.clear()
    total = 0

    for _ in range(18):
        nights.pass_days(6)
        nights.night()
        renewed(nights, host())
        pruned = nights.prune(vault=host())
        total += pruned.deleted[0]
        vault = host()
        kept = [each.held for each in pruned.judged if each.verdict.stays]
        for held in kept:
            for record in (held.manifest, held.point.hash_key, *held.point.objects):
                until = store.locks()[record.name]
                assert until is not None
                assert until >= nights.now + FOR - timedelta(hours=1)
        assert vault.store.get(names.VAULT)

    assert first.renewed == 0
    assert total > 0  # space comes back
    assert store.markers() == []
    ages = {each.name: nights.now - each.stored_at for each in store.versions()}
    for name in set(store.asked.locked):
        if name in ages:
            assert store.asked.locked.count(name) <= ages[name] // FOR
            assert store.asked.looked.count(name) <= ages[name] // FOR + 8  # prune looks as well
    nights.require_restorable()


def test_a_pass_is_made_once_a_day_and_goes_on_when_it_was_cut_short(
    nights: Nights, host: Callable[[], Vault]
) -> None:
    nights.nights(2)

    first = renewed(nights, host(), budget=5)
    second = renewed(nights, host())

    assert (first.is_whole, second.is_whole) == (False, True)
    assert first.asked < second.asked
    assert renew(host(), nights.rules) is None
    nights.pass_days(1.1)
    assert renewed(nights, host()).asked == 0


def test_what_was_stored_before_locks_were_asked_for_is_locked_by_the_first_pass(
    nights: Nights, store: VersionedStore, host: Callable[[], Vault]
) -> None:
    store.lock_of_puts = None
    nights.nights(2)

    renewed(nights, host())

    assert [name for name, until in store.locks().items() if until is None] == []


def test_points_that_no_rule_wants_lose_their_locks_and_go(
    nights: Nights, store: VersionedStore, host: Callable[[], Vault]
) -> None:
    points = nights.nights(6)
    doomed = {each.point for each in points[:3]}

    early = nights.prune(vault=host())
    held = {each.held.point.point for each in early.judged if each.locked_until is not None}
    for _ in range(31):
        nights.pass_days(2)
        renewed(nights, host())
    late = nights.prune(vault=host())

    assert (early.removed, early.waiting, held) == ((), (0, 0), doomed)
    assert {each.held.point.point for each in late.removed} == doomed
    assert {each.point for each in nights.there()} == {each.point for each in points[3:]}
    assert store.markers() == []


def test_locks_that_refuse_are_counted_and_tried_again(
    nights: Nights, store: VersionedStore, host: Callable[[], Vault]
) -> None:
    nights.nights(6)
    nights.pass_days(61)
    assert len(nights.prune(vault=host()).removed) == 3
    waiting = nights.objects()
    needed = {record.name for each in nights.there() for record in each.objects}
    for version in store.versions():
        if version.name in waiting - needed:
            store.lock(version, nights.now + timedelta(days=20))
    nights.pass_days(8)

    refused = nights.prune(vault=host())
    nights.pass_days(13)
    done = nights.prune(vault=host())

    assert refused.deleted == (0, 0)
    assert refused.locked[0] > 0
    assert refused.unlocked_at == nights.now - timedelta(days=1)
    assert done.deleted == refused.locked
    assert (done.locked, done.unlocked_at) == ((0, 0), None)
    assert {each.name for each in store.versions() if each.is_marker} == set()
    nights.require_whole()
    nights.require_settled()


def test_credentials_that_may_not_remove_what_is_not_locked_are_told_so(
    nights: Nights, store: VersionedStore, host: Callable[[], Vault]
) -> None:
    nights.nights(6)
    nights.pass_days(61)
    store.may_remove = False

    with pytest.raises(StoreDeniedError, match="and it is not locked"):
        nights.prune(vault=host(), grace=GRACE)

    assert len(nights.there()) == 6


def test_a_held_point_stays_locked_though_no_policy_has_its_source(
    nights: Nights, store: VersionedStore, host: Callable[[], Vault]
) -> None:
    points = nights.nights(2)
    hold(host(), sync(host()).held[0], reason="audit", host="h")
    nights.rules = {}
    renewed(nights, host())
    nights.pass_days(59)

    renewed(nights, host())

    locks = store.locks()
    held, other = (
        next(until for name, until in locks.items() if point.point in name and "point" in name)
        for point in points
    )
    assert held is not None
    assert other is not None
    assert held >= nights.now + FOR
    assert other < nights.now + FOR


def test_what_a_point_needs_again_is_locked_again(
    nights: Nights, store: VersionedStore, host: Callable[[], Vault]
) -> None:
    points = nights.nights(2)
    nights.rules = {}
    renewed(nights, host())
    nights.pass_days(45)
    renewed(nights, host())
    name = points[1].objects[0].name
    before = store.locks()[name]

    nights.rules = {"web01": nights.rules_of(last=5)}
    nights.pass_days(2)
    renewed(nights, host())

    after = store.locks()[name]
    assert before is not None
    assert before < nights.now + FOR
    assert after is not None
    assert after >= nights.now + FOR


def test_a_pass_names_what_somebody_removed_or_replaced(
    nights: Nights, store: VersionedStore, host: Callable[[], Vault]
) -> None:
    nights.nights(2)
    removed, replaced = random.Random(1).sample(sorted(nights.kit.objects(names.VOLUMES)), 2)
    store.delete([removed])
    store.overlay(replaced, b"other")

    found = renewed(nights, host())

    assert set(found.hidden) == {removed, replaced}
