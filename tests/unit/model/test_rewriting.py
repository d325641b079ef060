# SPDX-License-Identifier: Apache-2.0
"""Which volumes' live blocks are stored again."""

from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.model.rewriting import (
    ENOUGH,
    MOST_CREDIT,
    Lifetime,
    VolumeState,
    choose,
    credit_after,
    expected_lifetime,
)

ages = st.integers(0, 400).map(lambda days: timedelta(days=days))


@st.composite
def vaults(draw: st.DrawFn) -> list[VolumeState]:
    sizes = draw(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 500), ages), max_size=20))
    return [
        VolumeState(f"v{number}", max(raw, live), live, live + live % 3, age)
        for number, (raw, live, age) in enumerate(sizes)
    ]


def states(*shares: int, days: int = 100) -> list[VolumeState]:
    """Return volumes of 100 bytes of which so many are live."""
    age = timedelta(days=days)
    return [VolumeState(f"v{n}", 100, live, live, age) for n, live in enumerate(shares)]


def after(volumes: list[VolumeState], chosen: frozenset[str]) -> list[VolumeState]:
    """Return the volumes once the live bytes of some lie in new ones."""
    return [
        replace(each, volume=f"new-{each.volume}", raw=each.live, cost=each.live)
        if each.volume in chosen
        else each
        for each in volumes
    ]


@given(vaults(), st.integers(0, 3000))
def test_what_is_chosen_never_costs_more_than_the_budget(
    volumes: list[VolumeState], budget: int
) -> None:
    chosen = choose(volumes, budget)

    assert sum(each.cost for each in volumes if each.volume in chosen) <= budget


@given(vaults(), st.integers(0, 3000), st.randoms())
def test_the_choice_hangs_on_the_facts_alone(
    volumes: list[VolumeState], budget: int, chance: Random
) -> None:
    shuffled = list(volumes)
    chance.shuffle(shuffled)

    assert choose(shuffled, budget) == choose(volumes, budget)


@given(vaults())
def test_no_budget_stores_nothing_again(volumes: list[VolumeState]) -> None:
    assert choose(volumes, 0) == frozenset()


@given(st.lists(st.integers(1, 500), max_size=20), st.integers(0, 10_000))
def test_a_fresh_dense_vault_is_left_as_it_is(sizes: list[int], budget: int) -> None:
    dense = [VolumeState(f"v{n}", size, size, size, timedelta(0)) for n, size in enumerate(sizes)]

    assert choose(dense, budget) == frozenset()


@given(vaults(), st.integers(0, 3000))
def test_what_is_left_of_a_budget_buys_nothing_more(
    volumes: list[VolumeState], budget: int
) -> None:
    chosen = choose(volumes, budget)
    left = budget - sum(each.cost for each in volumes if each.volume in chosen)

    assert choose(after(volumes, chosen), left) == frozenset()


def test_the_most_dead_volume_comes_first_and_little_waste_is_left_alone() -> None:
    assert choose(states(60, 10, 30), budget=10) == {"v1"}
    assert choose(states(60, 10, 30), budget=40) == {"v1", "v2"}
    assert choose(states(67, 67, 67), budget=1000) == frozenset()
    assert choose(states(66, 66, 66), budget=66) == {"v0"}
    assert ENOUGH == 1.5


def test_a_young_volume_comes_before_an_old_one_that_is_somewhat_emptier() -> None:
    (young,) = states(20, days=34)
    (old,) = states(10, days=35)

    assert choose([young, replace(old, volume="old")], budget=20) == {"v0"}


def test_a_volume_that_is_too_dear_lets_others_pass() -> None:
    assert choose(states(30, 20, days=1)[:1] + states(90, 40, days=100)[1:], budget=40) == {"v0"}
    assert choose([*states(50), *[VolumeState("s", 20, 15, 15, timedelta(0))]], budget=20) == {"s"}


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=30))
def test_nothing_is_ever_stored_again_that_earlier_nights_did_not_pay_for(
    nights: list[tuple[int, int]],
) -> None:
    credit = changed = rewritten = 0
    most = 10**9

    for change, wish in nights:
        spent = min(wish, credit)
        credit = credit_after(credit, share=0.15, changed=change, rewritten=spent, point_bytes=most)
        rewritten += spent
        assert rewritten <= 0.15 * changed
        changed += change


def test_credit_does_not_pile_up() -> None:
    credit = credit_after(0, share=0.15, changed=10**6, rewritten=0, point_bytes=10**6)

    assert credit == MOST_CREDIT * 10**6


@pytest.mark.parametrize(
    ("days", "lifetime"),
    [
        (0, Lifetime.SHORT),
        (6, Lifetime.SHORT),
        (7, Lifetime.MONTH),
        (28, Lifetime.MONTH),
        (29, Lifetime.LONG),
        (None, Lifetime.LONG),
    ],
)
def test_what_was_replaced_soon_is_expected_to_be_replaced_soon(
    days: int | None, lifetime: Lifetime
) -> None:
    assert expected_lifetime(None if days is None else timedelta(days=days)) is lifetime
