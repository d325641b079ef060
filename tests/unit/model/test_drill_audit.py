# SPDX-License-Identifier: Apache-2.0
"""What drills showed over a time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from snapvault.model.drill_audit import (
    Audit,
    Promise,
    SignedReport,
    SourceAudit,
    audit,
    reason_of,
    summaries,
)
from snapvault.model.drills import CheckResult, DrillReport, Result, StepReport, Verdict
from snapvault.model.runs import SourceKey
from tests.support import reports as drills

START = datetime(2026, 11, 1, tzinfo=UTC)
END = datetime(2026, 12, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 25, tzinfo=UTC)


def promise(source: str = "web01", days: float | None = 7) -> Promise:
    interval = None if days is None else timedelta(days=days)
    return Promise(SourceKey("offsite", source), "nightly", None, None, interval)


def on(day: int, *steps: StepReport, number: int | None = None) -> DrillReport:
    """Return a report of a drill of that day of November (0: the last of October)."""
    return drills.at(day - 21, number if number is not None else day, *steps)


def look(*reports: DrillReport, promises: tuple[Promise, ...] = (promise(),)) -> Audit:
    signed = [SignedReport(report, "AB" * 20) for report in reports]
    return audit(signed, promises, start=START, end=END, now=NOW)


def only(found: Audit) -> SourceAudit:
    (source,) = found.sources
    return source


def test_drills_of_the_period_are_counted_by_how_they_ended() -> None:
    skipped = drills.step(validated=Result(Verdict.SKIPPED, "no agent"))

    source = only(look(on(2), on(5, drills.failed()), on(9, skipped), on(12)))

    assert source.counts == {Verdict.PASSED: 2, Verdict.FAILED: 1, Verdict.SKIPPED: 1}


def test_drills_before_and_after_the_period_are_not_counted() -> None:
    found = look(on(0), on(30 + 1), on(3))

    assert [signed.report.id for signed in found.reports] == [f"{3:016x}"]
    assert len(only(found).rehearsals) == 1


def test_recovery_times_are_those_of_drills_that_passed() -> None:
    times = (30.0, 90.0, 40.0)
    reports = [on(n + 1, drills.step(seconds_to_ready=each)) for n, each in enumerate(times)]
    late = on(9, drills.failed(seconds_to_ready=5000.0, rto=None))

    source = only(look(*reports, late))

    assert (source.median, source.worst) == (40.0, 90.0)


def test_a_recovery_is_late_by_the_objective_of_its_day() -> None:
    slow = drills.step(seconds_to_ready=100.0, rto=60.0)
    was_allowed = drills.step(seconds_to_ready=100.0, rto=200.0)
    exactly = drills.step(seconds_to_ready=60.0, rto=60.0)

    source = only(look(on(2, slow), on(3, was_allowed), on(4, exactly)))

    assert source.missed == 1


def test_an_interval_is_kept_when_no_time_without_a_good_drill_was_longer() -> None:
    source = only(look(on(0), on(6), on(12), on(18), on(24)))

    assert source.kept is True
    assert source.longest_gap == timedelta(days=6).total_seconds()


def test_an_interval_is_not_kept_when_the_drills_in_between_failed() -> None:
    source = only(look(on(0), on(6), on(12, drills.failed()), on(18), on(24)))

    assert source.kept is False
    assert source.longest_gap == timedelta(days=12).total_seconds()


def test_an_interval_is_not_kept_when_the_last_good_drill_is_too_long_ago_now() -> None:
    assert only(look(on(0), on(6), on(12))).kept is False


def test_the_time_before_the_period_counts_to_the_first_gap() -> None:
    long_before = drills.at(-60, 1)

    assert only(look(long_before, on(3), on(9), on(15), on(21))).kept is False


def test_without_any_drill_it_is_too_early_until_the_interval_has_passed() -> None:
    assert only(look(promises=(promise(days=30),))).kept is None
    assert only(look(promises=(promise(days=20),))).kept is False


def test_nobody_is_to_blame_for_the_time_before_a_source_was_there() -> None:
    new = replace(promise(days=7), since=NOW - timedelta(days=5))
    old = replace(promise(days=7), since=NOW - timedelta(days=500))

    assert only(look(promises=(new,))).kept is None
    assert only(look(on(22), promises=(new,))).kept is True
    assert only(look(on(22), promises=(old,))).kept is False


def test_without_an_interval_nothing_is_kept_or_broken() -> None:
    assert only(look(on(3), promises=(promise(days=None),))).kept is None


def test_a_source_that_only_drills_of_other_times_rehearsed_was_never_rehearsed() -> None:
    found = look(on(0), on(4, drills.step("db01")), promises=(promise(), promise("db01")))

    assert [source.key.source for source in found.never] == ["web01"]
    assert found.never[0].last_good is not None


def test_a_source_that_no_policy_names_any_more_is_shown_all_the_same() -> None:
    found = look(on(4, drills.step("gone")), promises=())

    assert only(found).promise is None
    assert found.never == ()


def test_points_are_named_once() -> None:
    other = drills.step(point="f" * 16)

    source = only(look(on(2), on(3), on(4, other), on(5, drills.step(point=None))))

    assert source.points == ("0123456789abcdef", "f" * 16)


def test_each_signer_is_counted() -> None:
    signed = [SignedReport(on(2), "AB" * 20), SignedReport(on(3), "CD" * 20)]

    found = audit(signed, (), start=START, end=END, now=NOW)

    assert found.signers == {"AB" * 20: 1, "CD" * 20: 1}


def test_a_summary_is_made_of_each_source_and_the_worst_step_counts() -> None:
    report = drills.report(drills.step(), drills.failed(), drills.step("db01"))

    found = {summary.key.source: summary for summary in summaries(report)}

    assert found["web01"].verdict is Verdict.FAILED
    assert found["db01"].verdict is Verdict.PASSED
    assert found["db01"].ended == drills.STARTED + timedelta(seconds=40)
    assert found["db01"].seconds_to_ready == 30.0


def test_the_reason_names_the_check_that_decided() -> None:
    assert reason_of(drills.failed(reason="kernel panic")) == (
        '1 of 1 checks failed: console shows "login:": kernel panic'
    )
    assert reason_of(drills.step()) == "all checks passed"


def test_the_reason_of_what_was_not_restored_is_why_not() -> None:
    step = drills.step(
        restored=Result(Verdict.FAILED, 'volume "ab" is damaged'),
        validated=Result(Verdict.SKIPPED, "it was not restored"),
    )

    assert reason_of(step) == 'volume "ab" is damaged'


def test_the_reason_does_not_say_the_same_twice() -> None:
    step = drills.step(
        validated=Result(Verdict.FAILED, "port 22: refused"),
        checks=(CheckResult("port 22", Verdict.FAILED, "refused"),),
    )

    assert reason_of(step) == "port 22: refused"
