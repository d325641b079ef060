# SPDX-License-Identifier: Apache-2.0
"""Pages: what they say, and that nothing in them is taken for markup."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from snapvault.daemon.web.pages import Pages
from snapvault.model.runs import SourceKey
from snapvault.model.status import Status, VaultStatus
from tests.support.status_builder import (
    NOW,
    a_drill,
    a_failure,
    a_point,
    a_run,
    a_source,
    a_status,
    a_verify,
    an_alarm,
    breached,
    burning_host,
    deaf,
    empty_host,
    failing,
    large_host,
    mixed_host,
    quiet_host,
    rehearsed_host,
    running,
    waiting,
)

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202e{{ 7*7 }}\x00\ud800"
VOID = {"meta", "link", "input", "br", "img", "hr"}


class Reader(HTMLParser):
    """Reads a page strictly: every element is closed where it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str | None) -> Reader:
    assert page is not None
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    reader.text = " ".join(reader.text.split())
    return reader


@pytest.fixture(scope="module")
def pages() -> Pages:
    return Pages(ZoneInfo("Europe/Paris"))


@pytest.mark.parametrize(
    "status",
    [quiet_host(), mixed_host(), empty_host(), large_host(), burning_host(), rehearsed_host()],
    ids=["quiet", "mixed", "empty", "large", "burning", "rehearsed"],
)
@pytest.mark.parametrize("show", ["all", "problems", "running", "nonsense"])
def test_every_host_makes_a_well_formed_page_that_nothing_from_outside_belongs_to(
    pages: Pages, status: Status, show: str
) -> None:
    found = read(pages.overview(status, show=show))

    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "script" not in {tag for tag, _ in found.tags}
    for tag, attributes in found.tags:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        target = attributes.get("href") or attributes.get("src") or "/"
        assert target.startswith(("/", "#", "data:image/svg+xml,")), target


@pytest.mark.parametrize("zone", ["Pacific/Auckland", "America/New_York"])
def test_restore_points_at_the_ends_of_the_calendar_are_shown(zone: str) -> None:
    key = SourceKey("offsite", "web01")
    first = a_point(key, datetime.min.replace(tzinfo=UTC))
    last = a_point(key, datetime.max.replace(tzinfo=UTC))
    source = a_source("web01", points=(first, last), newest=last)
    status = a_status(source)
    pages = Pages(ZoneInfo(zone))

    overview = read(pages.overview(status, show="all"))
    page = read(pages.source(status, key))

    assert "restore points of 0 of the last 35 days" in overview.text
    assert "9999-12-31" in page.text


def test_the_overview_tells_what_an_operator_asks(pages: Pages) -> None:
    text = read(pages.overview(mixed_host(), show="all")).text

    assert "2 of 12 sources need attention" in text
    assert "Restore point too old" in text
    assert 'Look at its last run, then run "snapvault backup orders".' in text
    assert "13.0 GiB of 40.0 GiB, 32 %" in text
    assert "Free at least 2.0 GiB in volume group" in text
    assert "7h 40m ago" in text
    assert "today 10:32 crm again" in text
    assert " GiB added in 35 days, " in text
    assert "No drill has run." in text
    assert "As of 2026-11-20 10:12:44 CET" in text


def test_the_overview_shows_drills_verifies_and_who_is_told(pages: Pages) -> None:
    text = read(pages.overview(rehearsed_host(), show="all")).text

    assert "shop 5h ago database passed all 3 checks passed" in text
    assert "Report: snapvault drill report 20261120T040000Z-" in text
    assert "4m 12s of 30m 2h 32m of 1d 2h" in text
    assert "42m of 30m longer than the RTO" in text
    assert "1d 4h of 1d 2h older than the RPO" in text
    assert 'boot failed no line of the console matched "login:" within 10m' in text
    assert "1,284,311 objects, 3h ago nothing is wrong data, 1d 4h ago 2 findings" in text
    assert "45.4 GiB pruned 1d ago 20,412 never" in text
    assert "chat cannot be told. " in text
    assert 'chat cannot be told 7h ago 9m ago could not post to webhook "chat"' in text
    assert "2 notices lost since the daemon started 3 ops" in text
    assert "pager nothing yet none 0" in text


