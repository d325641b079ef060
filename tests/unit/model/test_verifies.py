# SPDX-License-Identifier: Apache-2.0
"""What a verify found is alarming until a later one shows that it is over."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from snapvault.model.verifies import VerifySummary, last_of_levels, unmended

NOW = datetime(2026, 11, 22, 9, 15, tzinfo=UTC)
DAY = timedelta(days=1)
FOUND = VerifySummary("v1", "offsite", None, "data", 20.0, NOW, 5.0, 3, 2)


def later(**changes: Any) -> VerifySummary:
    return replace(FOUND, id="v2", ended=NOW + DAY, findings=0, share=100.0, **changes)


def test_a_finding_stands_until_somebody_looks_again() -> None:
    assert unmended([FOUND]) == {"offsite": FOUND}
    assert unmended([]) == {}


@pytest.mark.parametrize("level", ["data", "full"])
def test_a_clean_verify_at_least_as_deep_ends_it(level: str) -> None:
    assert unmended([later(level=level), FOUND]) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"level": "objects"},
        {"source": "web01"},
        {"vault": "near"},
    ],
)
def test_one_that_looked_at_less_does_not(changes: dict[str, Any]) -> None:
    assert unmended([FOUND, later(**changes)]) == {"offsite": FOUND}


def test_a_clean_sample_an_earlier_one_and_one_with_findings_do_not() -> None:
    sample = replace(later(), share=99.0)
    earlier = replace(later(), ended=NOW - DAY)
    again = replace(later(), findings=1, ended=NOW + 2 * DAY)

    assert unmended([FOUND, sample, earlier]) == {"offsite": FOUND}
    assert unmended([FOUND, again]) == {"offsite": again}


def test_what_was_found_of_a_source_is_over_when_it_or_all_are_clean() -> None:
    found = replace(FOUND, source="web01")

    assert unmended([found, later(source="web01")]) == {}
    assert unmended([found, later()]) == {}
    assert unmended([found, later(source="shop")]) == {"offsite": found}


def test_of_each_level_the_last_of_all_sources_is_shown() -> None:
    objects = later(level="objects")
    of_source = replace(later(source="web01"), ended=NOW + 5 * DAY)
    full_of_source = replace(of_source, level="full")
    everything = [FOUND, objects, later(), of_source, full_of_source, later(vault="near")]

    found = last_of_levels(everything, "offsite")

    assert found == (objects, later(), full_of_source)
