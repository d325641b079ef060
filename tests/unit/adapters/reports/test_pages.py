# SPDX-License-Identifier: Apache-2.0
"""Reports as pages: everything is said, nothing foreign acts."""

import re
from datetime import UTC, timedelta
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from snapvault.adapters.reports import bars, words
from snapvault.adapters.reports.pages import Origin, ReportPages
from snapvault.daemon.web.pages import Pages
from snapvault.model.drill_audit import Promise, SignedReport, audit
from snapvault.model.drills import CheckResult, Phase, Result, Verdict
from snapvault.model.runs import SourceKey
from tests.support import reports as drills

ORIGIN = Origin("drills/20261121T023000Z-00112233445566aa.report", "AB" * 20)
HOSTILE = "<script>alert(1)</script>\x1b[2J\x00'\"&\u202e<img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def pages() -> ReportPages:
    return ReportPages(UTC)


def text_of(page: str) -> str:
    """Return what a page says, without its marks."""
    body = page[page.index("<body") :]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", body)))


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Tags()
    parser.feed(page)
    return parser.found


def test_a_report_says_everything(pages: ReportPages) -> None:
    step = drills.step(
        hits=("ffffffffffffffff",),
        commands=("snapvault restore web01 --to web01.raw",),
        counters={"fetched_bytes": 3 << 20},
        facts={"firmware": "bios"},
        console="web01 login: ",
    )

    said = text_of(pages.report(drills.report(step), ORIGIN))

    for part in (
        "Drill of policy nightly passed",
        "recovery.example.org",
        "snapvault 0.1.0",
        "Started by its schedule",
        "any, at random",
        "20261121",
        "0123456789abcdef",
        "2026-11-20 21:30:00 UTC",
        "4.0 GiB",
        "RTO of 1h met",
        "RPO of 1d 2h met",
        "Restored: passed all of it",
        "Cleaned up: passed nothing is left",
        'console shows "login:"',
        "line 212",
        "ffffffffffffffff",
        "snapvault restore web01 --to web01.raw",
        "Fetched 3.0 MiB",
        "Firmware bios",
        "web01 login:",
        ORIGIN.name,
        ORIGIN.signer,
    ):
        assert part in said, part


def test_missed_objectives_stand_at_the_top_though_the_drill_passed(pages: ReportPages) -> None:
    late = drills.step(seconds_to_ready=100.0, rto=60.0, age=7200.0, rpo=3600.0)

    said = text_of(pages.report(drills.report(late)))

    assert said.index("Objectives missed") < said.index("Restored:")
    assert "web01 was ready after 1m 40s, its RTO is 1m" in said
    assert "the restore point of web01 was 2h old, its RPO is 1h" in said


def test_a_drill_that_ended_early_says_why(pages: ReportPages) -> None:
    early = drills.report(problem="the host went down", steps=())

    said = text_of(pages.report(early))

    assert "failed" in said
    assert "It ended before its steps did the host went down" in said


def test_a_page_that_is_not_from_the_vault_says_so(pages: ReportPages) -> None:
    assert "Signed by nobody" in text_of(pages.report(drills.report()))


def test_nothing_that_a_guest_said_acts(pages: ReportPages) -> None:
    step = drills.failed(
        HOSTILE,
        point=HOSTILE,
        kind=HOSTILE,
        restored=Result(Verdict.FAILED, HOSTILE, HOSTILE),
        checks=(CheckResult(HOSTILE, Verdict.FAILED, HOSTILE),),
        facts={HOSTILE: HOSTILE},
        counters={HOSTILE: 1},
        hits=(HOSTILE,),
        commands=(HOSTILE,),
        console=HOSTILE * 3,
    )
    report = drills.report(
        step,
        step,
        policy=HOSTILE,
        host=HOSTILE,
        version=HOSTILE,
        trigger=HOSTILE,
        choice=HOSTILE,
        problem=HOSTILE,
    )
    found = audit(
        [SignedReport(report, "AB" * 20)],
        [Promise(SourceKey("offsite", HOSTILE + "2"), HOSTILE, None, None, None)],
        start=drills.STARTED,
        end=drills.STARTED + timedelta(days=1),
        now=drills.STARTED,
    )

    for page in (
        pages.report(report),
        pages.audit(found, period="2026", host=HOSTILE, version=HOSTILE, problems=[HOSTILE]),
    ):
        assert {tag for tag, _ in tags(page)} & {"script", "img", "iframe", "object"} == set()
        assert not any(name.startswith("on") for _, given in tags(page) for name in given)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", page)
        assert "alert(1)" in text_of(page)


