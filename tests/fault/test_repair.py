# SPDX-License-Identifier: Apache-2.0
"""What an attacker removes or replaces in a bucket that keeps versions comes back."""

from dataclasses import replace
from pathlib import Path

import pytest

from snapvault.engine import uncovering
from snapvault.engine.repair import Outcome, Step, repair
from snapvault.engine.vault import Vault, sync
from snapvault.engine.verify import Level
from snapvault.formats import names
from tests.support.nights import Nights
from tests.support.versioned import GOVERNANCE, VersionedStore

STEPS = (Step(uncovering.NAME, uncovering.uncover),)


@pytest.fixture
def store() -> VersionedStore:
    return VersionedStore(GOVERNANCE)


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: VersionedStore) -> Nights:
    return Nights(tmp_path, monkeypatch, store=store)


def host(nights: Nights, store: VersionedStore) -> Vault:
    return replace(nights.kit.host(), versions=store)


def mend(nights: Nights, store: VersionedStore, *, dry_run: bool = False) -> Outcome:
    ((_, outcome),) = repair(host(nights, store), STEPS, is_rehearsal=dry_run)
    return outcome


@pytest.mark.parametrize("may_remove", [True, False], ids=["removing", "copying"])
def test_all_that_was_deleted_comes_back(
    nights: Nights, store: VersionedStore, *, may_remove: bool
) -> None:
    nights.nights(3)
    everything = [name for name in nights.kit.objects() if name != names.VAULT]
    store.delete(everything)
    store.may_remove = may_remove

    outcome = mend(nights, store)

    assert outcome.left == ()
    assert sorted(each.name for each in outcome.mended) == sorted(everything)
    assert set(nights.kit.objects()) == {*everything, names.VAULT}
    nights.require_whole()
    assert mend(nights, store).mended == ()


def test_a_rehearsal_says_the_same_and_does_nothing(nights: Nights, store: VersionedStore) -> None:
    nights.nights(2)
    everything = [name for name in nights.kit.objects() if name != names.VAULT]
    store.delete(everything)

    outcome = mend(nights, store, dry_run=True)

    assert sorted(each.name for each in outcome.mended) == sorted(everything)
    assert store.markers() == sorted(everything)


@pytest.mark.parametrize("is_longer", [True, False], ids=["other size", "same size"])
@pytest.mark.parametrize("locked", [True, False], ids=["locked by them", "not locked"])
@pytest.mark.parametrize("prefix", [names.POINTS, names.META, names.LISTS, names.VOLUMES])
def test_what_was_put_over_an_object_goes_or_is_covered_in_turn(
    nights: Nights, store: VersionedStore, prefix: str, *, is_longer: bool, locked: bool
) -> None:
    nights.nights(2)
    name, size = next(iter(nights.kit.objects(prefix).items()))
    before = store.get(name)
    store.overlay(name, b"x" * (size + is_longer), locked=locked)

    outcome = mend(nights, store)

    assert [each.name for each in outcome.mended] == [name]
    assert outcome.left == ()
    assert store.get(name) == before
    assert mend(nights, store).mended == ()


def test_of_several_versions_on_top_none_is_taken_for_the_right_one(
    nights: Nights, store: VersionedStore
) -> None:
    nights.nights(2)
    name, size = next(iter(nights.kit.objects(names.VOLUMES).items()))
    before = store.get(name)
    store.overlay(name, b"x" * size)
    store.overlay(name, b"y" * size)
    store.delete([name])

    mend(nights, store)

    assert store.get(name) == before


def test_a_point_that_a_prune_took_away_stays_away(nights: Nights, store: VersionedStore) -> None:
    nights.nights(6)
    nights.prune()  # it knows of no versions, and so lays markers
    there = nights.there()
    assert len(store.markers()) == 3

    outcome = mend(nights, store)

    assert outcome.mended == ()
    assert nights.there() == there


def test_what_nothing_right_lies_underneath_is_told_with_its_points(
    nights: Nights, store: VersionedStore
) -> None:
    nights.nights(2)
    name = next(iter(nights.kit.objects(names.VOLUMES)))
    store.lock_of_puts = None
    nights.pass_days(100)
    store.remove(list(store.versions(name)))

    outcome = mend(nights, store)

    assert [each.message for each in outcome.left] == [
        f'volume "{name}" is missing from the vault; nothing right lies underneath'
    ]
    assert outcome.left[0].points


def test_a_host_that_remembers_nothing_finds_the_newest_points_that_were_deleted(
    nights: Nights, store: VersionedStore
) -> None:
    points = nights.nights(3)
    store.delete([name for name in nights.kit.objects(names.POINTS) if points[2].point in name])
    nights.kit.lose_state()
    assert sync(host(nights, store)).problems == ()

    found = uncovering.hidden_records(host(nights, store))

    assert [names.parse_point(each.name) for each in found] == [("web01", points[2].point)]


def test_verify_says_what_is_still_there_underneath(nights: Nights, store: VersionedStore) -> None:
    nights.nights(2)
    volume = next(iter(nights.kit.objects(names.VOLUMES)))
    store.delete([volume])

    report = nights.kit.verify(Level.OBJECTS, host(nights, store))

    assert [volume in each.message for each in report.findings] == [True]
    assert "removed, but still there underneath" in report.findings[0].message


def test_verify_of_a_host_that_remembers_nothing_finds_a_rolled_back_source(
    nights: Nights, store: VersionedStore
) -> None:
    points = nights.nights(3)
    newest = [name for name in nights.kit.objects(names.POINTS) if points[2].point in name]
    store.delete(newest)
    nights.kit.lose_state()
    nights.pass_days(1)

    report = nights.kit.verify(Level.OBJECTS, host(nights, store))

    (finding,) = report.findings
    assert newest[0] in finding.message
    assert "removed, but still there underneath" in finding.message
