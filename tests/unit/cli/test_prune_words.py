# SPDX-License-Identifier: Apache-2.0
"""What a prune decided, in lines that a person can read for a thousand points too."""

from dataclasses import replace
from datetime import UTC, timedelta

import pytest

from snapvault.cli.prune_words import MOST_LINES, verdicts
from snapvault.engine.prune_plan import Judged
from snapvault.engine.vault import Held
from snapvault.model.point import ObjectRecord
from snapvault.model.policy import Retention
from snapvault.model.retention import Candidate, judge
from tests.support.points import POINT, TAKEN_AT


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapvault.config.zones.local_zone", lambda: UTC)


def judged(nights: int, rules: Retention) -> list[Judged]:
    """Return the verdicts on so many nights of a source."""
    found = {}
    for night in range(nights):
        point = replace(POINT, point=f"{night:016x}", taken_at=TAKEN_AT + timedelta(days=night))
        found[point.point] = Held(point, ObjectRecord(point.point, 1, "0" * 64), "signer")
    candidates = [
        Candidate(name, number, held.point.taken_at)
        for number, (name, held) in enumerate(found.items())
    ]
    now = TAKEN_AT + timedelta(days=nights)
    return [Judged(found[each.point], each) for each in judge(candidates, rules, zone=UTC, now=now)]


def going(points: list[Judged]) -> set[str]:
    return {each.held.manifest.name for each in points if not each.verdict.stays}


def test_a_thousand_points_are_a_page() -> None:
    points = judged(1000, Retention(daily=7, weekly=5, monthly=12, yearly=3))

    lines = verdicts(points, going(points), dry_run=True, is_whole=False)

    assert len(lines) <= MOST_LINES
    assert lines[1].split("  ")[0].endswith(" points")
    assert any("would go" in line and "no rule wants it" in line for line in lines)
    assert any(" points " in line and line.endswith("  stays     daily") for line in lines)
    assert lines[-1].endswith("newest, daily 1 of 7, weekly 1 of 5, monthly 1 of 12, yearly 1 of 3")
    shown = [line.split()[:2] for line in lines[1:]]
    assert sum(int(one) if two == "points" else 1 for one, two in shown) == 1000


def test_each_point_is_shown_where_there_are_few_or_all_are_asked_for() -> None:
    few, many = judged(MOST_LINES, Retention(last=2)), judged(200, Retention(last=2))

    assert len(verdicts(few, going(few), dry_run=False, is_whole=False)) == 1 + MOST_LINES
    assert len(verdicts(many, going(many), dry_run=False, is_whole=True)) == 1 + 200


def test_what_is_held_or_suspicious_is_not_lost_in_a_group() -> None:
    points = judged(60, Retention(last=60))
    held = replace(points[10], verdict=replace(points[10].verdict, reasons=("held: audit 2026",)))
    points[10], points[20] = held, replace(points[20], suspicion="much smaller")

    lines = verdicts(points, set(), dry_run=True, is_whole=False)

    assert [line.split()[0] for line in lines[1:]] == [
        "10",
        f"{10:016x}",
        "9",
        f"{20:016x}",
        "38",
        f"{59:016x}",
    ]
    assert "held: audit 2026" in lines[2]
    assert "(much smaller)" in lines[4]


def test_no_points_are_no_table() -> None:
    assert verdicts([], set(), dry_run=True, is_whole=False) == []
