# SPDX-License-Identifier: Apache-2.0
"""Periods of the calendar."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from snapvault.model.periods import parse_period

NOW = datetime(2026, 11, 21, 2, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("typed", "name", "start", "end"),
    [
        ("month", "2026-11", (2026, 11), (2026, 12)),
        ("quarter", "2026-Q4", (2026, 10), (2027, 1)),
        ("Year", "2026", (2026, 1), (2027, 1)),
        ("2026-10", "2026-10", (2026, 10), (2026, 11)),
        ("2025-12", "2025-12", (2025, 12), (2026, 1)),
        ("2026-Q3", "2026-Q3", (2026, 7), (2026, 10)),
        ("2026q1", "2026-Q1", (2026, 1), (2026, 4)),
        (" 2025 ", "2025", (2025, 1), (2026, 1)),
    ],
)
def test_a_period_is_read(
    typed: str, name: str, start: tuple[int, int], end: tuple[int, int]
) -> None:
    found = parse_period(typed, now=NOW, zone=UTC)

    assert found.name == name
    assert found.start == datetime(*start, 1, tzinfo=UTC)
    assert found.end == datetime(*end, 1, tzinfo=UTC)


def test_a_period_begins_at_midnight_of_its_zone() -> None:
    zone = ZoneInfo("Europe/Berlin")

    found = parse_period("2026-Q4", now=NOW, zone=zone)

    assert found.start.astimezone(UTC) == datetime(2026, 9, 30, 22, tzinfo=UTC)
    assert found.end.astimezone(UTC) == datetime(2026, 12, 31, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    "typed", ["", "week", "2026-13", "2026-00", "2026-Q5", "Q4", "0000", "9999"]
)
def test_what_is_no_period_is_refused_with_examples(typed: str) -> None:
    with pytest.raises(ValueError, match='expected "month", "quarter" or "year"'):
        parse_period(typed, now=NOW, zone=UTC)


def test_a_period_that_has_not_begun_is_refused() -> None:
    with pytest.raises(ValueError, match="2027-Q1 has not begun"):
        parse_period("2027-q1", now=NOW, zone=UTC)
