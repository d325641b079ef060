# SPDX-License-Identifier: Apache-2.0
"""Which restore point a drill rehearses."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from snapvault.engine.drill_choice import Pick
from snapvault.errors import NoRestorePointError
from snapvault.model.point import Point
from snapvault.model.rehearsal import Choice
from tests.support.points import POINT

NOW = datetime(2026, 11, 21, 5, tzinfo=UTC)
DAY = timedelta(days=1)


def points(count: int) -> list[Point]:
    """Return one for each of the last nights, oldest first."""
    return [
        replace(
            POINT,
            point=f"{number:016x}",
            sequence=number,
            taken_at=NOW - (count - number) * DAY - timedelta(hours=3),
        )
        for number in range(1, count + 1)
    ]


def test_the_newest_and_the_oldest_are_what_they_say() -> None:
    there = points(5)

    assert Pick(Choice.LATEST, NOW, 1).of(there, "web") is there[-1]
    assert Pick(Choice.OLDEST, NOW, 1).of(there[::-1], "web") is there[0]


def test_a_seed_picks_the_same_point_again_in_any_order() -> None:
    there = points(40)

    picked = {seed: Pick(Choice.RANDOM, NOW, seed).of(there, "web") for seed in range(30)}

    assert len({point.point for point in picked.values()}) > 10
    for seed, point in picked.items():
        assert Pick(Choice.RANDOM, NOW, seed).of(there[::-1], "web") is point


def test_sources_are_picked_independently_of_each_other() -> None:
    there = points(40)

    pairs = [
        tuple(Pick(Choice.RANDOM, NOW, seed).of(there, name).point for name in ("web", "shop"))
        for seed in range(10)
    ]

    assert any(web != shop for web, shop in pairs)


def test_a_window_leaves_older_points_out() -> None:
    there = points(40)

    picked = {Pick(Choice.RANDOM, NOW, seed, 3 * DAY).of(there, "web").point for seed in range(40)}

    assert picked == {point.point for point in there[-3:]}


def test_nothing_in_the_window_names_the_newest() -> None:
    with pytest.raises(NoRestorePointError, match="no restore point of the last 1h") as caught:
        Pick(Choice.RANDOM, NOW, 1, timedelta(hours=1)).of(points(2), "web")

    assert "2026-11-21 02:00:00 UTC" in str(caught.value.hint)


def test_what_is_asked_for_goes_before_what_the_policy_says() -> None:
    there = points(5)
    by_id = Pick(Choice.RANDOM, NOW, 1, point=there[1].point)
    by_time = Pick(Choice.RANDOM, NOW, 1, moment=NOW - DAY)

    assert (by_id.of(there, "web"), by_id.name) == (there[1], "point")
    assert (by_time.of(there, "web"), by_time.name) == (there[3], "time")
    assert not by_id.is_latest
    assert Pick(Choice.LATEST, NOW, 1).is_latest
