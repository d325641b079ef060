# SPDX-License-Identifier: Apache-2.0
"""Blocks shared between sources, under prunes: what one source's point needs, no other takes."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.engine.prune import Options, Pruned, prune
from snapvault.engine.prune_plan import Rules
from snapvault.engine.vault import Held
from snapvault.engine.verify import Level
from snapvault.errors import StoreUnavailableError
from snapvault.formats import names
from snapvault.model.policy import Retention
from snapvault.ports.store import Store
from tests.support.stores import BeforeCall, CrashingStore, PowerCut, Verb
from tests.support.vaults import MixedSource, VaultKit, require_whole

GRACE = timedelta(days=7)
SIZE = 60_000


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(SIZE)


class Clones:
    """A machine and its clone in one vault that keeps the newest point of each, and a clock."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
        monkeypatch.setattr(clock, "now", lambda: self.now)
        self.kit = VaultKit(folder, volume_size=16 << 10)
        self.first = MixedSource("first", disks={"root": noise(1)})
        self.clone = MixedSource("clone", disks={"root": noise(1)})
        self._changes = count(100)

    def night(self, source: MixedSource, store: Store | None = None) -> Held:
        self.pass_days(1)
        return self.kit.night(source, store)

    def pass_days(self, days: float) -> None:
        self.now += timedelta(days=days)
        self.first.next_taken_at = self.clone.next_taken_at = self.now

    def prune(self, store: Store | None = None) -> Pruned:
        rules = Rules(Retention(last=1), UTC)
        options = Options(GRACE, "host.example.org", "snapvault test")
        return prune(self.kit.host(store), {"first": rules, "clone": rules}, options)

    def abandon(self) -> None:
        """Let the first one's points with what both have expire, and be pruned."""
        self.first.disks["root"] = noise(next(self._changes))
        self.night(self.first)
        assert self.prune().removed

    def settle(self) -> None:
        """Prune until nothing is left to do: also what never had a point."""
        for days in (8, 8, 31, 8, 8):
            self.prune()
            self.pass_days(days)

    def require_whole(self) -> None:
        """Every point that there is comes back, and nothing is wrong with the vault."""
        inventory = self.kit.inventory()
        assert inventory.problems == ()
        for source in (self.first, self.clone):
            points = [held.point for held in inventory.of(source.name)]
            require_whole(self.kit, source, points)
        assert self.kit.verify(Level.FULL).findings == ()


@pytest.fixture
def clones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clones:
    return Clones(tmp_path, monkeypatch)


def manifest_of(source: str) -> Callable[[Verb, str], bool]:
    """Pick the put of a manifest of a source: after the last look, before the point exists."""
    return lambda verb, name: verb == "put" and name.startswith(names.points_of(source))


def last_look(source: str) -> Callable[[Verb, str], bool]:
    """Pick the look at the records of prunes that comes after a source's metadata was put."""
    has_put = False

    def is_it(verb: Verb, name: str) -> bool:
        nonlocal has_put
        has_put = has_put or (verb == "put" and name.startswith(f"{names.META}{source}/"))
        return has_put and (verb, name) == ("names", names.PRUNES)

    return is_it


def test_a_clone_outlives_the_machine_that_stored_its_blocks(clones: Clones) -> None:
    clones.night(clones.first)
    shared = set(clones.kit.objects(names.VOLUMES))
    held = clones.night(clones.clone)
    assert held.point.counters["new_volumes"] == 0

    clones.abandon()
    clones.settle()

    assert shared <= set(clones.kit.objects(names.VOLUMES))
    clones.require_whole()


def test_what_both_had_goes_with_the_last_of_them(clones: Clones) -> None:
    clones.night(clones.first)
    shared = set(clones.kit.objects(names.VOLUMES))
    clones.night(clones.clone)
    clones.abandon()

    clones.clone.disks["root"] = noise(7)
    clones.night(clones.clone)
    clones.settle()

    assert not shared & set(clones.kit.objects(names.VOLUMES))
    clones.require_whole()


def call(verb: Verb, prefix: str, *, number: int = 0) -> Callable[[Verb, str], bool]:
    """Pick the call of that number, from 0, of a verb and of names that begin so."""
    numbers = count()

    def is_it(called: Verb, name: str) -> bool:
        return called == verb and name.startswith(prefix) and next(numbers) == number

    return is_it


