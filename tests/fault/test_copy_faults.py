# SPDX-License-Identifier: Apache-2.0
"""Copies of a vault under every fault: what shows is whole, and the next copy finishes the job."""

import hashlib
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Literal

import pytest

from snapvault.adapters.stores.memory import MemoryStore
from snapvault.engine import copy_target, notes
from snapvault.engine.copy_plan import NOTHING, Choice, look_at_target
from snapvault.engine.copying import rehearse
from snapvault.engine.holding import hold, release
from snapvault.engine.prune import accept_gone
from snapvault.engine.vault import sync
from snapvault.errors import ConfigError, StoreError, StoreUnavailableError
from snapvault.formats import names
from snapvault.formats import vault as vault_format
from snapvault.model.notes import KeyChange
from snapvault.model.point import ObjectRecord
from snapvault.ports.sealer import Readers
from snapvault.ports.store import Store
from tests.support.copies import Copy
from tests.support.nights import Nights
from tests.support.sealers import PaperSealer
from tests.support.stores import (
    CrashingStore,
    FailingStore,
    FlippingStore,
    ForwardingStore,
    HidingStore,
    PowerCut,
    RecordingStore,
    Verb,
)


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    return Nights(tmp_path, monkeypatch)


class _BeforeCall(ForwardingStore):
    """Does something once, before the call of that number of the verbs."""

    def __init__(
        self, inner: Store, number: int, what: Callable[[], object], verbs: tuple[Verb, ...]
    ) -> None:
        self._inner = inner
        self._number = number
        self._what = what
        self._verbs = verbs
        self._calls = count()

    def _gate(self, verb: Verb, name: str) -> None:
        if verb in self._verbs and next(self._calls) == self._number:
            self._what()


def test_a_copy_restores_and_verifies_without_the_first_vault(nights: Nights) -> None:
    points = nights.nights(4)
    copy = Copy(nights)

    told = copy.copy()
    nights.kit.store.delete(list(nights.kit.objects()))

    assert [each.point for each in told.points] == points == copy.there()
    assert (told.problems, told.left_out) == ([], [])
    assert (
        told.objects
        == len(
            [
                name
                for name in copy.objects()
                if name.partition("/")[0] in {"points", "meta", "lists", "volumes"}
            ]
        )
        + 1
    )  # the hash key
    copy.require_restorable()
    assert copy.findings() == ()
    assert {"restore.py", "restore.py.gpg", "RESTORE.md", "vault.json"} <= copy.objects().keys()


def test_a_second_copy_sends_only_what_is_missing_with_a_listing_a_side(nights: Nights) -> None:
    nights.nights(5)
    copy = Copy(nights)
    copy.copy()
    (point,) = nights.nights(1)
    source, target = RecordingStore(nights.kit.store), RecordingStore(copy.store)

    told = copy.copy(source=source, target=target)

    own = {name for name in nights.kit.objects() if point.point in name}
    assert own <= set(target.called("put"))
    assert len(target.called("put")) == told.objects < 12
    assert source.called("stat") == target.called("stat") == []
    assert sorted(set(source.called("get", "open"))) == sorted(target.called("put"))
    assert sorted(name.partition("/")[0] for name in target.called("names")).count("volumes") == 1
    assert copy.copy(target=RecordingStore(copy.store)).objects == 0


def test_a_rehearsal_tells_what_a_copy_does_and_writes_nothing(nights: Nights) -> None:
    nights.nights(3)
    copy = Copy(nights)

    first = rehearse(nights.kit.host(), NOTHING, Choice())
    assert copy.objects() == {}
    done = copy.copy()
    nights.night()
    told = rehearse(nights.kit.host(), look_at_target(copy.host()), Choice())
    second = copy.copy()

    assert (first.points, first.objects, first.bytes) == (done.points, done.objects, done.bytes)
    assert (told.points, told.objects, told.bytes) == (second.points, second.objects, second.bytes)
    assert told.there == 3


