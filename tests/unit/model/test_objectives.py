# SPDX-License-Identifier: Apache-2.0
"""Whether what is in the vaults is what the policies promise."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.model import drills
from snapvault.model.drills import DrillSummary
from snapvault.model.objectives import (
    DAMAGED,
    DRILL,
    DRILL_FAILED,
    FUTURE,
    NEVER,
    RPO,
    RTO,
    SMALL,
    Drilled,
    Finding,
    RpoState,
    Verdict,
    damaged,
    judge,
)
from snapvault.model.policy import Objectives
from snapvault.model.runs import PointSummary, SourceKey
from snapvault.model.verifies import VerifySummary
from snapvault.units import GIB, MIB

NOW = datetime(2026, 11, 22, 9, 15, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
RPO_26H = Objectives(rpo=26 * HOUR)


def point(hours_ago: float, *, size: int = GIB, identity: str = "ab12") -> PointSummary:
    taken_at = NOW - hours_ago * HOUR
    return PointSummary(SourceKey("offsite", "web01"), identity, taken_at, size, MIB, "crash")


def judged(
    objectives: Objectives,
    *points: PointSummary,
    now: datetime = NOW,
    seen: datetime = NOW - 90 * DAY,
    first_due: datetime | None = NOW - 89 * DAY,
    last_drill: datetime | None = None,
) -> Verdict:
    drilled = Drilled(passed=a_drill(last_drill)) if last_drill is not None else Drilled()
    return judge(objectives, points, now=now, seen=seen, first_due=first_due, drilled=drilled)


def a_drill(ended: datetime, **changes: Any) -> DrillSummary:
    key = SourceKey("offsite", "web01")
    passed = drills.Verdict.PASSED
    base = DrillSummary("d1", key, "boot", "p1", ended, passed, 90.0, 60.0, "it boots")
    return replace(base, **changes)


def kinds(verdict: Verdict) -> list[str]:
    return [finding.kind for finding in verdict.findings]


def only(verdict: Verdict) -> Finding:
    (finding,) = verdict.findings
    return finding


# --- RPO ------------------------------------------------------------------------------------


def test_a_newest_point_that_is_young_enough_meets_the_rpo() -> None:
    verdict = judged(RPO_26H, point(48), point(24))

    assert verdict == Verdict(RpoState.MET, 24 * 3600.0, NOW + 2 * HOUR, ())


def test_a_newest_point_of_just_the_age_of_the_rpo_meets_it() -> None:
    assert judged(RPO_26H, point(26)).rpo is RpoState.MET


def test_a_newest_point_that_is_too_old_breaches_the_rpo() -> None:
    verdict = judged(RPO_26H, point(60), point(30))

    assert (verdict.rpo, verdict.breach_at) == (RpoState.BREACHED, NOW - 4 * HOUR)
    assert only(verdict) == Finding(
        RPO,
        'RPO breached at 2026-11-22 05:15 UTC: the newest restore point, "ab12", is of'
        " 2026-11-21 03:15 UTC",
        'Mend what its last run failed at, if one did; "snapvault backup web01" backs up now.',
    )


def test_a_breach_says_the_same_for_as_long_as_it_lasts() -> None:
    early, late = (judged(RPO_26H, point(30), now=NOW + hours * HOUR) for hours in (0, 50))

    assert early.findings == late.findings


def test_without_an_rpo_no_age_is_too_old() -> None:
    assert judged(Objectives(), point(9000)) == Verdict(RpoState.NONE, 9000 * 3600.0, None, ())


def test_a_clock_that_went_back_does_not_hide_the_newest_point() -> None:
    verdict = judged(RPO_26H, point(1), point(30))

    assert (verdict.rpo, verdict.age) == (RpoState.MET, 3600.0)


def test_an_rpo_of_ages_is_never_breached() -> None:
    verdict = judged(Objectives(rpo=timedelta(days=300_000_000)), point(30))

    assert (verdict.rpo, verdict.breach_at) == (RpoState.MET, None)


# --- never backed up ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objectives", "seen_hours_ago", "first_due_hours_ago", "state", "alarming"),
    [
        (RPO_26H, 27, 20, RpoState.BREACHED, True),
        (RPO_26H, 25, 20, RpoState.WAITING, False),
        (RPO_26H, 27, -1, RpoState.WAITING, False),
        (RPO_26H, 27, None, RpoState.BREACHED, True),
        (RPO_26H, 25, None, RpoState.WAITING, False),
        (Objectives(), 27, 1, RpoState.NONE, True),
        (Objectives(), 27, -1, RpoState.NONE, False),
        (Objectives(), 9000, None, RpoState.NONE, False),
        (Objectives(rpo=timedelta(days=300_000_000)), 27, 1, RpoState.WAITING, False),
    ],
)
def test_a_source_without_points_alarms_once_schedule_and_rpo_have_had_their_chance(
    objectives: Objectives,
    seen_hours_ago: float,
    first_due_hours_ago: float | None,
    state: RpoState,
    alarming: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    verdict = judged(
        objectives,
        seen=NOW - seen_hours_ago * HOUR,
        first_due=None if first_due_hours_ago is None else NOW - first_due_hours_ago * HOUR,
    )

    assert (verdict.rpo, verdict.age) == (state, None)
    assert kinds(verdict) == ([NEVER] if alarming else [])


def test_who_was_never_backed_up_is_told_since_when_it_should_have_been() -> None:
    verdict = judged(RPO_26H, seen=NOW - 27 * HOUR, first_due=NOW - 20 * HOUR)

    assert verdict.breach_at == NOW - HOUR
    assert only(verdict).message == "never backed up, expected by 2026-11-22 08:15 UTC"
    assert '"snapvault backup" backs up now' in (only(verdict).hint or "")


# --- size -----------------------------------------------------------------------------------


def test_a_point_below_the_least_size_is_suspicious() -> None:
    verdict = judged(Objectives(min_size=10 * MIB), point(9), point(1, size=MIB, identity="cd34"))

    assert only(verdict) == Finding(
        SMALL,
        'restore point "cd34" is suspiciously small: 1.0 MiB, expected at least 10.0 MiB',
        'Run "snapvault show cd34" and look at what the source holds; if it is right, lower the'
        " least size in the policy.",
    )


def test_a_point_that_shrank_below_the_share_is_suspicious() -> None:
    verdict = judged(Objectives(min_size_percent=50), point(9), point(1, size=GIB // 2 - 1))

    assert only(verdict).kind == SMALL
    assert only(verdict).message == (
        'restore point "ab12" is suspiciously small: 512.0 MiB, expected at least 50 % of the'
        " 1.0 GiB before it"
    )


@pytest.mark.parametrize(
    "points",
    [
        (point(9), point(1, size=GIB // 2)),
        (point(1, size=0),),
        (point(9, size=0), point(1, size=0)),
        (point(20), point(9, size=MIB), point(1, size=MIB)),
        (),
    ],
)
def test_a_point_that_is_alone_or_large_enough_is_not_suspicious(
    points: tuple[PointSummary, ...],
) -> None:
    assert kinds(judged(Objectives(min_size_percent=50), *points, first_due=None)) == []


def test_a_point_of_just_the_least_size_is_not_suspicious() -> None:
    assert kinds(judged(Objectives(min_size=MIB), point(1, size=MIB))) == []


def test_a_point_that_is_small_twice_over_alarms_once() -> None:
    objectives = Objectives(min_size=MIB, min_size_percent=50)

    assert kinds(judged(objectives, point(9), point(1, size=1))) == [SMALL]


# --- drills ---------------------------------------------------------------------------------


def test_a_drill_that_did_not_happen_in_its_interval_is_overdue() -> None:
    verdict = judged(Objectives(drill=30 * DAY), point(1), last_drill=NOW - 31 * DAY)

    assert only(verdict) == Finding(
        DRILL,
        "no good drill since 2026-10-22 09:15 UTC, expected every 30d",
        'Run "snapvault drill run web01".',
    )


def test_a_first_drill_is_overdue_an_interval_after_the_source_was_first_seen() -> None:
    objectives = Objectives(drill=30 * DAY)

    late, early = (judged(objectives, point(1), seen=NOW - days * DAY) for days in (31, 29))

    assert only(late).message == "no good drill yet, expected every 30d"
    assert kinds(early) == []


def test_a_drill_in_its_interval_is_good_and_without_an_interval_none_is_missed() -> None:
    drilled = judged(Objectives(drill=30 * DAY), point(1), last_drill=NOW - 30 * DAY)

    assert kinds(drilled) == kinds(judged(Objectives(), point(1))) == []


@pytest.mark.parametrize(
    ("rto", "took", "expected"),
    [(600, 600.0, []), (600, 600.5, [RTO]), (600, None, []), (None, 9000.0, [])],
)
def test_a_recovery_that_takes_longer_than_promised_alarms(
    rto: float | None, took: float | None, expected: list[str]
) -> None:
    good = replace(a_drill(NOW - DAY), seconds_to_ready=took)

    verdict = judge(
        Objectives(rto=None if rto is None else timedelta(seconds=rto)),
        (point(1),),
        now=NOW,
        seen=NOW - 90 * DAY,
        first_due=None,
        drilled=Drilled(good),
    )

    assert kinds(verdict) == expected


@pytest.mark.parametrize(
    ("passed", "expected"),
    [(None, [DRILL_FAILED]), (NOW - 3 * DAY, [DRILL_FAILED]), (NOW - DAY, [])],
)
def test_a_failed_drill_alarms_until_a_later_one_passes(
    passed: datetime | None, expected: list[str]
) -> None:
    failed = a_drill(NOW - 2 * DAY, verdict=drills.Verdict.FAILED, reason="no login prompt")
    good = None if passed is None else a_drill(passed)

    verdict = judge(
        Objectives(),
        (point(1),),
        now=NOW,
        seen=NOW - 90 * DAY,
        first_due=None,
        drilled=Drilled(good, failed),
    )

    assert kinds(verdict) == expected
    if expected:
        assert only(verdict).message == (
            'boot drill "d1" of restore point "p1" failed: no login prompt'
        )


def test_a_verify_that_found_something_says_what_ends_its_alarm() -> None:
    verify = VerifySummary(
        "v1", "offsite", "web01", "data", 10.0, NOW, 5.0, 3, 2, 'volume "vol-7" is damaged'
    )

    assert damaged(verify) == Finding(
        DAMAGED,
        'verify of vault "offsite" for source "web01" at level data came to 2 findings at'
        ' 2026-11-22 09:15 UTC: volume "vol-7" is damaged',
        'It is over when "snapvault verify --level data", without a sample, finds nothing.',
    )


def test_a_drill_without_anything_to_restore_asks_for_a_backup() -> None:
    verdict = judged(Objectives(drill=30 * DAY), first_due=None)

    assert only(verdict).hint == "There is nothing to restore: back the source up first."


# --- the future -----------------------------------------------------------------------------


def test_a_point_of_the_future_alarms_and_does_not_meet_the_rpo() -> None:
    small = point(-48, size=1, identity="cd34")

    verdict = judged(replace(RPO_26H, min_size=MIB), point(30), small)

    assert verdict.rpo is RpoState.BREACHED
    assert verdict.age == 30 * 3600.0
    assert kinds(verdict) == [FUTURE, RPO]
    assert verdict.findings[0].message == (
        'restore point "cd34" is dated in the future: 2026-11-24 09:15 UTC'
    )


def test_points_that_are_all_of_the_future_prove_nothing() -> None:
    verdict = judged(replace(RPO_26H, min_size=MIB), point(-48, size=1))

    assert (verdict.rpo, verdict.age) == (RpoState.BREACHED, None)
    assert kinds(verdict) == [FUTURE, RPO, SMALL]
    assert verdict.findings[1].message.endswith("all restore points are dated in the future")


def test_points_that_are_all_of_the_future_are_waited_for_no_longer_than_others() -> None:
    verdict = judged(RPO_26H, point(-48), seen=NOW - 25 * HOUR)

    assert (verdict.rpo, verdict.breach_at) == (RpoState.WAITING, NOW + HOUR)


def test_clocks_that_differ_by_five_minutes_are_no_alarm() -> None:
    verdict = judged(RPO_26H, point(-5 / 60))

    assert verdict == Verdict(RpoState.MET, 0.0, NOW + 26 * HOUR + timedelta(minutes=5), ())


# --- all together ---------------------------------------------------------------------------

SPANS = st.one_of(st.none(), st.integers(1, 60 * 24 * 40).map(lambda minutes: minutes * HOUR / 60))
MOMENTS = st.integers(-3000, 90_000).map(lambda minutes: NOW - minutes * HOUR / 60)


@given(
    objectives=st.builds(
        Objectives,
        rpo=SPANS,
        drill=SPANS,
        min_size=st.one_of(st.none(), st.integers(0, 1000)),
        min_size_percent=st.one_of(st.none(), st.floats(0.1, 100)),
    ),
    points=st.lists(
        st.builds(
            PointSummary,
            st.just(SourceKey("offsite", "web01")),
            st.just("ab12"),
            MOMENTS,
            st.integers(0, 1000),
            st.just(1),
            st.just("crash"),
        ),
        max_size=5,
    ),
    seen=MOMENTS,
    first_due=st.one_of(st.none(), MOMENTS),
    last_drill=st.one_of(st.none(), MOMENTS),
)
def test_a_verdict_never_contradicts_itself(
    objectives: Objectives,
    points: list[PointSummary],
    seen: datetime,
    first_due: datetime | None,
    last_drill: datetime | None,
) -> None:
    verdict = judged(objectives, *points, seen=seen, first_due=first_due, last_drill=last_drill)

    found = kinds(verdict)
    assert len(set(found)) == len(found)
    assert (verdict.rpo is RpoState.NONE) == (objectives.rpo is None)
    assert (verdict.breach_at is None) == (objectives.rpo is None)
    if verdict.breach_at is not None:
        breached = verdict.rpo is RpoState.BREACHED
        assert breached == (verdict.breach_at < NOW) == bool({RPO, NEVER} & set(found))
    assert not (points and NEVER in found)
    assert all("\n" not in finding.message and finding.hint for finding in verdict.findings)
