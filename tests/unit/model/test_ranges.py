# SPDX-License-Identifier: Apache-2.0
"""Ranges are sets of bytes, whatever is done to them."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from snapvault.model import ranges
from snapvault.model.ranges import Range

SIZE = 60


def to_ranges(members: set[int]) -> list[Range]:
    """Return a set of bytes as ranges that do not meet."""
    found: list[Range] = []
    for byte in sorted(members):
        if found and found[-1][1] == byte:
            found[-1] = (found[-1][0], byte + 1)
        else:
            found.append((byte, byte + 1))
    return found


def members(of: list[Range]) -> set[int]:
    return {byte for begin, end in of for byte in range(begin, end)}


sets = st.sets(st.integers(0, SIZE - 1))
# Ranges that meet without being merged, too.
some_ranges = st.builds(
    lambda cuts, chosen: [
        (begin, end) for begin, end in itertools.pairwise(cuts) if begin in chosen
    ],
    st.sets(st.integers(0, SIZE)).map(sorted),
    sets,
)


@given(some_ranges, some_ranges)
def test_an_intersection_is_what_both_have(left: list[Range], right: list[Range]) -> None:
    found = list(ranges.intersect(left, right))

    assert members(found) == members(left) & members(right)
    assert ranges.is_well_formed(found, SIZE)


@given(some_ranges, some_ranges)
def test_a_difference_is_what_only_the_first_has(left: list[Range], right: list[Range]) -> None:
    found = list(ranges.subtract(left, right))

    assert members(found) == members(left) - members(right)
    assert ranges.is_well_formed(found, SIZE)


@given(some_ranges, st.integers(1, 9))
def test_aligned_ranges_are_the_blocks_that_are_touched(given_: list[Range], block: int) -> None:
    found = list(ranges.align(given_, block, SIZE))

    touched = {
        byte for byte in range(SIZE) if byte // block in {b // block for b in members(given_)}
    }
    assert found == to_ranges(touched)


@given(some_ranges, st.integers(0, SIZE))
def test_everything_from_a_place_on_can_be_added(given_: list[Range], begin: int) -> None:
    found = list(ranges.from_on(given_, begin, SIZE))

    assert members(found) == members(given_) | set(range(begin, SIZE))
    assert ranges.is_well_formed(found, SIZE)


@given(st.lists(st.tuples(st.integers(-2, SIZE + 2), st.integers(-2, SIZE + 2)), max_size=3))
def test_ranges_are_well_formed_if_they_are_sorted_disjoint_full_and_inside(
    given_: list[Range],
) -> None:
    bounds = [bound for each in given_ for bound in each]

    expected = bounds == sorted(bounds) and all(begin < end for begin, end in given_)
    expected = expected and (not bounds or (bounds[0] >= 0 and bounds[-1] <= SIZE))
    assert ranges.is_well_formed(given_, SIZE) == expected
