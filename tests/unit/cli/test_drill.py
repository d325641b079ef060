# SPDX-License-Identifier: Apache-2.0
"""What `snapvault drill run` plans, and how it says what came of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from snapvault.cli.drill import _all_of, _named, _require_good, _require_policies, _require_right
from snapvault.config.problems import Problem
from snapvault.errors import ConfigError, ObjectiveMissedError
from snapvault.model.drills import Result, Verdict
from snapvault.model.policy import ImageSpec, Policy, SourceSpec, StreamSpec
from tests.support import reports

IMAGE = (StreamSpec("image", ImageSpec(Path("/srv/web01.raw"))),)
NIGHTLY = Policy("nightly", Path("/p.yaml"), "offsite", (SourceSpec("web01", IMAGE, single=True),))
WRONG = (Problem(Path("/policies/weekly.yaml"), "expected a mapping, found nothing"),)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("no room", 'drill ab12 failed: source "web01": no room'),
        ('source "web01" has no restore point', 'drill ab12 failed: source "web01" has no restore'),
    ],
)
def test_a_failure_names_its_source_once(reason: str, said: str) -> None:
    step = replace(reports.step("web01"), restored=Result(Verdict.FAILED, reason))
    report = replace(reports.report(step), id="ab12")

    with pytest.raises(ObjectiveMissedError, match="^" + said):
        _require_good([report])


def test_a_name_that_nobody_knows_may_have_been_meant_for_a_source_or_a_policy() -> None:
    with pytest.raises(ConfigError, match='there is no source and no policy "nightli"') as refusal:
        _named([NIGHTLY], ["nightli"], None)

    assert refusal.value.hint == 'Did you mean "nightly"?'


@pytest.mark.parametrize("problems", [(), (Problem(Path("/policies"), "there is no such folder"),)])
def test_a_host_without_policies_is_told_where_they_are_missing(
    problems: tuple[Problem, ...],
) -> None:
    with pytest.raises(ConfigError, match='no policy in folder "/policies"') as refusal:
        _require_policies(Path("/policies"), [], problems)

    assert refusal.value.hint
    assert "Copy the policies of the backup host there" in refusal.value.hint


def test_policies_that_are_all_wrong_are_no_missing_ones() -> None:
    _require_policies(Path("/policies"), [], WRONG)


def test_a_wrong_policy_is_told_as_that_and_not_as_a_source_that_nobody_has() -> None:
    with pytest.raises(ConfigError, match='policy "weekly" is wrong'):
        _require_right(["web01", "nightly", "weekly"], [NIGHTLY], WRONG)


def test_a_drill_may_be_asked_for_by_a_policy_that_is_wrong() -> None:
    with pytest.raises(ConfigError, match="no policy that can be read has a drill"):
        _all_of([NIGHTLY], None, [ConfigError("wrong")])
