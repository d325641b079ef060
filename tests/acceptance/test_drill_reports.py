# SPDX-License-Identifier: Apache-2.0
"""Reports of drills as people and auditors get them: listed, shown, summed up, and as pages.

The drills here never were; their reports take the road of real ones: made on the machine that has
the recovery key, stored in the vault, and read on the backup host.
"""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from snapvault import clock
from snapvault.adapters.reports.pages import Origin, ReportPages
from snapvault.config.settings import load_settings
from snapvault.formats import drill_report
from snapvault.model.drill_audit import Promise, SignedReport, audit
from snapvault.model.drills import CheckResult, DrillReport, Phase, StepReport, Verdict
from snapvault.model.runs import SourceKey
from snapvault.wiring.drill_reports import store_report, sync_reports
from snapvault.wiring.history import open_history
from tests.acceptance.program import Host, image
from tests.acceptance.test_status_page import FAINT, SCREENS, STICKS_OUT, UNCLEAR
from tests.support import keys
from tests.support import reports as drills
from tests.support.browser import Browser, browser
from tests.support.events import RecordedEvents

pytestmark = pytest.mark.integration

EVIL = (
    "\"'><script>window.pwned=1;alert(1)</script><img src=//evil.example/x onerror=alert(2)>\u202e"
)
PHASES = {Phase.LOCATE: 0.4, Phase.FETCH: 7.3, Phase.BOOT: 28.2, Phase.READY: 3.9}


@pytest.fixture
def both(used: Host, recovery: Host) -> tuple[Host, Host]:
    """Return a backup host with restore points, and the machine where drills are made."""
    used.protect(
        {"web01": image(used.folder / "disk.img"), "mail": image(used.folder / "mail.img")},
        objectives={"rto": "1h", "rpo": "26h", "drill": "7d"},
    )
    return used, recovery


def keep(host: Host, *reports: DrillReport) -> list[str]:
    """Store reports as a drill on that host does; return the names of their objects."""
    events = RecordedEvents()
    stored = [store_report(load_settings(host.settings), report, events) for report in reports]
    assert events.warnings == []
    return [name for name in stored if name is not None]


def recent(hours: float, number: int, *steps: StepReport) -> DrillReport:
    """Return a report of a drill so many hours ago."""
    days = (clock.now() - drills.STARTED) / timedelta(days=1)
    return drills.at(days - hours / 24, number, *steps)


def test_the_backup_host_learns_of_drills_that_were_made_elsewhere(
    both: tuple[Host, Host],
) -> None:
    host, recovery = both
    keep(recovery, recent(30, 1, drills.failed()), recent(6, 2, drills.step(), drills.step("shop")))

    listed = host.does("drill", "list").stdout.splitlines()
    of_shop = host.does("drill", "list", "shop", "--json").json
    newest = host.does("drill", "report").stdout
    with open_history(load_settings(host.settings)) as history:
        remembered = {str(key) for key in history.last_drills()}

    assert [line.split()[:3] for line in listed] == [
        ["DRILL", "SOURCE", "KIND"],
        [f"{1:016x}", "web01", "boot"],
        [f"{2:016x}", "web01", "boot"],
        [f"{2:016x}", "shop", "boot"],
    ]
    assert [(row["drill"], row["verdict"], row["signer"]) for row in of_shop] == [
        (f"{2:016x}", "passed", keys.RECOVERY)
    ]
    assert f"drill {2:016x} of policy nightly passed" in newest
    assert "recovery time  30s, RTO 1h met" in newest
    assert remembered == {"offsite/web01", "offsite/shop"}


def test_the_newest_drills_are_remembered_once_and_no_report_is_fetched_twice(
    both: tuple[Host, Host],
) -> None:
    host, recovery = both
    reports = [recent(30, 1, drills.failed()), recent(6, 2)]
    names = keep(recovery, *reports)
    settings, events = load_settings(host.settings), RecordedEvents()

    first = sync_reports(settings, "offsite", events)
    for name in names:
        # Whatever reads it again would not believe it.
        path = host.folder.parent / "vault" / name
        path.write_bytes(b"x" * path.stat().st_size)
    second = sync_reports(settings, "offsite", events)

    assert (first.fresh, first.problems, first.left_out) == (2, (), 0)
    assert (second.fresh, second.problems, second.left_out) == (0, (), 0)
    with open_history(settings) as history:
        key = SourceKey("offsite", "web01")
        verdicts = [summary.verdict for summary in history.drills(key)]
        assert verdicts == [Verdict.PASSED, Verdict.FAILED]
        assert history.last_drills(Verdict.PASSED)[key].id == reports[1].id


