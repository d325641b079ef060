# SPDX-License-Identifier: Apache-2.0
"""Moments as people read them."""

from dataclasses import replace
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from snapvault.daemon.web.words import Times, alarm_title, counter_title, run_state
from snapvault.model.objectives import KINDS
from snapvault.model.runs import RunState, SourceKey
from tests.support.status_builder import NOW, a_run

TIMES = Times(NOW, ZoneInfo("Europe/Paris"))  # 10:12:44, a Friday


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "just now"),
        (59, "just now"),
        (61, "1m ago"),
        (3 * 3600 + 12 * 60 + 40, "3h 13m ago"),
        (27 * 3600, "1d 3h ago"),
        (10 * 86400, "10d ago"),
        (-600, "in 10m"),
    ],
)
def test_the_past_is_told_by_how_long_ago_it_is(seconds: int, text: str) -> None:
    assert TIMES.ago(NOW - timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-500, "due now"), (20, "due now"), (40, "in 1m"), (7200, "in 2h")]
)
def test_the_future_is_told_by_how_far_it_is(seconds: int, text: str) -> None:
    assert TIMES.until(NOW + timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (0, "today 10:12"),
        (-24, "yesterday 10:12"),
        (14, "tomorrow 00:12"),
        (72, "Mon 10:12"),
        (-24 * 20, "31 Oct 10:12"),
        (-24 * 400, "2025-10-16"),
    ],
)
def test_a_moment_in_a_list_is_as_exact_as_it_needs_to_be(hours: int, text: str) -> None:
    assert TIMES.short(NOW + timedelta(hours=hours)) == text


def test_a_moment_in_full_names_its_zone() -> None:
    assert TIMES.full(NOW) == "2026-11-20 10:12:44 CET"


def test_a_clock_that_was_set_back_gives_no_negative_times() -> None:
    assert TIMES.since(NOW + timedelta(hours=1)) == "0s"


def test_every_kind_of_alarm_has_a_title_and_new_ones_read_well_too() -> None:
    assert len({alarm_title(kind) for kind in KINDS}) == len(KINDS)
    assert alarm_title("vault-is-full") == "Vault is full"
    assert counter_title("hint_mismatches") == "Hint mismatches"


def test_what_was_missed_several_times_says_so() -> None:
    run = a_run(SourceKey("offsite", "web01"), state=RunState.MISSED)

    assert run_state(replace(run, missed=3)) == "was missed 3 times"
    assert run_state(replace(run, missed=1)) == "was missed"
