# SPDX-License-Identifier: Apache-2.0
"""A drill's report as JSON."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvault.errors import FormatVersionError, IntegrityError
from snapvault.formats import drill_report, names
from snapvault.model.drills import (
    CheckResult,
    DrillReport,
    Phase,
    Result,
    StepReport,
    Verdict,
)
from snapvault.model.runs import SourceKey
from tests.support import reports as drills

VAULT_ID = "5a" * 16
TEXTS = st.text(max_size=8)
SECONDS = st.floats(0, 1e9, allow_nan=False)
TIMES = st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC))
VERDICTS = st.sampled_from(Verdict)
RESULTS = st.builds(Result, VERDICTS, TEXTS, st.none() | TEXTS)
STEPS = st.builds(
    StepReport,
    key=st.builds(SourceKey, st.just("offsite"), TEXTS),
    kind=TEXTS,
    point=st.none() | TEXTS,
    taken_at=st.none() | TIMES,
    size=st.none() | st.integers(0, 1 << 62),
    started=TIMES,
    seconds=SECONDS,
    phases=st.dictionaries(st.sampled_from(Phase), SECONDS),
    restored=RESULTS,
    validated=RESULTS,
    cleaned=RESULTS,
    checks=st.lists(st.builds(CheckResult, TEXTS, VERDICTS, TEXTS, SECONDS), max_size=2).map(tuple),
    seconds_to_ready=st.none() | SECONDS,
    age=st.none() | st.floats(-1e9, 1e9),
    rto=st.none() | SECONDS,
    rpo=st.none() | SECONDS,
    counters=st.dictionaries(TEXTS, st.integers(-(1 << 62), 1 << 62), max_size=2),
    facts=st.dictionaries(TEXTS, TEXTS, max_size=2),
    hits=st.lists(TEXTS, max_size=2).map(tuple),
    commands=st.lists(TEXTS, max_size=2).map(tuple),
    console=st.text(),
    screenshot=st.none() | st.binary(max_size=20),
)
REPORTS = st.builds(
    DrillReport,
    id=st.from_regex(r"[0-9A-Za-z][0-9A-Za-z-]{0,63}", fullmatch=True),
    policy=TEXTS,
    vault=st.just("offsite"),
    host=TEXTS,
    version=TEXTS,
    trigger=TEXTS,
    started=TIMES,
    ended=TIMES,
    choice=TEXTS,
    seed=st.none() | st.integers(-(1 << 200), 1 << 200),
    steps=st.lists(STEPS, max_size=2).map(tuple),
    problem=st.none() | TEXTS,
)


@given(REPORTS)
def test_a_report_comes_back_as_it_was_written(report: DrillReport) -> None:
    content = drill_report.encode(report, VAULT_ID)

    assert drill_report.decode(content) == (VAULT_ID, report)
    assert drill_report.encode(report, VAULT_ID) == content
    assert content.isascii()


@given(REPORTS, st.data())
def test_a_report_with_any_byte_changed_is_refused_or_is_another_report(
    report: DrillReport, data: st.DataObject
) -> None:
    content = drill_report.encode(report, VAULT_ID)
    place = data.draw(st.integers(0, len(content) - 1))
    changed = content[:place] + data.draw(st.binary(min_size=1, max_size=1)) + content[place + 1 :]

    try:
        vault_id, found = drill_report.decode(changed)
    except IntegrityError:
        return

    # What is read can be written again, and is then the same.
    again = drill_report.encode(found, vault_id)
    assert drill_report.decode(again) == (vault_id, found)


def _document(**changes: Any) -> bytes:
    document = drill_report.document(drills.report(), VAULT_ID)
    return json.dumps(document | changes).encode()


def _with_step(**changes: Any) -> bytes:
    document = drill_report.document(drills.report(), VAULT_ID)
    document["steps"][0] |= changes
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b'{"format": 1}',
        b"[" * 100_000,
        _document(vault="another"),
        _document(drill="../../etc/passwd"),
        _document(drill=7),
        _document(policy=None),
        _document(policy="\ud800"),
        _document(started_at="yesterday"),
        _document(seed=1.5),
        _document(seed=True),
        _document(steps={}),
        _document(verdict="failed"),
        _document(problem="it passed, says its verdict"),
        _with_step(phases={"dreaming": 1.0}),
        _with_step(phases={"boot": -1.0}),
        _with_step(phases={"boot": "long"}),
        _with_step(seconds=float("nan")),
        _with_step(seconds=float("inf")),
        _with_step(seconds=10**400),
        _with_step(verdict="failed"),
        _with_step(restored={"verdict": "perhaps", "reason": "", "hint": None}),
        _with_step(size_bytes=-1),
        _with_step(size_bytes=1.0),
        _with_step(taken_at=5),
        _with_step(counters={"volumes": "many"}),
        _with_step(facts={"kernel": None}),
        _with_step(facts=[]),
        _with_step(hits="0123456789abcdef"),
        _with_step(commands=[7]),
        _with_step(console=None),
        _with_step(screenshot="no base64!"),
        _with_step(checks=[{"name": "port"}]),
    ],
)
def test_what_is_no_report_is_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError, match="drill report cannot be read"):
        drill_report.decode(content)


def test_members_that_nobody_knows_are_ignored() -> None:
    assert drill_report.decode(_document(weather="fair"))[1] == drills.report()


def test_a_newer_format_is_refused_by_its_number() -> None:
    with pytest.raises(FormatVersionError, match="drill report has format 2, this release reads 1"):
        drill_report.decode(_document(format=2))


def test_a_report_under_another_name_is_refused() -> None:
    report = drills.report()
    name = names.drill_report(report.started, report.id)
    content = drill_report.encode(report, VAULT_ID)

    assert drill_report.decode_as(name, content)[1] == report
    with pytest.raises(IntegrityError, match="is out of place"):
        drill_report.decode_as(name.replace("aa.report", "ab.report"), content)


def test_what_no_encoding_can_carry_is_replaced_when_it_is_written() -> None:
    report = drills.report(drills.step(console="login\udcff: "))

    _, found = drill_report.decode(drill_report.encode(report, VAULT_ID))

    assert found.steps[0].console == "login?: "


@pytest.mark.parametrize("drill", ["", "a/b", "-a", "x" * 65, "drill 1"])
def test_a_drill_whose_id_no_name_can_hold_is_not_written(drill: str) -> None:
    with pytest.raises(ValueError, match="has not the form"):
        drill_report.encode(drills.report(id=drill), VAULT_ID)


def test_a_step_of_another_vault_is_not_written() -> None:
    with pytest.raises(ValueError, match="is not of vault offsite"):
        drill_report.encode(drills.report(drills.step(vault="elsewhere")), VAULT_ID)