def test_a_drill_is_remembered_where_it_was_made_though_the_vault_cannot_be_reached(
    both: tuple[Host, Host],
) -> None:
    _, recovery = both
    report = recent(1, 1)
    keep(recovery)
    (recovery.folder.parent / "vault").rename(recovery.folder.parent / "elsewhere")
    events = RecordedEvents()
    settings = load_settings(recovery.settings)

    name = store_report(settings, report, events)

    assert name is None
    assert events.warnings[0].startswith(f"the report of drill {report.id} is not in the vault: ")
    with open_history(settings) as history:
        assert [summary.id for summary in history.drills()] == [report.id]


def test_a_report_comes_back_in_full(both: tuple[Host, Host], tmp_path: Path) -> None:
    host, recovery = both
    full = drills.step(screenshot=drills.png(), console="\x1b[1mweb01 login: ", commands=("true",))
    report = recent(2, 0xABC, full)
    _, name = keep(recovery, recent(1, 1), report)

    found = host.does("drill", "report", "0000000000000abc", "--json").json
    text = host.does("drill", "report", "0000000000000ab").stdout
    page = tmp_path / "drill.html"
    host.does("drill", "report", report.id, "--html", str(page))

    assert (found.pop("object"), found.pop("signer")) == (name, keys.RECOVERY)
    assert drill_report.decode(json.dumps(found).encode())[1] == report
    assert "    web01 login: " in text
    assert "the same by hand:\n    true" in text
    assert page.read_text().startswith("<!doctype html>")
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert list(tmp_path.glob(".drill*")) == []


def test_a_period_is_summed_up_for_an_auditor(both: tuple[Host, Host]) -> None:
    host, recovery = both
    slow = drills.step(seconds_to_ready=90.0, rto=60.0)
    names = keep(
        recovery, drills.at(0, 1), drills.at(0.1, 2, slow), drills.at(0.2, 3, drills.failed())
    )

    document = host.does("drill", "report", "--period", "2026-11", "--json").json
    page = host.does("drill", "report", "--period", "2026-11", "--html", "-").stdout

    (web01,) = [each for each in document["sources"] if each["source"] == "web01"]
    assert {key: web01[key] for key in ("passed", "failed", "skipped", "rto_missed")} == {
        "passed": 2,
        "failed": 1,
        "skipped": 0,
        "rto_missed": 1,
    }
    assert (web01["median_seconds"], web01["worst_seconds"], web01["rto_seconds"]) == (60, 90, 3600)
    assert web01["points"] == ["0123456789abcdef"]
    assert web01["interval_kept"] is False
    assert document["never_rehearsed"] == ["offsite/mail"]
    assert document["signers"] == {keys.RECOVERY: 3}
    assert len(document["drills"]) == len(names) == 3
    assert "Never rehearsed in this time" in page


def test_where_there_are_no_policies_the_sum_says_that_it_is_incomplete(
    both: tuple[Host, Host],
) -> None:
    _, recovery = both
    keep(recovery, drills.at(0, 1))

    ended = recovery.does("drill", "report", "--period", "2026-11", "--json")

    assert [each["source"] for each in ended.json["sources"]] == ["web01"]
    assert "what policies promise is not known here" in ended.json["problems"][0]
    assert "what policies promise is not known here" in ended.stderr


def test_a_wrong_policy_takes_nothing_from_the_sum_but_what_it_promises_itself(
    both: tuple[Host, Host],
) -> None:
    host, _ = both
    host.protect(
        {"db01": image(host.folder / "disk.img")}, name="right", objectives={"drill": "7d"}
    )
    (host.folder / "policies" / "wrong.yaml").write_text("vault: elsewhere\n")
    keep(host, drills.at(0, 1))

    ended = host.does("drill", "report", "--period", "2026-11", "--json")

    assert {each["source"] for each in ended.json["sources"]} >= {"web01", "db01"}
    assert "all that policies promise is not known here" in ended.json["problems"][0]
    assert "wrong.yaml" in ended.stderr


def test_a_forged_report_is_told_everywhere_and_believed_nowhere(both: tuple[Host, Host]) -> None:
    host, recovery = both
    good, bad = keep(recovery, drills.at(0, 1), drills.at(0.1, 2, drills.failed()))
    path = host.folder.parent / "vault" / bad
    # Somebody would rather have the failed drill be the good one.
    path.write_bytes((host.folder.parent / "vault" / good).read_bytes())

    listed = host.does("drill", "list")
    said = host.fails(13, "drill", "report", f"{2:016x}")
    summed = host.does("drill", "report", "--period", "2026-11", "--json")

    for text in (listed.stderr, said, summed.stderr, summed.json["problems"][0]):
        assert f'drill report "{bad}" is out of place' in text
    assert len(listed.stdout.splitlines()) == 2
    assert len(summed.json["drills"]) == 1


