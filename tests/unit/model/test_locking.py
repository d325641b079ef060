# SPDX-License-Identifier: Apache-2.0
"""Which locks are renewed, and when: never too late, and never more than once in a period."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from snapvault.model.locking import LockMode, ObjectLock, Stored, renewals

FOR = timedelta(days=30)
START = datetime(2026, 3, 1, tzinfo=UTC)
LOCK = ObjectLock(LockMode.GOVERNANCE, FOR)

ages = st.lists(st.integers(0, 400 * 24), min_size=1, max_size=30)
gaps = st.lists(st.integers(1, 40 * 24), min_size=1, max_size=30)
budgets = st.one_of(st.none(), st.integers(1, 10))


def hours(count: int) -> timedelta:
    return timedelta(hours=count)


def at(days: float) -> datetime:
    return START + timedelta(days=days)


def test_what_is_put_is_locked_for_two_periods() -> None:
    assert LOCK.until(START) == at(60)


def test_an_object_is_due_when_it_is_a_period_old_and_again_a_period_later() -> None:
    volume = [Stored("a", START)]

    found = [
        [
            each.until
            for each in renewals(
                volume, FOR, since=at(day - 1), began=START - FOR, now=at(day)
            ).renewals
        ]
        for day in (29, 30.5, 31.5, 60.5)
    ]

    assert found == [[], [at(90)], [], [at(120)]]


def test_what_came_to_be_needed_again_is_looked_at_at_once() -> None:
    volumes = [Stored("a", START), Stored("b", START)]

    due = renewals(
        volumes,
        FOR,
        since=at(44),
        began=START - FOR,
        now=at(45),
        at_once=frozenset({"b"}),
        budget=0,
    )

    assert [(each.name, each.until) for each in due.renewals] == [("b", at(90))]


@given(stored=ages, passes=gaps, budget=budgets)
def test_what_is_needed_stays_locked_for_a_period_and_is_renewed_once_in_it(
    stored: list[int], passes: list[int], budget: int | None
) -> None:
    objects = [Stored(str(number), START + hours(age)) for number, age in enumerate(stored)]
    locked = {each.name: LOCK.until(each.stored_at) for each in objects}
    asked: Counter[str] = Counter()
    since, now = START - hours(1), START

    for gap in passes:
        now += hours(gap)
        there = [each for each in objects if each.stored_at <= now]
        is_all = False
        while not is_all:  # runs in the same night
            due = renewals(there, FOR, since=since, began=START - hours(1), now=now, budget=budget)
            for renewal in due.renewals:
                assert renewal.until > locked[renewal.name]
                locked[renewal.name] = renewal.until
                asked[renewal.name] += 1
            since, is_all = due.since, due.is_all
        assert all(locked[each.name] > now + FOR for each in there)

    for each in objects:
        assert asked[each.name] <= max(timedelta(0), now - each.stored_at) // FOR


@given(stored=ages, budget=st.integers(1, 5))
def test_a_first_pass_looks_at_everything_once_whatever_its_age(
    stored: list[int], budget: int
) -> None:
    objects = [Stored(str(number), START + hours(age)) for number, age in enumerate(stored)]
    now = START + hours(max(stored))
    asked: Counter[str] = Counter()
    since: datetime | None = None

    for _ in objects:
        due = renewals(objects, FOR, since=since, began=now, now=now, budget=budget)
        asked.update(each.name for each in due.renewals)
        since = due.since
        assert all(each.until > now + FOR for each in due.renewals)

    assert asked == Counter(each.name for each in objects)
