# SPDX-License-Identifier: Apache-2.0
"""Which frames of a volume are needed, and how much of each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.engine.frames import GAP, ROOM, FrameStart, together, wanted_frames
from snapvault.errors import VolumeError
from snapvault.formats.volume import Frame

frames = st.lists(st.builds(Frame, st.integers(1, 300), st.integers(1, 100)), max_size=12)
places = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=8)


def columns(ranges: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and lengths."""
    table = np.array(ranges, dtype=np.uint64).reshape(-1, 2)
    return table[:, 0], table[:, 1] - table[:, 0]


@given(frames, places)
def test_the_starts_of_frames_hold_all_that_is_wanted_and_end_with_it(
    drawn: list[Frame], where: list[tuple[float, float]]
) -> None:
    size = sum(frame.raw for frame in drawn)
    cuts = [sorted(int(place * size) for place in pair) for pair in where]
    ranges = [(begin, end) for begin, end in cuts if begin < end]

    found = wanted_frames(drawn, *columns(ranges))

    wanted = {number for begin, end in ranges for number in range(begin, end)}
    had: set[int] = set()
    for start in found:
        had.update(range(start.raw_begin, start.raw_begin + start.wanted))
        assert start.raw_begin + start.wanted - 1 in wanted
        assert 0 < start.wanted <= start.raw
    assert wanted <= had
    # They are these frames, in order, and lie where those before them end.
    at = raw = 0
    lies = {}
    for frame in drawn:
        lies[raw] = (at, frame.stored, frame.raw)
        at, raw = at + frame.stored, raw + frame.raw
    assert [start.raw_begin for start in found] == sorted({start.raw_begin for start in found})
    assert all(lies[each.raw_begin] == (each.begin, each.stored, each.raw) for each in found)


def test_a_range_beyond_the_end_is_refused() -> None:
    with pytest.raises(VolumeError):
        wanted_frames([Frame(10, 100)], *columns([(90, 101)]))
    with pytest.raises(VolumeError):
        wanted_frames([], *columns([(0, 1)]))


MIB = 1 << 20

starts = st.builds(
    lambda stored, wanted: FrameStart(0, stored, 0, MIB, wanted),
    st.integers(1, MIB),
    st.one_of(st.integers(1, MIB), st.just(MIB)),
)


@given(starts, st.integers(0, MIB), st.tuples(st.integers(0, MIB), st.integers(0, 1 << 17)))
def test_a_guess_lies_in_the_frame_and_more_is_more(
    start: FrameStart, unpacked: int, block: tuple[int, int]
) -> None:
    have = start.guess
    begin = min(block[0], have)

    more = start.more(have, min(unpacked, start.wanted), (begin, begin + block[1]))

    assert 0 < have <= start.stored
    assert have == start.stored or start.wanted < MIB
    assert more > have or more == start.stored
    assert min(start.stored, begin + block[1]) <= more <= start.stored


def start_at(begin: int, stored: int, raw: int) -> FrameStart:
    """Return a frame of which all is wanted."""
    return FrameStart(begin, stored, begin * 3, raw, raw)


def test_neighbors_are_fetched_together_and_those_far_apart_are_not() -> None:
    near = [start_at(0, 1000, 3000), start_at(1000 + GAP, 1000, 3000)]
    far = start_at(2001 + 2 * GAP, 1000, 3000)

    groups = list(together([*near, far]))

    assert groups == [near, [far]]
    assert list(together([])) == []


def test_no_more_is_fetched_at_once_than_there_is_room_for() -> None:
    little = [FrameStart(number * 40_000, 40_000, 0, MIB, 1) for number in range(500)]

    groups = list(together(little))

    assert [start for group in groups for start in group] == little
    ranges = [(group[0].begin, group[-1].begin + group[-1].guess) for group in groups]
    assert max(end - begin for begin, end in ranges) <= 2 * ROOM
    assert len(groups) == 5


def test_no_more_is_unpacked_at_once_than_there_is_room_for() -> None:
    whole = [start_at(number * 10, 10, MIB) for number in range(7)]

    groups = list(together(whole))

    assert [start for group in groups for start in group] == whole
    assert all(sum(start.wanted for start in group) <= ROOM for group in groups)