def test_nothing_else_stumbles_over_reports(both: tuple[Host, Host], tmp_path: Path) -> None:
    host, recovery = both
    keep(recovery, recent(6, 1), recent(5, 2, drills.failed()))
    vault = host.folder.parent / "vault"
    (host.folder.parent / "disk.img").write_bytes(b"other" * 10_000)
    host.protect({"web01": image(host.folder.parent / "disk.img")})

    host.does("backup")
    host.does("catalog", "rebuild")
    assert len(host.points()) == 3
    recovery.does("verify", "--level", "full")
    script = [sys.executable, "-I", "-S", str(vault / "restore.py"), str(vault)]
    restored = subprocess.run(
        [*script, "web01", "--to", str(tmp_path / "image"), "--signer", keys.HOST],
        env={**os.environ, "GNUPGHOME": str(recovery.home)},
        capture_output=True,
        check=False,
    )

    assert restored.returncode == 0, restored.stderr
    assert (tmp_path / "image").read_bytes() == b"other" * 10_000


def test_what_cannot_be_shown_is_said_in_one_line_with_a_hint(
    both: tuple[Host, Host], tmp_path: Path
) -> None:
    host, recovery = both

    none = host.fails(10, "drill", "report")
    assert "there is no drill report yet" in none

    keep(recovery, recent(3, 0x10))
    assert 'there is no drill of source "web02"' in host.fails(10, "drill", "list", "web02")
    assert 'expected "month"' in host.fails(2, "drill", "report", "--period", "week")
    missing = str(tmp_path / "no" / "x.html")
    assert f'could not write "{missing}"' in host.fails(10, "drill", "report", "--html", missing)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


def hostile() -> StepReport:
    """Return a step whose every text comes from somebody who means ill."""
    plain = drills.failed("web01", EVIL)
    return replace(
        plain,
        kind=EVIL,
        point=EVIL,
        checks=(CheckResult(EVIL, Verdict.FAILED, EVIL * 5, 3.0),),
        facts={"kernel": EVIL, EVIL: EVIL * 9},
        hits=(EVIL, "f" * 300),
        commands=(EVIL, "x" * 400),
        console=EVIL * 50 + "\x1b]0;\x07\x00" + "=" * 5000,
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Write the page of a drill and that of a period, full of all there is, and of ill will."""
    good = drills.step(
        phases=PHASES, console="web01 login: ", screenshot=drills.png(720, 400), commands=("true",)
    )
    late = drills.step("shop", seconds_to_ready=90.0, rto=60.0, age=90_000.0, rpo=3600.0)
    report = drills.at(0, 1, good, hostile(), late)
    signed = [SignedReport(each, keys.RECOVERY) for each in (report, *many())]
    promises = [
        Promise(SourceKey("offsite", name), EVIL, timedelta(hours=1), None, timedelta(days=7))
        for name in ("web01", EVIL, "x" * 80)
    ]
    start, end = drills.STARTED - timedelta(days=300), drills.STARTED + timedelta(days=1)
    found = audit(signed, promises, start=start, end=end, now=end)
    pages = ReportPages(ZoneInfo("Europe/Paris"))
    texts = {
        "drill": pages.report(report, Origin("drills/x.report", keys.RECOVERY)),
        "period": pages.audit(found, period="2026", host=EVIL, version=EVIL, problems=[EVIL * 3]),
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text)
    return [f"file://{folder}/{name}.html" for name in texts]


def many() -> list[DrillReport]:
    """Return a long table's drills."""
    return [
        drills.at(-n, n + 2, drills.failed() if n % 7 == 0 else drills.step()) for n in range(200)
    ]


@pytest.mark.parametrize("screen", SCREENS)
def test_pages_are_readable_on_every_screen_and_nothing_in_them_acts(
    written: list[str], chromium: Browser, screen: str
) -> None:
    width, dark = SCREENS[screen]

    for address in written:
        chromium.open_page(width=width, dark=dark)
        seen = chromium.go(address)

        assert all(url.startswith(("file:", "data:image/")) for url in seen.requests)
        assert (seen.console, seen.dialogs) == ([], [])
        assert chromium.evaluate("window.pwned === undefined")
        assert chromium.evaluate("document.scripts.length") == 0
        assert chromium.evaluate(STICKS_OUT) == []
        assert chromium.evaluate("document.documentElement.scrollWidth") <= width
        assert chromium.evaluate(FAINT) == []
        assert chromium.evaluate(UNCLEAR) == []
        # The style is there in spite of the page's own policy.
        ground = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(20, 23, 26)" if dark else "rgb(251, 250, 247)")