def writes_of_a_copy(nights: Nights) -> int:
    copy = Copy(nights)
    store = RecordingStore(copy.store)
    copy.copy(target=store)
    return len(store.called("put"))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_copy_killed_at_any_write_shows_nothing_half_and_the_next_goes_on(
    nights: Nights, when: Literal["before", "after"]
) -> None:
    points = nights.nights(3)
    writes = writes_of_a_copy(nights)
    assert writes > 20

    # The first, the last with all manifests, and some of the objects between.
    for number in (*range(1, 6), *range(6, writes - 4, 7), *range(writes - 4, writes)):
        copy = Copy(nights)
        with pytest.raises(PowerCut):
            copy.copy(target=CrashingStore(copy.store, writes_before_crash=number, when=when))

        if copy.there():
            assert copy.there() == points[: len(copy.there())]
            copy.require_restorable()
        before = copy.objects()
        copy.copy()
        assert copy.there() == points
        assert before.items() <= copy.objects().items()
        copy.require_restorable()


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_store_that_fails_fails_the_copy_and_harms_nothing(nights: Nights, side: str) -> None:
    points = nights.nights(2)
    copy = Copy(nights)
    copy.copy(Choice(points={points[0].point}))
    source, target = RecordingStore(nights.kit.store), RecordingStore(copy.store)
    copy.copy(source=source, target=target)
    calls = len((source if side == "source" else target).calls)
    assert calls > 10
    for after in range(0, calls, 4):
        copy = Copy(nights)
        copy.copy(Choice(points={points[0].point}))
        inner = nights.kit.store if side == "source" else copy.store
        failing = FailingStore(
            inner, lambda: StoreUnavailableError("the store is away"), after=after
        )
        with pytest.raises(StoreError):
            copy.copy(
                source=failing if side == "source" else None,
                target=failing if side == "target" else None,
            )
        copy.require_restorable()
        copy.copy()
        assert copy.there() == points


@pytest.mark.parametrize("prefix", [names.VOLUMES, names.META, names.LISTS])
@pytest.mark.parametrize("fault", ["damaged", "missing"])
def test_damage_does_not_travel_and_the_rest_does(nights: Nights, prefix: str, fault: str) -> None:
    first = nights.nights(1)
    only_old = {name for name in nights.objects() if name.startswith(prefix)}
    rest = nights.nights(6)
    needed: dict[str, set[str]] = {}
    for point in (*first, *rest):
        one = Copy(nights)
        one.copy(Choice(points={point.point}))
        needed[point.point] = set(one.objects())
    (name, *_) = sorted(only_old, key=lambda name: sum(name in each for each in needed.values()))
    hurt = {point for point, objects in needed.items() if name in objects}
    nights.kit.lose_state()
    store: Store = (
        FlippingStore(nights.kit.store, name, bit=99)
        if fault == "damaged"
        else HidingStore(nights.kit.store, lambda each: each == name)
    )
    copy = Copy(nights)

    told = copy.copy(source=store)

    assert {each.held.point.point for each in told.left_out} == hurt
    assert all(name in each.reason and each.is_damaged for each in told.left_out)
    assert {each.point for each in copy.there()} == needed.keys() - hurt
    assert name not in copy.objects()
    copy.require_restorable()
    copy.copy()
    assert {each.point for each in copy.there()} == needed.keys()
    copy.require_restorable()


def test_what_expired_in_the_vault_is_not_missing_in_the_copy_and_stays_where_it_is(
    nights: Nights,
) -> None:
    points = nights.nights(2)
    copy = Copy(nights)
    copy.copy()
    points += nights.nights(5)
    nights.prune()
    assert len(nights.there()) == 3

    told = copy.copy()

    assert (told.problems, told.left_out) == ([], [])
    assert copy.there() == [*points[:2], *points[4:]]
    copy.require_restorable()
    assert copy.prune(last=1).refusal == ()
    assert copy.there() == points[-1:]


def test_what_the_copy_pruned_is_not_copied_again(nights: Nights) -> None:
    points = nights.nights(4)
    copy = Copy(nights)
    copy.copy()
    copy.prune(last=2)
    nights.pass_days(8)
    copy.prune(last=2)
    points += nights.nights(1)

    told = copy.copy()

    assert [each.point for each in told.points] == points[4:]
    assert told.expired == 2
    assert copy.there() == points[2:]
    copy.require_restorable()
    copy.prune(last=2)
    nights.pass_days(8)
    assert copy.prune(last=2).deleted[0] > 0
    copy.require_restorable()


def test_a_point_that_vanished_in_the_vault_is_told_and_stays_in_the_copy(nights: Nights) -> None:
    points = nights.nights(3)
    copy = Copy(nights)
    copy.copy()
    nights.kit.store.delete([sorted(nights.kit.objects(names.POINTS))[1]])
    nights.nights(1)

    told = copy.copy()

    assert any(points[1].point in each for each in told.problems)
    assert copy.there()[:3] == points
    assert len(copy.there()) == 4


def test_a_point_that_vanished_before_it_was_copied_alarms_in_the_copy_too(nights: Nights) -> None:
    points = nights.nights(3)
    nights.kit.store.delete([sorted(nights.kit.objects(names.POINTS))[1]])
    copy = Copy(nights)

    copy.copy()

    assert points[1].point in str(copy.inventory().problems[0])


