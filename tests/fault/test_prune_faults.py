# SPDX-License-Identifier: Apache-2.0
"""Prune under every fault: what stays restores exactly, and the next prune finishes the job."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal

import pytest

from snapvault.engine import notes
from snapvault.engine.holding import hold, release
from snapvault.engine.prune import accept_gone
from snapvault.engine.vault import Held, sync
from snapvault.engine.verify import Level
from snapvault.errors import (
    ConfigError,
    NoRestorePointError,
    StoreError,
    StoreUnavailableError,
)
from snapvault.formats import names
from snapvault.model.notes import PruneRecord
from snapvault.ports.store import Store, StoredObject
from tests.support.catalogs import MemoryCatalog
from tests.support.nights import GRACE, Nights
from tests.support.sealers import PaperSealer
from tests.support.stores import (
    BeforeCall,
    CrashingStore,
    FailingStore,
    ForwardingStore,
    HidingStore,
    PowerCut,
    RecordingStore,
    Verb,
)


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    return Nights(tmp_path, monkeypatch)


def _nth_call(number: int, verbs: tuple[Verb, ...] = ()) -> Callable[[Verb, str], bool]:
    """Pick the call of that number, from 0, of these verbs; of any if none is named."""
    calls = count()

    def is_it(verb: Verb, name: str) -> bool:
        return (not verbs or verb in verbs) and next(calls) == number

    return is_it


class _Without(ForwardingStore):
    """Loses its power before the first put below a prefix."""

    def __init__(self, inner: Store, prefix: str) -> None:
        self._inner = inner
        self._prefix = prefix

    def _gate(self, verb: Verb, name: str) -> None:
        if verb == "put" and name.startswith(self._prefix):
            raise PowerCut


class _HidingOnce(ForwardingStore):
    """Does not list an object the first time."""

    def __init__(self, inner: Store, hidden: str) -> None:
        self._inner = inner
        self._hidden = hidden
        self._has_listed = False

    def names(self, prefix: str = "") -> Iterator[StoredObject]:
        if prefix != names.POINTS or self._has_listed:
            return self._inner.names(prefix)
        self._has_listed = True
        return (each for each in self._inner.names(prefix) if each.name != self._hidden)


class _Doubling(ForwardingStore):
    """Lists each object twice."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    def names(self, prefix: str = "") -> Iterator[StoredObject]:
        for found in self._inner.names(prefix):
            yield found
            yield found


def due(nights: Nights) -> None:
    """Have points to expire and, from an earlier prune, objects whose grace is over."""
    nights.nights(6)
    nights.prune()
    nights.pass_days(7.5)
    nights.nights(2)


def test_manifests_go_first_and_objects_after_the_grace(nights: Nights) -> None:
    points = nights.nights(6)
    before = nights.objects()

    first = nights.prune()

    assert [each.held.point for each in first.removed] == points[:3]
    assert nights.there() == points[3:]
    assert nights.objects() == before
    assert first.waiting[0] > 0
    nights.pass_days(6.9)
    assert nights.prune().deleted == (0, 0)
    nights.pass_days(0.2)
    last = nights.prune()
    assert last.deleted == first.waiting
    assert len(nights.objects()) == len(before) - last.deleted[0]
    nights.require_whole()
    nights.require_settled()


def test_a_point_that_a_killed_prune_spared_has_a_grace_of_its_own(nights: Nights) -> None:
    nights.nights(6)
    with pytest.raises(PowerCut):
        nights.prune(CrashingStore(nights.kit.store, writes_before_crash=1))
    assert len(nights.there()) == 6
    nights.pass_days(8)

    told = nights.prune()

    assert len(told.removed) == 3
    assert told.deleted == (0, 0)
    nights.pass_days(6.9)
    assert nights.prune().deleted == (0, 0)
    nights.pass_days(0.2)
    assert nights.prune().deleted == told.waiting
    nights.require_settled()


def test_a_prune_that_finds_nothing_writes_nothing(nights: Nights) -> None:
    nights.nights(2)
    store = RecordingStore(nights.kit.store)

    nights.prune(store)

    assert store.called("put", "delete") == []


def test_a_rehearsal_says_what_would_go_and_touches_nothing(nights: Nights) -> None:
    due(nights)
    store = RecordingStore(nights.kit.store)

    told = nights.prune(store, is_rehearsal=True)

    assert store.called("put", "delete") == []
    done = nights.prune()
    assert [each.held for each in told.removed] == [each.held for each in done.removed]
    assert told.deleted == done.deleted != (0, 0)


