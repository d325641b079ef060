# SPDX-License-Identifier: Apache-2.0
"""Every moment of a drill's step belongs to one phase."""

import math

import pytest

from snapvault import clock
from snapvault.adapters.stores.memory import MemoryStore
from snapvault.engine.drill_clock import Meters, PhaseClock
from snapvault.engine.drill_meters import MeasuredSealer, MeasuredTarget, ReadOnlyStore
from snapvault.errors import StoreDeniedError
from snapvault.model.drills import Phase
from snapvault.ports.sealer import Readers
from tests.support.sealers import PaperSealer
from tests.support.targets import MemoryTarget


class Hands:
    """A clock whose hands are moved by the test."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    moved = Hands()
    monkeypatch.setattr(clock, "monotonic", moved)
    return moved


def test_an_inner_phase_takes_its_time_from_the_outer_one(hands: Hands) -> None:
    told: list[Phase] = []
    phases = PhaseClock(told.append)
    hands.now += 1
    with phases.at(Phase.LOCATE):
        hands.now += 2
        with phases.at(Phase.VERIFY):
            hands.now += 4
        hands.now += 8

    found = phases.phases()

    assert found == {Phase.LOCATE: 10.0, Phase.VERIFY: 4.0, Phase.REST: 1.0}
    assert told == [Phase.LOCATE, Phase.VERIFY, Phase.LOCATE]
    assert phases.elapsed == math.fsum(found.values())


def test_what_works_side_by_side_shares_the_time_by_its_work(hands: Hands) -> None:
    phases, meters = PhaseClock(), Meters()
    with phases.restoring(meters):
        hands.now += 8
        meters.add(Phase.FETCH, 3.0)
        meters.add(Phase.DECRYPT, 9.0)
        meters.add(Phase.WRITE, 4.0)
        meters.written_at = clock.monotonic()
        hands.now += 2
        meters.proven_at = clock.monotonic()
        hands.now += 1

    found = phases.phases()

    assert found == {
        Phase.FETCH: 1.5,
        Phase.DECRYPT: 4.5,
        Phase.WRITE: 2.0 + 1.0,
        Phase.VERIFY: 2.0,
    }
    assert phases.elapsed == math.fsum(found.values())


def test_a_restore_that_fails_leaves_no_time_out(hands: Hands) -> None:
    phases, meters = PhaseClock(), Meters()

    def restore() -> None:
        with phases.restoring(meters):
            hands.now += 3
            meters.add(Phase.FETCH, 1.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        restore()
    hands.now += 1

    assert phases.phases() == {Phase.FETCH: 3.0, Phase.REST: 1.0}
    assert phases.last is Phase.FETCH


def test_decrypting_is_neither_waiting_for_input_nor_for_the_reader(hands: Hands) -> None:
    meters = Meters()
    sealed = PaperSealer(holds="recovery").seal(b"x" * 100, Readers.RECOVERY)

    class Slow:
        """An object that takes a second to come."""

        def __init__(self) -> None:
            self.rest = sealed

        def read(self, size: int, /) -> bytes:
            hands.now += 1
            piece, self.rest = self.rest[:size], self.rest[size:]
            return piece

    def take(piece: bytes) -> None:
        hands.now += 10

    MeasuredSealer(PaperSealer(holds="recovery"), meters).open_stream(Slow(), take)

    assert hands.now > 110
    assert meters.work()[Phase.DECRYPT] == 0.0


def test_what_is_fetched_and_written_is_measured_and_counted(hands: Hands) -> None:
    meters = Meters()
    inner = MemoryStore()
    inner.put("a", b"12345")
    store = ReadOnlyStore(inner, meters)
    target = MeasuredTarget(MemoryTarget(4), meters)

    with store.open("a") as raw:
        assert raw.read(10) == b"12345"
    assert store.get("a") == b"12345"
    target.write(0, memoryview(b"1234"))
    hands.now += 5
    target.commit()

    assert meters.counters() == {"fetched_objects": 2, "fetched_bytes": 10, "written_bytes": 4}
    assert (meters.written_at, meters.proven_at) == (100.0, 105.0)


def test_a_drill_cannot_change_a_vault() -> None:
    inner = MemoryStore()
    inner.put("a", b"1")
    store = ReadOnlyStore(inner, Meters())

    for change in (
        lambda: store.put("b", b"2"),
        lambda: store.delete(["a"]),
        store.probe,
    ):
        with pytest.raises(StoreDeniedError, match="a drill changes nothing"):
            change()

    assert [found.name for found in store.names()] == ["a"]
