# SPDX-License-Identifier: Apache-2.0
"""docs/operations.md agrees with the code, the units and systemd."""

import re
from pathlib import Path

import yaml

from snapvault.config.settings import load_settings
from snapvault.model.objectives import KINDS
from snapvault.model.settings import DaemonSettings

ROOT = Path(__file__).parents[2]
MANUAL = (ROOT / "docs/operations.md").read_text()


def section(title: str) -> str:
    return MANUAL.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """Return the cells of a section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_every_kind_of_alarm_has_its_meaning_and_its_remedy() -> None:
    documented = rows("Alarms")

    assert [row[0].strip("` ") for row in documented] == list(KINDS)
    assert all(meaning and remedy for _, meaning, remedy in documented)


def test_the_alert_rules_are_whole() -> None:
    (text,) = re.findall(r"```yaml\n(groups:.*?)```", MANUAL, re.DOTALL)

    (group,) = yaml.safe_load(text)["groups"]

    assert all({"alert", "expr", "annotations"} <= rule.keys() for rule in group["rules"])
    assert len(group["rules"]) >= 5


def test_the_manual_names_the_statuses_that_the_unit_does_not_restart_after() -> None:
    unit = (ROOT / "systemd/snapvault.service").read_text()
    (statuses,) = re.findall(r"^RestartPreventExitStatus=(.+)$", unit, re.MULTILINE)
    *first, last = statuses.split()

    assert f"{', '.join(first)} and {last}. A" in section("The service")


def test_the_manual_names_the_page_where_it_is_served() -> None:
    daemon = DaemonSettings()

    assert f"http://{daemon.listen_host}:{daemon.listen_port}/metrics" in MANUAL


def test_the_settings_that_an_installation_starts_from_are_right() -> None:
    settings = load_settings(ROOT / "examples/first.yaml")

    assert list(settings.vaults) == ["offsite"]
    assert list(settings.notify) == ["ops"]