def test_what_there_is_not_has_no_place(pages: Pages) -> None:
    text = read(pages.overview(quiet_host(), show="all")).text

    assert "Who is told" not in text
    assert "pruned" not in text
    assert "No drill has run." in text


def test_one_that_cannot_be_told_is_in_the_headline_when_all_else_is_well(pages: Pages) -> None:
    status = replace(quiet_host(), notifiers=(deaf(),))

    text = read(pages.overview(status, show="all")).text

    assert "Somebody cannot be told" in text


def test_the_page_of_a_source_shows_its_last_drill(pages: Pages) -> None:
    status = rehearsed_host()
    key = SourceKey("offsite", "web02")

    text = read(pages.source(status, key)).text

    assert "Last drill Result boot failed no line of the console" in text
    assert "last good one 7d ago" in text
    assert "Recovery timenot measured" in text
    assert "snapvault drill report 20261120T040000Z-4db1" in text


def test_a_state_is_told_in_words_and_not_by_color_alone(pages: Pages) -> None:
    text = read(pages.overview(mixed_host(), show="all")).text

    for word in (
        "protected",
        "restore point too old",
        "never backed up",
        "last run failed",
        "waiting for its first run",
        "policy is not enabled",
        "protected, running",
    ):
        assert word in text


def test_only_problems_are_shown_to_who_asks_for_them(pages: Pages) -> None:
    page = pages.overview(large_host(), show="problems")

    assert page.count('role="rowheader"') == 7 + 1  # and the vault


def test_many_alarms_of_a_kind_do_not_bury_the_page(pages: Pages) -> None:
    status = burning_host()

    found = read(pages.overview(status, show="all"))

    assert "18 more" in found.text
    assert all(source.key.source in found.text for source in status.sources)


def test_two_hundred_sources_make_a_page_of_less_than_half_a_megabyte(pages: Pages) -> None:
    page = pages.overview(large_host(), show="all")

    assert len(page) < 500_000


def test_a_page_that_changes_by_itself_is_loaded_again(pages: Pages) -> None:
    status = quiet_host()
    busy = next(source for source in status.sources if source.running)
    assert busy.running is not None
    assert busy.last is not None

    def refresh(page: str | None) -> list[str | None]:
        tags = read(page).tags
        return [one["content"] for tag, one in tags if one.get("http-equiv") == "refresh"]

    assert refresh(pages.overview(status, show="all")) == ["30"]
    assert refresh(pages.source(status, busy.key)) == ["30"]
    assert refresh(pages.source(status, SourceKey("offsite", "mail"))) == []
    assert refresh(pages.run(status, busy.running, [])) == ["10"]
    assert refresh(pages.run(status, busy.last, [])) == []


def test_a_source_shows_its_points_runs_and_alarms(pages: Pages) -> None:
    source = breached(a_source("orders"))
    status = a_status(source)

    text = read(pages.source(status, source.key)).text

    assert "Restore points of the last 35 days" in text
    assert "32 restore points" in text
    assert source.points[0].point in text
    assert "file systems frozen" in text
    assert 'newest restore point of source "offsite/orders" is 1d 5h old' in text
    assert "its schedule, attempt 2" in text
    assert "no free extents" in text


def test_a_source_without_anything_has_a_page_too(pages: Pages) -> None:
    source = waiting(a_source("newbie"))

    text = read(pages.source(a_status(source), source.key)).text

    assert "There is none." in text
    assert "No run is remembered." in text


def test_there_is_no_page_of_a_source_that_is_not_there(pages: Pages) -> None:
    assert pages.source(quiet_host(), SourceKey("offsite", "nobody")) is None