def test_a_page_needs_nothing_but_itself(pages: ReportPages) -> None:
    shown = drills.report(drills.step(screenshot=drills.png(), console="login: "), drills.step())

    page = pages.report(shown, ORIGIN)

    links = [
        value
        for tag, given in tags(page)
        for name, value in given.items()
        if name in {"href", "src", "srcset", "action", "data"} and tag != "use"
    ]
    assert all(value and value.startswith(("data:", "#step-")) for value in links)
    assert not any("style" in given for _, given in tags(page))
    assert f'content="{pages.policy}"'.replace("'", "&#39;") in page
    assert "url(" not in page


def test_only_a_png_is_shown_as_a_screen(pages: ReportPages) -> None:
    good = drills.report(drills.step(screenshot=drills.png()))
    bad = drills.report(drills.step(screenshot=b"<svg onload=alert(1)>"))

    assert [tag for tag, _ in tags(pages.report(good))].count("img") == 1
    assert "img" not in [tag for tag, _ in tags(pages.report(bad))]


def test_phases_follow_each_other_and_add_up_to_the_tenth() -> None:
    times = dict.fromkeys(Phase, 0.149)

    rows = bars.phases(times, 1.49)

    shown = [round(float(row.seconds.removesuffix(" s")) * 10) for row in rows]
    places = [
        re.search(r'<rect class="\w+" x="([\d.]+)" width="([\d.]+)"', row.svg) for row in rows
    ]
    edges = [(float(place[1]), float(place[1]) + float(place[2])) for place in places if place]
    assert sum(shown) == 15
    assert len(edges) == len(Phase)
    assert all(abs(after[0] - before[1]) < 0.2 for before, after in pairwise(edges))
    assert edges[0][0] == 0
    assert abs(edges[-1][1] - 1000) < 0.2


def test_what_no_phase_took_is_shown_as_everything_else() -> None:
    rows = bars.phases({Phase.BOOT: 30.0}, 40.0)

    assert [(row.label, row.seconds, row.percent) for row in rows] == [
        ("boot", "30.0 s", "75 %"),
        ("everything else", "10.0 s", "25 %"),
    ]


def test_a_drill_that_took_no_time_has_no_chart() -> None:
    assert bars.phases({}, 0.0) == []


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a\r\nb\rc\n", "a\nb\nc"),
        ("\x1b[0;32m[ OK ]\x1b[0m up", "[ OK ] up"),
        ("\x1b]0;title\x07text", "text"),
        ("a\x00b\x08c\tz", "a␀b␈c\tz"),
        ("\u202egnp.exe", "⟨202E⟩gnp.exe"),
        ("\x1b[", "␛["),
        ("日本 é", "日本 é"),
    ],
)
def test_a_console_is_readable_and_hides_nothing(written: str, read: str) -> None:
    assert words.console(written) == read


def test_a_period_says_who_was_never_rehearsed_who_signed_and_what_is_missing(
    pages: ReportPages,
) -> None:
    promises = [
        Promise(SourceKey("offsite", name), "nightly", timedelta(hours=1), None, timedelta(days=7))
        for name in ("web01", "mail")
    ]
    found = audit(
        [SignedReport(drills.at(-n, n + 1), "AB" * 20) for n in range(300)],
        promises,
        start=drills.STARTED - timedelta(days=400),
        end=drills.STARTED + timedelta(days=1),
        now=drills.STARTED,
    )

    said = text_of(
        pages.audit(found, period="2026", host="h", version="v", problems=["1 report is damaged"])
    )

    assert "Drills of 2026" in said
    assert "300 drills: 300 passed" in said
    assert "This may be incomplete 1 report is damaged" in said
    assert "Never rehearsed in this time mail of policy nightly" in said
    assert "AB" * 20 in said
    assert f"{300:016x}" in said


def test_the_reports_have_the_colors_of_the_status_page(pages: ReportPages) -> None:
    own = pages.report(drills.report(), ORIGIN)
    status = Pages(UTC).style.decode()

    def colors(style: str) -> str:
        return style[style.index(":root {") : style.index("/* --- the page")]

    assert "prefers-color-scheme: dark" in colors(own)
    assert colors(own) == colors(status)
