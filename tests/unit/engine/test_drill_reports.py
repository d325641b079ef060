# SPDX-License-Identifier: Apache-2.0
"""How much of what machines showed a report takes along."""

from snapvault.engine.drill_reports import fitting
from tests.support import reports


def test_the_first_pictures_are_kept_as_far_as_they_fit() -> None:
    steps = [
        reports.step(name, console="login:", screenshot=bytes(3_000)) for name in ("a", "b", "c")
    ]
    small = reports.step("d", screenshot=bytes(3))
    report = reports.report(*steps, small)

    kept = fitting(report, 4_100)

    assert [len(step.screenshot or b"") for step in kept.steps] == [3_000, 0, 0, 3]
    assert [step.console for step in kept.steps] == ["login:", "login:", "login:", ""]
    assert "screenshot" not in kept.steps[0].facts
    assert kept.steps[1].facts["screenshot"].startswith("left out: its 2.9 KiB do not fit")


def test_a_report_that_fits_is_stored_as_it_is() -> None:
    report = reports.report(reports.step(console="login:", screenshot=bytes(3_000)))

    assert fitting(report, 4_008) == report
    assert fitting(report, 4_007) != report
