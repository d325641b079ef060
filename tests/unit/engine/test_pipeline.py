# SPDX-License-Identifier: Apache-2.0
"""Threads that work together: in order, bounded, and never waiting for somebody who gave up."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from snapvault.engine.pipeline import Broken, Crew, Handoff, ordered

PATIENCE = 60  # seconds until a test that hangs fails


class FaultError(Exception):
    """What goes wrong here."""


class Cut(BaseException):
    """What no handler swallows."""


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def within_patience(work: Callable[[], object]) -> object:
    """Run work on a thread of its own and return what it returned or raised; fail if it hangs."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - what it raised is the outcome
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert outcome, "it hangs"
    return outcome[0]


def test_ordered_keeps_the_order_whoever_is_ready_first(pool: ThreadPoolExecutor) -> None:
    second_done = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            second_done.wait(PATIENCE)
        if item == 1:
            second_done.set()
        return item * 10

    results = list(ordered(work, range(5), ahead=3, pool=pool))

    assert results == [0, 10, 20, 30, 40]


def test_ordered_takes_no_more_items_than_it_may(pool: ThreadPoolExecutor) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    results = ordered(str, items(), ahead=3, pool=pool)

    for done in range(8):
        assert next(results) == str(done)
        # One more has been looked at, and waits outside the pool.
        assert len(taken) <= done + 4


@pytest.mark.parametrize("error", [FaultError("no"), Cut("no")])
def test_ordered_raises_a_failure_in_its_place(
    pool: ThreadPoolExecutor, error: BaseException
) -> None:
    def work(item: int) -> int:
        if item == 2:
            raise error
        return item

    results = ordered(work, range(9), ahead=3, pool=pool)

    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(type(error)):
        next(results)


def test_ordered_passes_on_what_its_items_raise(pool: ThreadPoolExecutor) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise FaultError

    with pytest.raises(FaultError):
        list(ordered(str, items(), ahead=3, pool=pool))


def test_leaving_ordered_early_waits_for_what_runs(pool: ThreadPoolExecutor) -> None:
    finished: list[int] = []

    def work(item: int) -> int:
        finished.append(item)
        return item

    results = ordered(work, range(9), ahead=3, pool=pool)
    next(results)
    results.close()  # type: ignore[attr-defined]  # a generator

    count = len(finished)
    pool.shutdown(wait=True)
    assert len(finished) == count


def test_a_handoff_passes_items_on_until_it_is_closed() -> None:
    handoff: Handoff[int] = Handoff(room=2)

    def produce() -> None:
        for number in range(50):
            handoff.put(number)
        handoff.close()

    producer = threading.Thread(target=produce, daemon=True)
    producer.start()

    assert within_patience(lambda: list(handoff)) == list(range(50))


def test_a_handoff_holds_no_more_than_its_room() -> None:
    handoff: Handoff[int] = Handoff(room=2)
    put: list[int] = []

    def produce() -> None:
        for number in range(9):
            handoff.put(number)
            put.append(number)
        handoff.close()

    producer = threading.Thread(target=produce, daemon=True)
    producer.start()
    items = iter(handoff)

    first = next(items)

    assert first == 0
    assert len(put) <= 4
    assert list(items) == list(range(1, 9))


def test_a_producer_that_waits_hears_that_the_consumer_gave_up() -> None:
    handoff: Handoff[int] = Handoff(room=1)
    handoff.put(1)
    waker = threading.Timer(0.02, handoff.give_up)
    waker.start()

    outcome = within_patience(lambda: handoff.put(2))

    waker.join()
    assert isinstance(outcome, Broken)


def test_a_consumer_that_waits_hears_that_the_producer_gave_up() -> None:
    handoff: Handoff[int] = Handoff(room=1)
    waker = threading.Timer(0.02, handoff.give_up)
    waker.start()

    outcome = within_patience(lambda: list(handoff))

    waker.join()
    assert isinstance(outcome, Broken)


def test_a_crew_returns_results_in_the_order_of_the_tasks() -> None:
    crew: Crew[int] = Crew(3, "test")
    gate = threading.Event()

    def slow() -> int:
        gate.wait(PATIENCE)
        return 0

    def quick() -> int:
        gate.set()
        return 1

    crew.start(slow)
    crew.start(quick)

    assert within_patience(crew.finish) == [0, 1]


@pytest.mark.parametrize("error", [FaultError("no"), Cut("no")])
def test_a_crew_raises_the_first_failure(error: BaseException) -> None:
    crew: Crew[int] = Crew(1, "test")

    def fail() -> int:
        raise error

    def many() -> object:
        for _ in range(3):
            crew.start(fail)
        return crew.finish()

    outcome = within_patience(many)

    within_patience(crew.close)
    assert outcome is error


def test_a_crew_that_is_closed_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    crew: Crew[int] = Crew(3, "test")
    for number in range(3):
        crew.start(lambda number=number: number)  # type: ignore[misc]  # bound early

    crew.close()

    assert set(threading.enumerate()) <= before
