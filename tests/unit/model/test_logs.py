# SPDX-License-Identifier: Apache-2.0
"""When a log goes on and when it begins anew."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.formats import names
from snapvault.model.logs import deserted, extend_log
from snapvault.model.point import LogEntry, ObjectRecord, Point
from tests.support.points import POINT


def test_the_first_entry_is_full() -> None:
    log, is_full = extend_log((), "p1", changes=5, full=100)

    assert log == (LogEntry("p1", 100),)
    assert is_full


def test_changes_that_are_small_are_added() -> None:
    log, is_full = extend_log((LogEntry("p1", 100),), "p2", changes=5, full=101)

    assert log == (LogEntry("p1", 100), LogEntry("p2", 5))
    assert not is_full


def test_a_checkpoint_is_written_once_it_is_no_larger_than_the_changes() -> None:
    log = (LogEntry("p1", 100), LogEntry("p2", 60))

    longer, grown = extend_log(log, "p3", changes=39, full=100)
    fresh, checkpoint = extend_log(log, "p3", changes=40, full=100)

    assert not grown
    assert longer[-1] == LogEntry("p3", 39)
    assert checkpoint
    assert fresh == (LogEntry("p3", 100),)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 1000)), max_size=200))
def test_a_log_is_never_long_and_its_changes_never_outweigh_a_full_one(
    nights: list[tuple[int, int]],
) -> None:
    log: tuple[LogEntry, ...] = ()

    for number, (changes, full) in enumerate(nights):
        log, is_full = extend_log(log, f"p{number}", changes=changes, full=full)

        assert log[-1].point == f"p{number}"
        assert is_full == (len(log) == 1)
        assert len(log) <= 64
        assert len(log) == 1 or sum(entry.size for entry in log[1:]) < full


LOG = (LogEntry("p1", 100), LogEntry("p2", 30), LogEntry("p3", 20), LogEntry("p4", 5))


def test_a_checkpoint_is_written_once_half_of_one_is_kept_for_the_log_alone() -> None:
    fresh, checkpoint = extend_log(LOG, "p5", changes=5, full=100, deserted={"p1", "p2", "p3"})

    assert checkpoint
    assert fresh == (LogEntry("p5", 100),)


@pytest.mark.parametrize(
    "deserted",
    [
        {"p1", "p2"},  # too little comes back
        {"p2", "p3", "p4"},  # what the log begins with is needed all the same
    ],
)
def test_a_log_goes_on_while_a_checkpoint_would_give_little_back(deserted: set[str]) -> None:
    longer, checkpoint = extend_log(LOG, "p5", changes=5, full=100, deserted=deserted)

    assert not checkpoint
    assert longer == (*LOG, LogEntry("p5", 5))


def a_chain(*points: str, source: str = "web01", since: int = 0) -> list[Point]:
    """Return points whose logs go from the one of that number on to themselves."""
    found = []
    for number, point in enumerate(points):
        objects = tuple(
            ObjectRecord(name(source, each), 10, "0" * 64)
            for each in points[since : number + 1]
            for name in (names.map_of, names.signature_of)
        )
        found.append(replace(POINT, source=source, point=point, objects=objects))
    return found


def test_metadata_is_deserted_once_its_point_is_gone_and_no_other_names_it() -> None:
    first, second, third = a_chain("a" * 16, "b" * 16, "c" * 16)
    expired = {name("web01", "a" * 16) for name in (names.map_of, names.signature_of)}

    assert deserted(third, [first, second, third]) == frozenset()
    assert deserted(third, [second, third]) == frozenset()
    assert deserted(second, [second]) == expired
    assert deserted(second, [second, *a_chain("a" * 16, source="web02")]) == expired


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=150),
    st.integers(1, 9),
    st.integers(50, 200),
)
def test_what_logs_cost_stays_in_proportion_to_changes_whatever_expires(
    nights: list[int], kept: int, full: int
) -> None:
    log: tuple[LogEntry, ...] = ()
    stored = changed = 0
    for number, changes in enumerate(nights):
        alone = {entry.point for entry in log if int(entry.point) < number - kept}
        log, _ = extend_log(log, str(number), changes=changes, full=full, deserted=alone)
        stored += log[-1].size
        changed += changes

    assert stored <= full + 3 * changed + full * len(nights) // 60