@pytest.mark.parametrize(
    ("moment", "outcome"),
    [
        (call("names", names.POINTS), "stored"),
        (call("names", names.PRUNES), "stored"),
        (call("names", names.points_of("first")), "stored"),
        (call("stat", names.VOLUMES), "failed"),
        (call("stat", names.VOLUMES, number=2), "failed"),
        (call("put", names.META), "failed"),
        (call("put", names.LISTS), "failed"),
        (last_look("clone"), "failed"),
        (manifest_of("clone"), "shared"),
    ],
    ids=[
        "first call",
        "records",
        "donor",
        "volume",
        "third volume",
        "metadata",
        "list",
        "last look",
        "manifest",
    ],
)
def test_other_sources_points_that_expire_while_a_clone_is_backed_up_break_no_point(
    clones: Clones, moment: Callable[[Verb, str], bool], outcome: str
) -> None:
    """They expire and are pruned, and their objects doomed, whole before one call of the run.

    A run that looked before the record was there has committed; one that sees it fails, and the
    next does without what is doomed.
    """
    clones.night(clones.first)
    store = BeforeCall(clones.kit.store, moment, clones.abandon)

    try:
        held = clones.night(clones.clone, store)
        came = "shared" if held.point.counters["deduplicated_bytes"] else "stored"
    except StoreUnavailableError:
        came = "failed"
        clones.night(clones.clone)

    assert came == outcome
    clones.settle()
    clones.require_whole()
    clones.night(clones.clone)
    clones.require_whole()


def test_a_run_that_lost_what_it_shared_is_resumed_with_what_it_stored(clones: Clones) -> None:
    clones.night(clones.first)
    clones.clone.disks["root"] = noise(1) + noise(2)
    store = BeforeCall(clones.kit.store, last_look("clone"), clones.abandon)

    with pytest.raises(StoreUnavailableError, match="a prune is about to remove"):
        clones.night(clones.clone, store)
    held = clones.night(clones.clone)

    assert "run.resumed" in clones.kit.events.names()
    assert held.point.counters["deduplicated_bytes"] == 0
    clones.settle()
    clones.require_whole()


def test_a_point_that_was_committed_in_the_moment_of_a_prune_goes_on_for_ever(
    clones: Clones,
) -> None:
    """The prune has doomed what the clone shares, a moment before the clone's point was there."""
    clones.night(clones.first)
    store = BeforeCall(clones.kit.store, manifest_of("clone"), clones.abandon)
    held = clones.night(clones.clone, store)
    assert held.point.counters["deduplicated_bytes"] > 0

    for night in range(3):
        clones.pass_days(8)
        clones.clone.disks["root"] = noise(1)[:-1000] + noise(night)[:1000]
        held = clones.night(clones.clone)
        assert held.point.counters["new_volumes"] == 1
        clones.prune()
        clones.require_whole()


def test_a_clone_that_lost_its_parent_does_not_build_upon_what_is_doomed(clones: Clones) -> None:
    clones.night(clones.first)
    store = BeforeCall(clones.kit.store, manifest_of("clone"), clones.abandon)
    lost = clones.night(clones.clone, store)

    def lose() -> None:
        clones.kit.store.delete([lost.manifest.name])

    clones.clone.disks["root"] = noise(1)[:-1000] + noise(8)[:1000]

    with pytest.raises(StoreUnavailableError, match="a prune is about to remove"):
        clones.night(clones.clone, BeforeCall(clones.kit.store, last_look("clone"), lose))


def test_a_clone_whose_run_is_killed_anywhere_comes_whole_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for writes in count(1, 2):
        clones = Clones(tmp_path / str(writes), monkeypatch)
        clones.night(clones.first)
        clones.clone.disks["root"] = noise(1)[:40_000] + noise(2)
        store = CrashingStore(clones.kit.store, writes_before_crash=writes)
        try:
            clones.night(clones.clone, store)
        except PowerCut:
            clones.night(clones.clone)
            clones.require_whole()
        else:
            break
    assert writes > 5
