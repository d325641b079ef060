# SPDX-License-Identifier: Apache-2.0
"""When a log goes on and when it begins anew."""

from hypothesis import given
from hypothesis import strategies as st

from snapvault.engine.commit import extend_log
from snapvault.model.point import LogEntry


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