def test_a_point_that_somebody_deleted_in_the_copy_is_copied_again(nights: Nights) -> None:
    points = nights.nights(3)
    copy = Copy(nights)
    copy.copy()
    volume = next(name for name in copy.objects() if name.startswith(names.VOLUMES))
    copy.store.delete([sorted(name for name in copy.objects() if name.startswith("points/"))[1]])
    copy.store.delete([volume])

    told = copy.copy()

    assert [each.point for each in told.points] == points[1:2]
    assert told.problems == []
    assert copy.there() == points
    copy.require_restorable()


def test_a_point_seen_in_the_copy_and_deleted_there_alarms_though_it_expired_in_the_vault(
    nights: Nights,
) -> None:
    points = nights.nights(5)
    copy = Copy(nights)
    copy.copy()
    nights.prune()
    copy.store.delete([min(name for name in copy.objects() if name.startswith("points/"))])

    told = copy.copy()

    assert any(points[0].point in each and "is gone" in each for each in told.problems)
    accept_gone(copy.host(), [points[0].point], nights.options())
    assert copy.copy().problems == []


def test_nothing_that_the_copy_has_is_replaced(nights: Nights) -> None:
    points = nights.nights(2)
    copy = Copy(nights)
    copy.copy(Choice(points={points[0].point}))
    record = points[1].objects[-1]
    copy.store.put(record.name, b"something else")

    told = copy.copy()

    assert [each.held.point for each in told.left_out] == points[1:]
    assert copy.store.get(record.name) == b"something else"
    assert copy.there() == points[:1]


def test_points_are_copied_alone_and_what_they_follow_is_no_alarm(nights: Nights) -> None:
    points = nights.nights(4)
    copy = Copy(nights)

    copy.copy(Choice(points={points[2].point}))

    assert copy.there() == [points[2]]
    copy.require_restorable()
    copy.copy()
    assert copy.there() == points
    held = next(each for each in sync(copy.host()).held if each.point == points[1])
    hold(copy.host(), held, reason="", host="here")  # that it was absent once is no reason


def test_holds_and_their_ends_travel_and_come_before_the_points(nights: Nights) -> None:
    nights.nights(2)
    vault = nights.kit.host()
    held = sync(vault).held
    hold(vault, held[0], reason="audit", host="here")
    hold(vault, held[1], reason="once", host="here")
    release(vault, held[1], host="here")
    copy = Copy(nights)
    recording = RecordingStore(copy.store)

    copy.copy(target=recording)

    assert set(notes.held_points(notes.holds(copy.host()))) == {held[0].point.point}
    kinds = [name.partition("/")[0] for name in recording.called("put")]
    assert kinds.index("points") > max(at for at, kind in enumerate(kinds) if kind == "holds")
    nights.nights(3)
    copy.copy()
    copy.prune(last=1)
    assert copy.there()[0].point == held[0].point.point


def test_changes_of_keys_travel_with_the_keys_that_they_name(nights: Nights) -> None:
    nights.nights(1)
    vault = nights.kit.host()
    data = vault.sealer.seal(bytes(32), Readers.RECOVERY_AND_HOST)
    name = names.hash_key(vault.sealer.signer).replace(".hash", "-" + "1" * 16 + ".hash")
    vault.store.put(name, data)
    key = ObjectRecord(name, len(data), hashlib.sha256(data).hexdigest())
    change = KeyChange(
        "1" * 16, nights.now, "host", "tool", vault.sealer.signer, vault.sealer.recipients, key, ()
    )
    notes.put_key_change(vault, change, vault.sealer.sign)
    copy = Copy(nights)

    assert copy.copy().problems == []

    assert [each.note for each in notes.key_changes(copy.host()).noted] == [change]
    assert copy.store.get(name) == data


def test_forged_holds_and_a_forged_script_do_not_travel(nights: Nights) -> None:
    nights.nights(1)
    stranger = PaperSealer(host="stranger", holds="stranger")
    forged = names.hold("1" * 16, "2" * 16)
    nights.kit.store.put(forged, stranger.sign(b"{}"))
    nights.kit.replace(names.EMERGENCY_SIGNED, stranger.sign(b"evil"))
    nights.kit.replace(names.EMERGENCY_SCRIPT, b"evil")
    copy = Copy(nights)

    told = copy.copy()

    assert len(told.problems) == 2
    assert forged not in copy.objects()
    assert copy.findings() == ()


