# SPDX-License-Identifier: Apache-2.0
"""How the doctor judges this host's clock by what a vault holds."""

from dataclasses import replace
from datetime import timedelta

from snapvault.cli.doctor_clock import look_at_clock
from tests.support.points import POINT, TAKEN_AT

MADE = TAKEN_AT - timedelta(days=30)
LATER = replace(POINT, point="feedfacefeedface", taken_at=TAKEN_AT + timedelta(hours=3))


def test_a_point_of_the_future_is_named_with_the_host_that_made_it() -> None:
    found = look_at_clock(MADE, [POINT, LATER, POINT], TAKEN_AT + timedelta(hours=1))

    assert found.state == "warn"
    assert f'restore point "{LATER.point}" of source "{LATER.source}" was taken' in found.message
    assert "2h later" in found.message
    assert "timedatectl" in (found.remedy or "")


def test_a_clock_that_is_a_few_minutes_behind_is_taken_for_right() -> None:
    found = look_at_clock(MADE, [POINT, LATER], LATER.taken_at - timedelta(minutes=4))

    assert found.state == "ok"


def test_a_clock_that_began_anew_is_seen_though_the_vault_is_empty() -> None:
    found = look_at_clock(MADE, [], MADE - timedelta(days=20_000))

    assert found.state == "warn"
    assert "the vault was made" in found.message
