# SPDX-License-Identifier: Apache-2.0
"""Many ranges in little memory: never less than what was added."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.adapters.sources.thin_ranges import Ranges
from snapvault.model.ranges import is_well_formed, subtract

steps = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 5)), max_size=60)


def ranges_of(steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    at = 0
    for gap, length in steps:
        found.append((at + gap, at + gap + length))
        at += gap + length
    return found


@given(steps, st.integers(1, 10))
def test_a_list_covers_all_that_was_added_in_no_more_than_its_places(
    steps: list[tuple[int, int]], most: int
) -> None:
    added = ranges_of(steps)
    ranges = Ranges(most=most)

    for start, end in added:
        ranges.add(start, end)

    assert len(ranges) <= most
    assert is_well_formed(ranges, 10**9)
    assert list(subtract(added, ranges)) == []
    assert not added or (ranges[0][0], ranges[-1][1]) == (added[0][0], added[-1][1])


@given(steps)
def test_with_room_for_all_only_ranges_that_meet_become_one(steps: list[tuple[int, int]]) -> None:
    added = ranges_of(steps)
    ranges = Ranges(most=100)

    for start, end in added:
        ranges.add(start, end)

    assert list(subtract(ranges, added)) == list(subtract(added, ranges)) == []
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(ranges))


def test_the_shortest_gaps_are_given_up_first() -> None:
    ranges = Ranges(most=2)

    for start in (0, 100, 103, 500):
        ranges.add(start, start + 1)

    assert list(ranges) == [(0, 104), (500, 501)]


@pytest.mark.parametrize("added", [(5, 5), (7, 6), (2, 4)])
def test_what_does_not_come_in_order_is_refused(added: tuple[int, int]) -> None:
    ranges = Ranges()
    ranges.add(0, 3)

    with pytest.raises(ValueError, match="not a range to add"):
        ranges.add(*added)
