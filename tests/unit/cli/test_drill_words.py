# SPDX-License-Identifier: Apache-2.0
"""Drills as text for a terminal."""

from datetime import timedelta
from typing import Any

import pytest

from snapvault.cli import drill, drill_words
from snapvault.engine.drill_reports import HeldReport
from snapvault.model.drill_audit import Audit, Promise, SignedReport, audit
from snapvault.model.drills import DrillReport, StepReport
from snapvault.model.runs import SourceKey
from tests.support import reports

EVIL = "a\x1b[2J\x1b]0;t\x07\nb\u202e"


def held(report: DrillReport) -> HeldReport:
    return HeldReport(report, "drills/x.report", "AB" * 20, "5a" * 16)


def lines_of(step: StepReport) -> list[str]:
    return drill_words.report_lines(held(reports.report(step)))


def test_phases_are_bars_that_follow_each_other_and_add_up() -> None:
    lines = lines_of(reports.step())

    assert lines[lines.index("") + 10 :][:5] == [
        "  fetch              10.0s  |########                      |",
        "  boot               20.0s  |        ##############        |",
        "  clean-up           10.0s  |                      ########|",
        "  all of it          40.0s",
        "",
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "  recovery time  30s, RTO 1h met"),
        ({"rto": 20.0}, "  recovery time  30s, RTO 20s missed"),
        ({"rto": None}, "  recovery time  30s (the policy names no RTO)"),
        ({"seconds_to_ready": None}, "  recovery time  never ready, RTO 1h"),
        ({"age": None, "rpo": None}, "  recovery point unknown (the policy names no RPO)"),
    ],
)
def test_what_was_measured_stands_against_what_was_promised(
    more: dict[str, Any], said: str
) -> None:
    assert said in lines_of(reports.step(**more))


def test_only_the_end_of_a_console_is_shown_and_how_much_is_left_out() -> None:
    lines = lines_of(reports.step(console="\r\n".join(f"line {n}" for n in range(100))))

    start = lines.index("  the end of the console:")
    assert lines[start + 1] == "    (88 lines before; --html and --json have them)"
    assert lines[start + 2 :] == [f"    line {n}" for n in range(88, 100)]


def test_nothing_that_a_guest_said_steers_the_terminal() -> None:
    step = reports.failed(
        EVIL, console=EVIL * 3, commands=(EVIL,), facts={EVIL: EVIL}, hits=(EVIL,), kind=EVIL
    )
    report = reports.report(step, policy=EVIL, host=EVIL, problem=EVIL)

    shown = [
        *drill_words.report_lines(held(report)),
        *drill_words.list_lines([(held(report), step)], several=True),
    ]

    assert all(line.isprintable() for line in shown)


def of_a_month(*, promised: bool) -> Audit:
    signed = [SignedReport(reports.at(-n, n + 1), "AB" * 20) for n in range(3)]
    hour, week = timedelta(hours=1), timedelta(days=7)
    promises = [
        Promise(SourceKey("offsite", name), "nightly", hour, None, week)
        for name in ("mail", "web01")
    ]
    start, end = reports.STARTED - timedelta(days=9), reports.STARTED + timedelta(days=1)
    return audit(signed, promises if promised else (), start=start, end=end, now=end)


def test_what_a_drill_says_at_its_end_cannot_steer_a_terminal() -> None:
    report = reports.report(reports.failed(reason=EVIL), problem=EVIL)

    lines = drill.report_lines(report)

    assert all(line.isprintable() for line in lines)
    assert any("a\\x1b[2J" in line for line in lines)


def test_a_period_is_a_table_of_sources_and_one_of_drills_with_their_signers() -> None:
    lines = drill_words.audit_lines(of_a_month(promised=True), "2026-11")

    assert [" ".join(line.split()) for line in lines[2:6]] == [
        "SOURCE POLICY PASSED FAILED SKIPPED MEDIAN WORST RTO MISSED POINTS INTERVAL KEPT",
        "mail nightly 0 0 0 - - 1h 0 0 7d no: 10d",
        "web01 nightly 3 0 0 30s 30s 1h 0 1 7d no: 7d",
        'source "mail" was never rehearsed in this time',
    ]
    assert [line.split()[-1] for line in lines[-3:]] == ["AB" * 20] * 3


def test_a_source_that_no_policy_names_has_no_promises() -> None:
    lines = drill_words.audit_lines(of_a_month(promised=False), "2026-11")

    assert " ".join(lines[3].split()) == "web01 - 3 0 0 30s 30s - 0 1 - -"
