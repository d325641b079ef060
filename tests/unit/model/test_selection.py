# SPDX-License-Identifier: Apache-2.0
"""Choosing the restore point that somebody asks for."""

from datetime import UTC, datetime, timedelta

import pytest

from snapvault.errors import NoRestorePointError
from snapvault.model.point import ObjectRecord, Point
from snapvault.model.selection import at, by_id, newest

START = datetime(2026, 11, 20, 1, 30, tzinfo=UTC)


def point(identity: str, *, sequence: int, days: float) -> Point:
    taken_at = START + timedelta(days=days)
    return Point(
        vault="5a" * 16,
        source="web01",
        point=identity,
        sequence=sequence,
        taken_at=taken_at,
        finished_at=taken_at,
        parent=None,
        consistency="crash",
        streams=(),
        hash_key=ObjectRecord("keys/A.hash", 1, "00" * 32),
        objects=(),
        lists=(),
        host="host.example.org",
        tool="snapvault test",
    )


FIRST = point("aa11", sequence=1, days=0)
SECOND = point("aa22", sequence=2, days=1)
THIRD = point("bb33", sequence=3, days=2)
POINTS = [SECOND, THIRD, FIRST]


def test_the_newest_is_the_last_committed_even_when_a_clock_went_back() -> None:
    late = point("cc44", sequence=4, days=-9)

    assert newest([*POINTS, late], "web01") == late


def test_the_newest_of_two_with_one_number_is_the_one_taken_later() -> None:
    side_by_side = point("cc44", sequence=3, days=3)

    assert newest([*POINTS, side_by_side], "web01") == side_by_side


def test_a_hint_at_one_point_speaks_of_one() -> None:
    with pytest.raises(NoRestorePointError) as caught:
        by_id([FIRST], "ffff")

    assert (caught.value.hint or "").startswith("The nearest is aa11 of web01")


def test_a_source_without_points_is_named() -> None:
    with pytest.raises(NoRestorePointError, match='source "web01" has no restore point'):
        newest([], "web01")
    with pytest.raises(NoRestorePointError, match='source "web01" has no restore point'):
        at([], "web01", START)


@pytest.mark.parametrize(
    ("days", "expected"), [(0, FIRST), (0.99, FIRST), (1, SECOND), (1.5, SECOND), (99, THIRD)]
)
def test_a_moment_means_the_newest_point_at_or_before_it(days: float, expected: Point) -> None:
    assert at(POINTS, "web01", START + timedelta(days=days)) == expected


def test_two_points_of_one_moment_are_told_apart_by_their_order() -> None:
    again = point("cc44", sequence=4, days=1)

    assert at([again, *POINTS], "web01", START + timedelta(days=1)) == again


def test_a_moment_before_all_points_names_the_oldest() -> None:
    with pytest.raises(NoRestorePointError) as raised:
        at(POINTS, "web01", START - timedelta(seconds=1))

    assert "2026-11-20 01:29:59" in str(raised.value)
    assert raised.value.hint is not None
    assert "aa11" in raised.value.hint


@pytest.mark.parametrize(("wanted", "expected"), [("bb33", THIRD), ("b", THIRD), ("aa2", SECOND)])
def test_the_beginning_of_an_id_is_enough(wanted: str, expected: Point) -> None:
    assert by_id(POINTS, wanted) == expected


def test_an_ambiguous_id_names_the_candidates() -> None:
    with pytest.raises(NoRestorePointError, match="ambiguous") as raised:
        by_id(POINTS, "aa", "web01")

    assert raised.value.hint is not None
    assert "aa11" in raised.value.hint
    assert "aa22" in raised.value.hint


@pytest.mark.parametrize("wanted", ["aa29", "zz", "", "bb333"])
def test_an_unknown_id_names_the_nearest(wanted: str) -> None:
    with pytest.raises(NoRestorePointError) as raised:
        by_id(POINTS, wanted)

    assert raised.value.hint is not None
    assert raised.value.hint.startswith("The nearest are ")


def test_an_id_in_an_empty_vault_has_no_nearest() -> None:
    with pytest.raises(NoRestorePointError) as raised:
        by_id([], "aa11")

    assert raised.value.hint == 'Run "snapvault list" to see what the vault holds.'