def test_a_run_shows_why_it_failed_and_its_log(pages: Pages) -> None:
    source = failing(a_source("crm"))
    assert source.last is not None
    log: list[dict[str, object]] = [
        {"at": "2026-11-20T08:12:44.000000Z", "level": "info", "event": "backup.started"},
        {
            "at": "2026-11-20T08:12:45.500000Z",
            "level": "warning",
            "event": "hint.lost",
            "message": "thin_delta knows no snapshot of before",
            "stream": "root",
            "size_bytes": 5,
            "again": True,
            "nothing": None,
        },
    ]

    text = read(pages.run(a_status(source), source.last, log)).text

    assert "Run of today 09:12 failed" in text
    assert "no free extents" in text
    assert "Exit status 15. Trying again can help." in text
    assert "09:12:45 warning hint.lost thin_delta knows no snapshot of before" in text
    assert "stream=root size_bytes=5 again=yes nothing=" in text


def test_a_log_of_any_length_and_shape_is_shown_at_its_end(pages: Pages) -> None:
    run = a_run(SourceKey("offsite", "gone"))
    log: list[dict[str, object]] = [{"event": f"step-{n}"} for n in range(1500)]
    log += [{}, {"at": 17, "level": ["odd"], "event": None, "message": {"a": 1}}]

    text = read(pages.run(a_status(runs=(run,)), run, log)).text

    assert "502 earlier events left out here." in text
    assert "step-501" not in text
    assert "step-502" in text
    assert "{'a': 1}" in text


@pytest.mark.parametrize("missed", [0, 4])
def test_a_run_with_hardly_anything_known_has_a_page(pages: Pages, missed: int) -> None:
    run = a_run(SourceKey("offsite", "gone"), counters={}, due=None, missed=missed, size=None)

    text = read(pages.run(a_status(runs=(run,)), run, [])).text

    assert "No log is kept of this run." in text


@pytest.mark.parametrize(("done", "total"), [(0, None), (5, 0), (7, 5), (0, 10)])
def test_progress_of_any_kind_is_shown(pages: Pages, done: int, total: int | None) -> None:
    source = running(a_source(), done=done, total=total)

    found = read(pages.overview(a_status(source), show="all"))

    bars = [attributes for tag, attributes in found.tags if tag == "progress"]
    assert len(bars) == 1
    assert "107 %" not in found.text
    assert "140 %" not in found.text


def evil_host() -> Status:
    """A host where whatever a text can be is as bad as it can be."""
    key = SourceKey(EVIL, EVIL)
    failure = a_failure(message=EVIL, hint=EVIL)
    source = running(a_source(EVIL, vault=EVIL, policy=EVIL, kinds=(EVIL,)))
    assert source.progress is not None
    source = replace(
        source,
        progress=replace(source.progress, label=EVIL),
        alarms=(an_alarm(f"{EVIL}/{EVIL}", message=EVIL, hint=EVIL, kind=EVIL),),
        points=tuple(replace(point, point=EVIL, consistency=EVIL) for point in source.points),
        last=a_run(key, id=EVIL, failure=failure, point=EVIL, counters={EVIL: 1}),
        retry_at=NOW + timedelta(minutes=1),
        drill=(drill := a_drill(key, id=EVIL, kind=EVIL, point=EVIL, reason=EVIL)),
    )
    base: Any = {
        "host": EVIL,
        "version": EVIL,
        "problems": (EVIL,),
        "vaults": (
            VaultStatus(
                EVIL, EVIL, 3, 5, EVIL, verifies=(a_verify(level=EVIL, source=EVIL, share=5),)
            ),
        ),
        "drills": (drill,),
        "notifiers": (deaf(EVIL, problem=EVIL),),
    }
    return a_status(source, **base)


def test_no_text_is_ever_taken_for_markup(pages: Pages) -> None:
    status = evil_host()
    source = status.sources[0]
    assert source.last is not None
    log: list[dict[str, object]] = [
        {"at": EVIL, "level": EVIL, "event": EVIL, "message": EVIL, EVIL: EVIL}
    ]

    made = [
        pages.overview(status, show=EVIL),
        pages.source(status, source.key),
        pages.run(status, source.last, log),
        pages.login(goal=EVIL, wrong=True),
        pages.problem(EVIL, EVIL, EVIL),
    ]

    for page in made:
        found = read(page)
        assert not {"script", "img"} & {tag for tag, _ in found.tags}
        assert not [
            name for _, attributes in found.tags for name in attributes if "onerror" in name
        ]
        assert "{{ 7*7 }}" in found.text + str(found.tags)
