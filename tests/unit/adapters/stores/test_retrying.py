# SPDX-License-Identifier: Apache-2.0
"""The retrying store, on a clock that only its own sleeping moves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from snapvault.adapters.stores.memory import MemoryStore
from snapvault.adapters.stores.retrying import Patience, RetryingStore, StoreBusyError
from snapvault.errors import (
    IntegrityError,
    ObjectMissingError,
    StoreDeniedError,
    StoreUnavailableError,
)
from snapvault.ports.store import Readable, Store, StoredObject
from snapvault.ports.throttle import GivenUp
from tests.support.stores import FailingStore, ForwardingStore, RecordingStore

PATIENCE = Patience(first_wait=1.0, longest_wait=8.0, total=60.0, first_contact=3.0)


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.seconds += seconds

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def retrying(
    inner: Store, clock: Clock, uniform: Callable[[float, float], float] = lambda low, high: high
) -> RetryingStore:
    return RetryingStore(
        inner, patience=PATIENCE, sleep=clock.sleep, monotonic=clock.monotonic, uniform=uniform
    )


def busy() -> BaseException:
    return StoreBusyError("slow down")


def unavailable() -> BaseException:
    return StoreUnavailableError("no answer")


def test_a_call_that_fails_for_a_while_succeeds(clock: Clock) -> None:
    store = retrying(FailingStore(MemoryStore(), busy, verbs=["put"], times=3), clock)

    store.put("x", b"sealed")

    assert store.get("x") == b"sealed"
    assert clock.sleeps == [1.0, 2.0, 4.0]


def test_waits_are_random_up_to_a_limit_that_doubles_and_is_capped(clock: Clock) -> None:
    limits: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        limits.append((low, high))
        return high / 2

    store = retrying(FailingStore(MemoryStore(), busy, times=6), clock, uniform)

    store.put("x", b"sealed")

    assert limits == [(0.0, 1.0), (0.0, 2.0), (0.0, 4.0), (0.0, 8.0), (0.0, 8.0), (0.0, 8.0)]
    assert clock.sleeps == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_patience_ends_with_the_last_error(clock: Clock) -> None:
    store = retrying(FailingStore(MemoryStore(), busy), clock)

    with pytest.raises(StoreBusyError, match="slow down"):
        store.put("x", b"sealed")

    assert 50.0 < clock.seconds <= 60.0


def test_a_store_that_never_answered_is_given_up_within_seconds(clock: Clock) -> None:
    store = retrying(FailingStore(MemoryStore(), unavailable), clock)

    with pytest.raises(StoreUnavailableError):
        store.get("x")

    assert clock.seconds <= 3.0


def test_a_store_that_answered_once_has_the_whole_patience(clock: Clock) -> None:
    store = retrying(FailingStore(MemoryStore(), unavailable, after=1), clock)
    with pytest.raises(ObjectMissingError):
        store.get("x")

    with pytest.raises(StoreUnavailableError):
        store.get("x")

    assert clock.seconds > 50.0


@pytest.mark.parametrize(
    "error", [StoreDeniedError("no"), ObjectMissingError("gone"), IntegrityError("other bytes")]
)
def test_denied_missing_and_damaged_are_never_tried_again(
    clock: Clock, error: BaseException
) -> None:
    inner = RecordingStore(FailingStore(MemoryStore(), lambda: error))
    store = retrying(inner, clock)

    with pytest.raises(type(error)):
        store.put("x", b"sealed")

    assert inner.calls == [("put", "x")]
    assert clock.sleeps == []


class _EverySecondRead:
    """Fails on every other read."""

    def __init__(self, inner: Readable, error: Callable[[], BaseException]) -> None:
        self._inner = inner
        self._error = error
        self._reads = 0

    def read(self, size: int, /) -> bytes:
        self._reads += 1
        if self._reads % 2:
            raise self._error()
        return self._inner.read(size)


class _BreakingReads(ForwardingStore):
    """Every second read fails, and may be called again; the error is `error()`."""

    def __init__(self, inner: Store, error: Callable[[], BaseException]) -> None:
        self._inner = inner
        self._error = error

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        with self._inner.open(name) as inner:
            yield _EverySecondRead(inner, self._error)


def test_reads_are_repeated_and_progress_renews_patience(clock: Clock) -> None:
    inner = MemoryStore()
    inner.put("x", bytes(100))
    store = retrying(_BreakingReads(inner, busy), clock)

    with store.open("x") as readable:
        pieces = [readable.read(1) for _ in range(100)]

    assert b"".join(pieces) == bytes(100)
    assert clock.seconds == 100.0


def test_parts_are_repeated(clock: Clock) -> None:
    memory = MemoryStore()
    memory.put("x", b"sealed")
    inner = RecordingStore(FailingStore(memory, busy, verbs=["part"], times=2))

    assert retrying(inner, clock).get_part("x", 2, 3) == b"ale"
    assert inner.called("part") == ["x", "x", "x"]


def test_opening_is_repeated_but_what_the_reader_raises_is_not(clock: Clock) -> None:
    memory = MemoryStore()
    memory.put("x", b"sealed")
    inner = RecordingStore(FailingStore(memory, busy, verbs=["open"], times=2))
    store = retrying(inner, clock)

    with pytest.raises(StoreUnavailableError, match="of the reader"), store.open("x"):
        raise StoreUnavailableError("of the reader")

    assert inner.called("open") == ["x", "x", "x"]


class _BreakingListing(ForwardingStore):
    """The first listing breaks after two names."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self._broken = False

    def names(self, prefix: str = "") -> Iterator[StoredObject]:
        for count, item in enumerate(self._inner.names(prefix)):
            if count == 2 and not self._broken:
                self._broken = True
                raise StoreBusyError("slow down")
            yield item


def test_a_listing_that_breaks_goes_on_without_gap_or_repetition(clock: Clock) -> None:
    inner = MemoryStore()
    for name in ["a", "b", "c", "d"]:
        inner.put(name, b"")
    store = retrying(_BreakingListing(inner), clock)

    assert [item.name for item in store.names()] == ["a", "b", "c", "d"]


def test_a_listing_that_cannot_go_on_raises(clock: Clock) -> None:
    store = retrying(FailingStore(MemoryStore(), unavailable, verbs=["names"]), clock)

    with pytest.raises(StoreUnavailableError):
        list(store.names())


def test_what_was_given_up_is_not_tried_again(clock: Clock) -> None:
    inner = RecordingStore(FailingStore(MemoryStore(), GivenUp, verbs=["put"]))

    with pytest.raises(GivenUp):
        retrying(inner, clock).put("x", b"sealed")

    assert inner.called("put") == ["x"]
    assert clock.sleeps == []
