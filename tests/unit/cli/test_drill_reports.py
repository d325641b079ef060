# SPDX-License-Identifier: Apache-2.0
"""Which report `snapvault drill report` shows."""

import pytest

from snapvault.cli.drill_reports import _chosen
from snapvault.cli.failures import Outcomes
from snapvault.engine.drill_reports import HeldReport
from snapvault.errors import ConfigError, IntegrityError, StoreUnavailableError
from snapvault.formats import names
from tests.support import reports

NUMBERS = (0x10, 0x11, 0x2000)
DAYS = (2, 3, 1)


def held(number: int, days: float) -> HeldReport:
    report = reports.at(days, number)
    return HeldReport(report, names.drill_report(report.started, report.id), "AB" * 20, "5a" * 16)


HELD = [held(number, days) for number, days in zip(NUMBERS, DAYS, strict=True)]


def test_without_an_id_the_newest_is_shown() -> None:
    assert _chosen(HELD, None, [], Outcomes()) is HELD[1]


def test_the_beginning_of_an_id_will_do() -> None:
    assert _chosen(HELD, f"{0x2000:016x}"[:13], [], Outcomes()) is HELD[2]


def test_a_whole_id_counts_though_it_is_the_beginning_of_another() -> None:
    longer = held(1, 5)
    shorter = HeldReport(reports.report(id=longer.report.id[:8]), "x", "AB" * 20, "5a" * 16)

    assert _chosen([longer, shorter], longer.report.id[:8], [], Outcomes()) is shorter


def test_the_beginning_of_several_ids_is_refused_with_all_of_them() -> None:
    with pytest.raises(ConfigError, match="is the beginning of 2 drills' ids: ") as caught:
        _chosen(HELD, "000000000000001", [], Outcomes())

    assert f"{0x10:016x}, {0x11:016x}" in str(caught.value)


def test_what_is_wrong_with_the_wanted_report_is_why_it_is_not_shown() -> None:
    other = IntegrityError('drill report "drills/20261121T023000Z-ffff.report" is damaged')
    wanted = IntegrityError('drill report "drills/20261121T023000Z-eeee.report" is damaged')

    with pytest.raises(IntegrityError, match="eeee"):
        _chosen(HELD, "eeee", [other, wanted], Outcomes())
    with pytest.raises(ConfigError, match='there is no report of a drill "abcd"'):
        _chosen(HELD, "abcd", [other, wanted], Outcomes())


def test_a_vault_that_could_not_be_asked_may_have_it() -> None:
    error = StoreUnavailableError("the store did not answer")

    with pytest.raises(StoreUnavailableError):
        _chosen([], "abcd", [], Outcomes(errors=[error]))


def test_the_newest_is_not_given_out_for_one_that_is_damaged_unless_there_is_another() -> None:
    damaged = IntegrityError('drill report "drills/20261121T023000Z-eeee.report" is damaged')

    with pytest.raises(IntegrityError):
        _chosen([], None, [damaged], Outcomes())
    assert _chosen(HELD, None, [damaged], Outcomes()) is HELD[1]
