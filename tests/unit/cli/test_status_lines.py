# SPDX-License-Identifier: Apache-2.0
"""The status on a terminal: what is shown of a host, and on how many columns."""

import os
from pathlib import Path

import pytest

from snapvault.cli import status as command
from snapvault.cli.session import Session
from snapvault.cli.status_document import status_document
from tests.support.status_builder import mixed_host, rehearsed_host


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    command._print(Session(Path("snapvault.yaml")), rehearsed_host())
    return capsys.readouterr().out


def test_drills_are_shown_with_their_objectives_those_that_failed_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = shown(capsys)

    lines = said[said.index("last drills:") : said.index("notifiers:")].splitlines()
    assert [line.split(",")[0] for line in lines if line.startswith("  offsite")] == [
        "  offsite/mail",
        "  offsite/web01",
        "  offsite/web02",
        "  offsite/shop",
    ]
    assert "boot passed: all 3 checks passed" in said
    assert "    recovery time 42m of 30m RTO, longer than promised, recovery point 2h 32m" in said
    assert "    report: snapvault drill report 20261120T040000Z-" in said


def test_verifies_requests_and_notifiers_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys)

    assert "1,284,311\n" in said
    assert "  offsite, data, yesterday 05:12: 2 findings\n" in said
    removed = "removed 3 restore points and 120 objects (5.0 GiB)"
    assert f"  second-site, prune, yesterday 09:12: {removed}\n" in said
    assert "  offsite, prune, yesterday 09:12: refused: restore point " in said
    assert "  chat: cannot be told, delivered 7h ago, 3 notices waiting, 2 notices lost\n" in said
    assert '    last failure 9m ago: could not post to webhook "chat"' in said
    assert "  pager: nothing told yet\n" in said


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_table_of_sources_keeps_to_the_width_of_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(os, "environ", {"COLUMNS": str(width)})

    command._print(Session(Path("snapvault.yaml")), mixed_host())

    lines = capsys.readouterr().out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("SOURCE"))
    table = lines[start : lines.index("", start)]
    assert max(map(len, table)) <= width
    for column in ("STATE", "AGE", "RPO", "NEXT RUN"):
        assert column in table[0]
    assert ("LAST RUN" in table[0]) == (width == 140)


def test_programs_are_told_the_same() -> None:
    document = status_document(rehearsed_host())

    chat = document["notifiers"][0]
    web02 = next(each for each in document["sources"] if each["source"] == "web02")
    offsite, second = document["vaults"]
    assert (chat["name"], chat["up"], chat["failures"], chat["waiting"]) == ("chat", False, 12, 3)
    assert web02["rto_seconds"] == 1800
    assert web02["last_drill"]["verdict"] == "failed"
    assert web02["last_good_drill"]["ready_seconds"] == 252.0
    assert len(document["drills"]) == 4
    assert offsite["requests"] == 1_284_311
    assert [each["findings"] for each in offsite["verifies"]] == [0, 2]
    assert second["pruned_at"] == "2026-11-19T09:12:44.000000Z"