def test_another_vault_a_full_store_and_the_vault_itself_are_refused_untouched(
    nights: Nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.nights(1)
    other = Nights(tmp_path / "other", monkeypatch)
    record = other.kit.record
    other.kit.replace(
        names.VAULT, vault_format.encode(type(record)("77" * 16, record.created_at, 512))
    )
    full = MemoryStore()
    full.put("holiday.jpg", b"")
    vault = nights.kit.host()

    for store, told in (
        (other.kit.store, "another vault"),
        (full, "not empty"),
        (nights.kit.store, "one and the same"),
    ):
        recording = RecordingStore(store)
        with pytest.raises(ConfigError, match=told):
            copy_target.find(vault, "second", recording, vault.sealer)
        assert recording.called("put", "delete", "probe") == []
    with pytest.raises(ConfigError, match="does not trust"):
        copy_target.find(vault, "second", MemoryStore(), PaperSealer(host="x", holds="x"))


def test_two_copies_of_one_pair_at_once_make_one(nights: Nights) -> None:
    points = nights.nights(3)
    writes = writes_of_a_copy(nights)
    for number in range(0, writes, 4):
        copy = Copy(nights)
        second = Copy(nights, copy.store)
        second.folder = copy.folder / "other host"

        copy.copy(target=_BeforeCall(copy.store, number, second.copy, ("put",)))

        assert copy.there() == points
        copy.require_restorable()
        assert copy.findings() == ()


def test_a_copy_beside_a_prune_of_the_vault_is_whole(nights: Nights) -> None:
    """The prune comes whole before any call to the vault, once without and once past the grace."""
    nights.nights(6)
    nights.prune()
    nights.pass_days(8)
    nights.nights(2)
    copy = Copy(nights)
    recording = RecordingStore(nights.kit.store)
    copy.copy(source=recording)
    calls = len(recording.calls)
    saved = {name: nights.kit.store.get(name) for name in nights.kit.objects()}
    verbs: tuple[Verb, ...] = ("names", "get", "open")

    for number in range(0, calls, 5):
        for name in nights.kit.objects():
            nights.kit.store.delete([name])
        for name, data in saved.items():
            nights.kit.store.put(name, data)
        nights.kit.lose_state()
        copy = Copy(nights)

        def prune() -> None:
            nights.prune(grace=nights.options().grace * 0)

        told = copy.copy(source=_BeforeCall(nights.kit.store, number, prune, verbs))

        assert (told.problems, told.left_out) == ([], [])
        copy.require_restorable()
        assert copy.findings() == ()


def test_a_prune_of_the_copy_beside_a_copy_takes_nothing_that_is_needed(nights: Nights) -> None:
    """The prune comes whole before any call to the copy, with objects whose grace is over."""
    nights.nights(5)
    base = Copy(nights)
    base.copy()
    base.prune(last=1)
    nights.pass_days(8)
    nights.nights(2)
    saved = {name: base.store.get(name) for name in base.objects()}
    stored = {each.name: each.stored_at for each in base.store.names() if each.stored_at}
    number, total = 0, 1
    while number < total:
        copy = Copy(nights)
        moment = nights.now
        for name, data in saved.items():
            nights.now = stored[name]
            copy.store.put(name, data)
        nights.now = moment

        def prune(copy: Copy = copy) -> None:
            copy.prune(last=1)

        recording = RecordingStore(_BeforeCall(copy.store, number, prune, ("names", "put", "get")))
        told = copy.copy(target=recording)

        assert told.problems == []
        copy.require_restorable()
        assert copy.findings() == ()
        total = len(recording.called("names", "put", "get"))
        number += 3


def test_what_a_prune_of_the_copy_is_about_to_remove_is_not_built_upon(nights: Nights) -> None:
    """A copy that was killed left orphans; a month later they are doomed, and wait for the end."""
    points = nights.nights(2)
    copy = Copy(nights)
    copy.copy(Choice(points={points[0].point}))
    with pytest.raises(PowerCut):
        copy.copy(target=_Cut(copy.store))
    nights.pass_days(31)
    assert copy.prune(last=5).waiting[0] > 0

    told = copy.copy()

    assert [each.held.point for each in told.left_out] == points[1:]
    assert not told.left_out[0].is_damaged
    assert "about to remove" in told.left_out[0].reason
    nights.pass_days(8)
    copy.prune(last=5)
    assert [each.point for each in copy.copy().points] == points[1:]
    copy.prune(last=5)
    assert copy.there() == points
    copy.require_restorable()
    points += nights.nights(1)
    assert copy.copy().left_out == []  # what was doomed once, and is needed now, is no hindrance
    assert copy.there() == points


class _Cut(ForwardingStore):
    """Loses its power before a manifest."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    def _gate(self, verb: Verb, name: str) -> None:
        if verb == "put" and name.startswith(names.POINTS):
            raise PowerCut