def test_the_points_that_went_are_no_problem_for_any_host(nights: Nights) -> None:
    nights.nights(6)
    elsewhere = replace(
        nights.kit.host(), catalog=MemoryCatalog(), state=nights.kit.folder / "other host"
    )
    assert len(sync(elsewhere).held) == 6

    nights.prune()

    for vault in (elsewhere, nights.kit.host(), nights.kit.recovery()):
        inventory = sync(vault)
        assert inventory.problems == ()
        assert len(inventory.held) == 3


def test_nights_and_prunes_for_a_season_keep_every_kept_point_whole(nights: Nights) -> None:
    for _ in range(25):
        nights.night()
        nights.prune()

    assert len(nights.there()) == 3
    nights.require_whole()
    nights.settle()
    nights.require_whole()
    nights.require_settled()


def writes_of_a_prune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    other = Nights(tmp_path / "counted", monkeypatch)
    due(other)
    store = RecordingStore(other.kit.store)
    other.prune(store)
    return len(store.called("put", "delete"))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_prune_killed_at_any_write_harms_no_point_and_the_next_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: Literal["before", "after"]
) -> None:
    writes = writes_of_a_prune(tmp_path, monkeypatch)
    assert writes > 10
    # The record, the manifests, the first objects and the last: the rest are like these.
    for number in (*range(6), writes // 2, writes - 1):
        nights = Nights(tmp_path / str(number), monkeypatch)
        due(nights)
        kept = {
            each.held.point.point
            for each in nights.prune(is_rehearsal=True).judged
            if each.verdict.stays
        }

        with pytest.raises(PowerCut):
            nights.prune(CrashingStore(nights.kit.store, writes_before_crash=number, when=when))

        assert kept <= {point.point for point in nights.there()}
        nights.require_restorable()
        nights.kit.lose_state()
        nights.prune()
        assert {point.point for point in nights.there()} == kept
        nights.settle()
        nights.require_restorable()
        nights.require_settled()


@pytest.mark.parametrize("verb", ["names", "delete", "put", "get"])
def test_a_store_that_fails_fails_the_prune_and_harms_nothing(nights: Nights, verb: Verb) -> None:
    due(nights)
    for after in range(6):
        failing = FailingStore(
            nights.kit.store,
            lambda: StoreUnavailableError("the store is away"),
            verbs=[verb],
            after=after,
        )
        try:
            nights.prune(failing)
        except StoreError:
            nights.require_restorable()

    nights.settle()
    nights.require_whole()
    nights.require_settled()


def newest_manifest(nights: Nights) -> str:
    return max(nights.kit.objects(names.POINTS))


def middle_manifest(nights: Nights) -> str:
    return sorted(nights.kit.objects(names.POINTS))[2]


@pytest.mark.parametrize("knows", [True, False], ids=["catalog", "no catalog"])
def test_a_listing_that_lacks_a_manifest_stops_everything(nights: Nights, *, knows: bool) -> None:
    due(nights)
    before = nights.kit.objects()
    if not knows:
        nights.kit.lose_state()
    hidden = middle_manifest(nights)

    told = nights.prune(HidingStore(nights.kit.store, lambda name: name == hidden))

    assert "is gone" in told.refusal[0]
    assert told.removed == ()
    assert nights.kit.objects() == before
    assert nights.prune().refusal == ()


def test_a_listing_without_the_newest_manifest_stops_a_host_that_knows_it(nights: Nights) -> None:
    due(nights)
    before = nights.kit.objects()
    hidden = newest_manifest(nights)

    told = nights.prune(HidingStore(nights.kit.store, lambda name: name == hidden))

    assert "was in the vault and is gone" in told.refusal[0]
    assert nights.kit.objects() == before


def test_a_manifest_that_a_listing_shows_only_the_second_time_saves_its_objects(
    nights: Nights,
) -> None:
    """A host that remembers nothing, and a store that hid the newest point for a month."""
    nights.nights(3)
    nights.pass_days(31)
    hidden = newest_manifest(nights)
    before = nights.objects()
    fresh = replace(nights.kit.host(), state=nights.kit.folder / "fresh host")
    hiding = HidingStore(nights.kit.store, lambda name: name == hidden)
    doomed = nights.prune(vault=replace(fresh, store=hiding, catalog=MemoryCatalog()))
    assert doomed.waiting[0] > 0
    nights.pass_days(8)

    late = _HidingOnce(nights.kit.store, hidden)
    told = nights.prune(vault=replace(fresh, store=late, catalog=MemoryCatalog()))

    assert told.deleted == (0, 0)
    assert nights.objects() == before
    nights.require_whole()


def test_an_empty_listing_removes_nothing(nights: Nights) -> None:
    due(nights)
    before = nights.kit.objects()

    told = nights.prune(HidingStore(nights.kit.store, lambda name: name.startswith("points/")))

    assert told.refusal
    assert nights.kit.objects() == before


@pytest.mark.parametrize("prefix", [names.VOLUMES, names.META, names.LISTS])
def test_a_listing_that_lacks_objects_in_use_removes_no_object(nights: Nights, prefix: str) -> None:
    due(nights)
    before = nights.objects()

    told = nights.prune(HidingStore(nights.kit.store, lambda name: name.startswith(prefix)))

    assert told.doubt
    assert told.deleted == (0, 0)
    assert nights.objects() == before
    nights.settle()
    nights.require_whole()
    nights.require_settled()


def test_a_listing_with_duplicates_is_as_good_as_one_without(nights: Nights) -> None:
    due(nights)
    expected = nights.prune(is_rehearsal=True)

    done = nights.prune(_Doubling(nights.kit.store))

    assert done.deleted == expected.deleted
    assert len(done.judged) == len(expected.judged)
    nights.require_whole()


def test_a_manifest_that_cannot_be_read_stops_everything(nights: Nights) -> None:
    due(nights)
    name = middle_manifest(nights)
    nights.kit.replace(name, nights.kit.store.get(name)[:-1] + b"x!")
    before = nights.kit.objects()

    told = nights.prune()

    assert "not to be trusted" in told.refusal[0]
    assert nights.kit.objects() == before


def test_forged_manifests_expire_nothing(nights: Nights) -> None:
    points = nights.nights(3)
    stranger = PaperSealer(host="stranger", holds="stranger")
    held = nights.kit.inventory().held[-1]
    for number in range(10):
        name = held.manifest.name.replace(held.point.point, f"{number:016x}")
        nights.kit.store.put(name, stranger.sign(b"forged"))

    told = nights.prune()

    assert told.refusal
    assert told.removed == ()
    nights.kit.store.delete(
        [name for name in nights.kit.objects(names.POINTS) if "-00000000" in name]
    )
    assert nights.there() == points


def test_a_forged_record_of_a_prune_excuses_no_point_that_is_gone(nights: Nights) -> None:
    nights.nights(4)
    stranger = PaperSealer(host="stranger", holds="stranger")
    nights.prune()
    record = next(iter(nights.kit.objects(names.PRUNES)))
    content = nights.kit.store.get(record)[72:]
    nights.kit.replace(record, stranger.sign(content))

    problems = [str(each) for each in nights.kit.inventory().problems]

    assert any("which the settings do not trust" in each for each in problems)
    assert any("is gone" in each for each in problems)


def test_a_point_that_somebody_deleted_stops_prunes_until_it_is_accepted(nights: Nights) -> None:
    points = nights.nights(3)
    nights.kit.store.delete([sorted(nights.kit.objects(names.POINTS))[1]])
    assert nights.prune().refusal
    vault, options = nights.kit.host(), nights.options()
    with pytest.raises(NoRestorePointError):
        accept_gone(vault, [points[0].point], options)

    accepted = accept_gone(vault, [points[1].point], options)

    assert accepted == (points[1].point,)
    assert nights.prune().refusal == ()
    assert nights.there() == [points[0], points[2]]


def test_a_backup_beside_a_prune_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backup comes whole between any two calls of a prune, with and without a grace."""
    for grace in (GRACE, timedelta(0)):
        number = 0
        while True:
            nights = Nights(tmp_path / f"{grace.days}-{number}", monkeypatch)
            due(nights)
            store = BeforeCall(
                nights.kit.store,
                _nth_call(number),
                nights.night,
            )
            nights.prune(store, grace=grace)
            came = store._what is None
            nights.require_restorable()
            if not came:
                break
            number += 5
        assert number > 20


def test_a_prune_beside_a_backup_takes_nothing_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prune comes whole between any two writes of a backup, and does all that is due."""
    for number in range(8):
        nights = Nights(tmp_path / str(number), monkeypatch)
        due(nights)
        store = BeforeCall(
            nights.kit.store,
            _nth_call(number, ("put",)),
            partial(nights.prune, grace=timedelta(0)),
        )

        point = nights.night(store)

        assert point in nights.there()
        nights.require_restorable()


def test_two_prunes_at_once_do_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 0
    while True:
        nights = Nights(tmp_path / str(number), monkeypatch)
        due(nights)
        other = replace(
            nights.kit.host(), catalog=MemoryCatalog(), state=tmp_path / f"{number} other host"
        )
        store = BeforeCall(
            nights.kit.store,
            _nth_call(number),
            partial(nights.prune, vault=other),
        )
        nights.prune(store)
        came = store._what is None
        assert len(nights.there()) == 3
        nights.settle()
        nights.require_restorable()
        nights.require_settled()
        if not came:
            break
        number += 5
    assert number > 20


def killed_run(nights: Nights) -> set[str]:
    """Let a backup be killed before its manifest, and return the volumes that it left."""
    before = nights.objects()
    nights.pass_days(1)
    nights.change()
    with pytest.raises(PowerCut):
        nights.kit.night(
            nights.source, CrashingStore(nights.kit.store, writes_before_crash=5, when="after")
        )
    left = nights.objects() - before
    assert len(left) > 2
    return left


def test_what_a_dead_run_left_is_counted_kept_for_its_next_run_and_removed_later(
    nights: Nights,
) -> None:
    nights.nights(2)
    left = killed_run(nights)

    assert nights.prune(grace=timedelta(0)).orphans[0] == len(left)
    nights.pass_days(25)
    assert nights.prune().orphans[0] == len(left)
    assert left <= nights.objects()
    nights.pass_days(6)
    assert nights.prune().waiting[0] == len(left)
    assert left <= nights.objects()
    deleted = []
    for _ in range(8):  # every night: none begins the grace anew
        nights.pass_days(1)
        deleted.append(nights.prune().deleted[0])
    assert deleted == [0, 0, 0, 0, 0, 0, len(left), 0]
    nights.require_whole()
    nights.require_settled()


@pytest.mark.parametrize("days", [10, 31 + 1])
def test_a_run_that_resumes_what_a_prune_has_doomed_does_without_it(
    nights: Nights, days: int
) -> None:
    nights.nights(2)
    left = killed_run(nights)
    nights.pass_days(days)
    nights.prune()

    point = nights.kit.night(nights.source).point

    nights.pass_days(8)
    nights.prune()
    is_doomed = days > 30
    volumes = {name for name in left if name.startswith(names.VOLUMES)}
    assert point in nights.there()
    assert volumes.isdisjoint(nights.objects()) == is_doomed
    nights.require_whole()


def test_a_run_whose_volumes_are_doomed_while_it_works_is_not_committed(nights: Nights) -> None:
    nights.nights(2)
    killed_run(nights)
    nights.pass_days(32)
    store = BeforeCall(
        nights.kit.store,
        lambda verb, name: verb == "put" and name.startswith(names.META),
        nights.prune,
    )

    with pytest.raises(StoreUnavailableError, match="a prune is about to remove"):
        nights.kit.night(nights.source, store)

    nights.kit.night(nights.source)
    nights.pass_days(8)
    nights.prune()
    nights.require_whole()


def test_a_record_that_cannot_be_read_costs_a_backup_what_it_could_resume(nights: Nights) -> None:
    nights.nights(2)
    left = killed_run(nights)
    nights.kit.store.put(names.prune_record(nights.now, "0" * 16), b"no message")

    point = nights.kit.night(nights.source).point

    lists = [nights.kit.store.get(each.name).decode() for each in point.lists]
    volumes = [name.rpartition("/")[2][:-4] for name in left if name.startswith(names.VOLUMES)]
    assert volumes
    assert not any(volume in each for volume in volumes for each in lists)
    assert any("not to be trusted" in each for each in nights.kit.events.warnings)


def test_a_list_that_is_doomed_is_written_again_under_another_name(nights: Nights) -> None:
    """A killed run left a list; its next run needs one of the very same volumes."""
    nights.nights(2)
    before = nights.objects()
    nights.pass_days(1)
    nights.change()
    with pytest.raises(PowerCut):
        nights.kit.night(nights.source, _Without(nights.kit.store, names.POINTS))
    left = {name for name in nights.objects() - before if name.startswith(names.LISTS)}
    assert left
    record = PruneRecord("0" * 16, nights.now, "a", "b", GRACE, (), tuple(left))
    notes.put_prune(nights.kit.host(), record)

    point = nights.kit.night(nights.source).point

    used = {each.name for each in point.lists}
    assert used.isdisjoint(left)
    nights.pass_days(8)
    nights.prune()
    assert left.isdisjoint(nights.objects())
    nights.require_whole()
    after = nights.night()
    assert used & {each.name for each in after.lists}
    nights.require_whole()


def test_a_clock_of_the_host_that_jumps_ahead_deletes_nothing_early(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.nights(6)
    nights.prune()
    before = nights.objects()
    true = nights.now

    def listed(prefix: str = "") -> Iterator[StoredObject]:
        for found in type(nights.kit.store).names(nights.kit.store, prefix):
            at = found.stored_at
            yield replace(found, stored_at=min(at, true) if at else None)

    monkeypatch.setattr(nights.kit.store, "names", listed)
    nights.pass_days(400)

    told = nights.prune()

    assert told.deleted == (0, 0)
    assert nights.objects() == before
    nights.require_whole()


def test_a_clock_of_the_store_that_jumps_ahead_deletes_nothing_early(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.nights(6)
    nights.prune()
    nights.night()
    before = nights.objects()
    true = nights.now

    def listed(prefix: str = "") -> Iterator[StoredObject]:
        for found in type(nights.kit.store).names(nights.kit.store, prefix):
            at = found.stored_at
            is_late = at is not None and at > true
            yield replace(found, stored_at=at + timedelta(days=400)) if at and is_late else found

    monkeypatch.setattr(nights.kit.store, "names", listed)
    nights.pass_days(1)

    told = nights.prune()

    assert len(told.removed) == 1  # so that there is a record by the store's new time
    assert told.deleted == (0, 0)
    assert nights.objects() == before
    nights.require_whole()


def test_a_held_point_outlives_all_rules_until_it_is_let_go(nights: Nights) -> None:
    points = nights.nights(2)
    held = nights.kit.inventory().held[0]
    hold(nights.kit.host(), held, reason="lawsuit", host="a")

    nights.nights(6)
    nights.prune()

    assert points[0] in nights.there()
    nights.settle()
    nights.require_whole()
    release(nights.kit.host(), held, host="b")
    with pytest.raises(ConfigError):
        release(nights.kit.host(), held, host="b")
    nights.prune()
    assert points[0] not in nights.there()
    nights.settle()
    nights.require_settled()


def test_a_hold_beside_a_prune_either_counts_or_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = set()
    for number in range(40):
        nights = Nights(tmp_path / str(number), monkeypatch)
        points = nights.nights(6)
        held = nights.kit.inventory().held[0]
        failed: list[NoRestorePointError] = []

        def try_to_hold(
            nights: Nights = nights, failed: list[NoRestorePointError] = failed, held: Held = held
        ) -> None:
            try:
                hold(nights.kit.host(), held, reason="", host="a")
            except NoRestorePointError as error:
                failed.append(error)

        store = BeforeCall(
            nights.kit.store,
            _nth_call(number),
            try_to_hold,
        )
        nights.prune(store)
        if store._what is not None:
            break
        is_there = points[0] in nights.there()
        assert is_there or failed
        outcomes.add((is_there, bool(failed)))
    assert {(True, False), (False, True)} <= outcomes


def test_a_hold_that_somebody_deleted_stops_prunes(nights: Nights) -> None:
    nights.nights(2)
    hold(nights.kit.host(), nights.kit.inventory().held[0], reason="", host="a")
    nights.prune()
    nights.nights(6)
    nights.kit.store.delete(list(nights.kit.objects(names.HOLDS)))

    told = nights.prune()

    assert "is gone" in told.refusal[0]
    assert told.removed == ()


def test_a_damaged_newest_point_does_not_let_the_last_whole_one_expire(nights: Nights) -> None:
    points = nights.nights(3)
    own = [names.map_of("web01", point.point) for point in points[-1:]]
    nights.kit.store.delete(own)
    nights.rules = {"web01": nights.rules_of(last=1)}

    told = nights.prune()

    stays = {each.held.point.point for each in told.judged if each.verdict.stays}
    assert stays == {points[1].point, points[2].point}
    assert told.doubt


def test_points_of_a_source_that_no_policy_names_stay(nights: Nights) -> None:
    nights.nights(6)
    nights.rules = {}

    told = nights.prune()

    assert told.removed == ()
    assert {each.verdict.reasons for each in told.judged} == {("no policy here has its source",)}


def test_verify_finds_a_hold_that_nobody_trusted_signed(nights: Nights) -> None:
    nights.nights(1)
    stranger = PaperSealer(host="stranger", holds="stranger")
    nights.kit.store.put(names.hold("0" * 16, "1" * 16), stranger.sign(b"{}"))

    findings = nights.kit.verify(Level.DATA, nights.kit.host()).findings

    assert len(findings) == 1
    assert "which the settings do not trust" in findings[0].message
    assert notes.held_points(notes.holds(nights.kit.host())) == {}
