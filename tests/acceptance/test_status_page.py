# SPDX-License-Identifier: Apache-2.0
"""The status page as a person sees it, in a real browser."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from snapvault.daemon.web.server import StatusServer
from snapvault.model.runs import SourceKey
from snapvault.model.status import Status, VaultStatus
from tests.support.browser import Browser, Seen, browser
from tests.support.events import RecordedEvents
from tests.support.status_builder import (
    a_failure,
    a_run,
    a_source,
    a_status,
    an_alarm,
    burning_host,
    empty_host,
    failing,
    large_host,
    mixed_host,
    quiet_host,
    rehearsed_host,
    running,
)

pytestmark = pytest.mark.integration

TOKEN = "t0ken-of-the-tests-0123"
HOSTS = {
    "quiet": quiet_host(),
    "mixed": mixed_host(),
    "empty": empty_host(),
    "large": large_host(),
    "burning": burning_host(),
    "rehearsed": rehearsed_host(),
}
LOG: list[dict[str, object]] = [
    {"at": "2026-11-20T08:12:44.000000Z", "level": "info", "event": "backup.started"},
    {
        "at": "2026-11-20T08:12:44.000000Z",
        "level": "warning",
        "event": "hint.lost",
        "message": "a" * 300,
        "volume": "f" * 200,
    },
]
SCREENS = {
    "desktop": (1280, False),
    "night": (1280, True),
    "tablet": (820, False),
    "phone": (375, False),
    "phone-at-night": (375, True),
    "small-phone": (320, False),
}
LOOKS = [("mixed", screen) for screen in SCREENS]
LOOKS += [("burning", "night"), ("burning", "phone"), ("large", "phone-at-night")]
LOOKS += [("large", "desktop"), ("empty", "small-phone"), ("quiet", "phone")]
LOOKS += [("rehearsed", screen) for screen in ("desktop", "night", "tablet", "small-phone")]

# Every text of a page with its color and what lies behind it, and the contrast of both as
# WCAG 2.1 defines it; returns those that are too faint to read.
FAINT = """(() => {
  const channel = v => v <= 10 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const parse = text => {
    const n = text.match(/[\\d.]+/g).map(Number);
    if (text.startsWith("color(srgb")) return [n[0] * 255, n[1] * 255, n[2] * 255, n[3] ?? 1];
    return [n[0], n[1], n[2], n[3] ?? 1];
  };
  const behind = node => {
    for (let at = node; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color[3] === 1) return color;
    }
    return [255, 255, 255, 1];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let looked = 0;
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || node.closest("svg, .unseen, .skip")) continue;
    looked += 1;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5 && getComputedStyle(node).color !== "rgba(0, 0, 0, 0)")
      found.push(`${contrast.toFixed(2)} ${node.className} ${walker.currentNode.data.trim()}`);
  }
  return looked ? found : ["no text"];
})()"""

# What sticks out of the page to the side, although nothing makes it scroll there by itself.
STICKS_OUT = """[...document.querySelectorAll("main *, header *, footer *")].filter(node => {
  const box = node.getBoundingClientRect();
  return box.width > 1 && box.right > document.documentElement.clientWidth + 0.5
    && !node.closest(".unseen, thead");
}).map(node => node.outerHTML.slice(0, 120)).slice(0, 5)"""

# Landmarks, headings that skip no level, and tables whose headers say what they head.
UNCLEAR = """(() => {
  const wrong = [];
  for (const name of ["header", "main", "h1"])
    if (document.querySelectorAll(name).length !== 1) wrong.push(`not one ${name}`);
  if (document.documentElement.lang !== "en") wrong.push("no language");
  let last = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
    const level = Number(heading.tagName[1]);
    if (level > last + 1) wrong.push(`${heading.tagName} ${heading.textContent}`);
    last = level;
  }
  for (const head of document.querySelectorAll("th"))
    if (!head.scope) wrong.push(`th ${head.textContent}`);
  for (const part of document.querySelectorAll("[aria-labelledby]"))
    if (!document.getElementById(part.getAttribute("aria-labelledby"))) wrong.push(part.outerHTML);
  for (const link of document.querySelectorAll("a"))
    if (!link.textContent.trim()) wrong.push("a link without a text");
  for (const svg of document.querySelectorAll("svg"))
    if (!svg.hasAttribute("aria-hidden") && !svg.getAttribute("aria-label"))
      wrong.push("an unnamed drawing");
  return wrong;
})()"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@contextmanager
def serving(status: Status, *, token: str | None = None) -> Iterator[str]:
    """Serve a status, and yield the address."""

    def run_log(_: str) -> Sequence[Mapping[str, object]]:
        return LOG

    server = StatusServer(
        "127.0.0.1",
        0,
        token,
        lambda: status,
        run_log,
        RecordedEvents(),
        zone=ZoneInfo("Europe/Paris"),
    )
    server.start()
    try:
        yield f"http://{server.address}"
    finally:
        server.stop()


@pytest.fixture(scope="module")
def addresses() -> Iterator[Mapping[str, str]]:
    """Return where each of the hosts is served."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(serving(status)) for name, status in HOSTS.items()}


def assert_in_order(seen: Seen, address: str) -> None:
    """Nothing was asked of anybody else, and the browser had nothing to object to."""
    assert seen.requests
    outside = [url for url in seen.requests if not url.startswith((f"{address}/", "data:image/"))]
    assert outside == []
    assert seen.console == []
    assert seen.dialogs == []


@pytest.mark.parametrize(("host", "screen"), LOOKS)
def test_the_overview_is_readable_on_every_screen(
    chromium: Browser, addresses: Mapping[str, str], host: str, screen: str
) -> None:
    width, dark = SCREENS[screen]
    chromium.open_page(width=width, dark=dark)

    seen = chromium.go(addresses[host])

    assert_in_order(seen, addresses[host])
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    assert chromium.evaluate(STICKS_OUT) == []
    assert chromium.evaluate(FAINT) == []
    assert chromium.evaluate(UNCLEAR) == []


@pytest.mark.parametrize("screen", ["night", "small-phone"])
def test_the_page_of_a_source_with_drills_is_readable(
    chromium: Browser, addresses: Mapping[str, str], screen: str
) -> None:
    width, dark = SCREENS[screen]
    chromium.open_page(width=width, dark=dark)

    chromium.go(f"{addresses['rehearsed']}/source/offsite/web02")

    assert "snapvault drill report" in chromium.evaluate("document.body.innerText")
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    assert chromium.evaluate(STICKS_OUT) == []
    assert chromium.evaluate(FAINT) == []
    assert chromium.evaluate(UNCLEAR) == []


@pytest.mark.parametrize("screen", ["desktop", "night", "phone"])
@pytest.mark.parametrize(
    "path", ["source/offsite/orders", "source/offsite/web02", "run", "nothing"]
)
def test_what_the_overview_leads_to_is_readable_on_every_screen(
    chromium: Browser, addresses: Mapping[str, str], path: str, screen: str
) -> None:
    width, dark = SCREENS[screen]
    address = addresses["mixed"]
    if path == "run":
        path = f"run/{HOSTS['mixed'].failures[0].id}"
    chromium.open_page(width=width, dark=dark)

    seen = chromium.go(f"{address}/{path}")
    chromium.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")

    if path != "nothing":
        assert_in_order(seen, address)
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    assert chromium.evaluate(STICKS_OUT) == []
    assert chromium.evaluate(FAINT) == []
    assert chromium.evaluate(UNCLEAR) == []


def test_dark_is_dark_and_light_is_light(
    chromium: Browser, addresses: Mapping[str, str], tmp_path: Path
) -> None:
    grounds = []
    for dark in (False, True):
        chromium.open_page(dark=dark)
        chromium.go(addresses["quiet"])
        grounds.append(chromium.evaluate("getComputedStyle(document.body).backgroundColor"))
    chromium.screenshot(tmp_path / "dark.png")

    assert grounds == ["rgb(251, 250, 247)", "rgb(20, 23, 26)"]
    assert (tmp_path / "dark.png").stat().st_size > 10_000


def test_everything_works_without_scripts(chromium: Browser, addresses: Mapping[str, str]) -> None:
    chromium.open_page()
    chromium.without_scripts()

    chromium.go(addresses["mixed"])

    assert chromium.evaluate("document.scripts.length") == 0
    assert chromium.evaluate("document.querySelector('h1').innerText").strip() == (
        "2 of 12 sources need attention"
    )
    assert chromium.evaluate("document.querySelectorAll('.sources tbody tr').length") == 12


def test_who_clicks_gets_from_a_failure_to_its_log(
    chromium: Browser, addresses: Mapping[str, str]
) -> None:
    chromium.open_page()
    chromium.go(addresses["mixed"])

    seen = chromium.submit("document.querySelector('.failures a').click()")

    assert_in_order(seen, addresses["mixed"])
    assert "failed" in chromium.evaluate("document.querySelector('h1').innerText")
    assert "hint.lost" in chromium.evaluate("document.querySelector('.log').innerText")


def test_charts_and_calendars_are_drawn_with_a_size(
    chromium: Browser, addresses: Mapping[str, str]
) -> None:
    chromium.open_page(width=375)
    chromium.go(addresses["quiet"])

    sizes = chromium.evaluate(
        "[...document.querySelectorAll('svg.plot, svg.strip')].map(drawing => {"
        " const box = drawing.getBoundingClientRect(); return [box.width, box.height] })"
    )

    assert len(sizes) == 7 + 4
    assert all(width > 200 and height > 10 for width, height in sizes)


def test_the_keyboard_reaches_the_content_first(
    chromium: Browser, addresses: Mapping[str, str]
) -> None:
    chromium.open_page()
    chromium.go(addresses["quiet"])

    chromium.press_tab()

    assert chromium.evaluate("document.activeElement.className") == "skip"
    assert chromium.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    assert chromium.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


EVIL = (
    "\"'><script>window.pwned=1;alert(1)</script><img src=//evil.example/x onerror=alert(2)>\u202e✂"
)


def evil_host() -> Status:
    key = SourceKey(EVIL, EVIL)
    source = running(a_source(EVIL, vault=EVIL, policy=EVIL, kinds=(EVIL,)))
    assert source.progress is not None
    failed = a_run(key, id=EVIL, failure=a_failure(message=EVIL, hint=EVIL), point=EVIL)
    source = replace(
        failing(source),
        progress=replace(source.progress, label=EVIL),
        alarms=(an_alarm(f"{EVIL}/{EVIL}", message=EVIL, hint=EVIL, kind=EVIL),),
        last=failed,
    )
    return a_status(
        source,
        host=EVIL,
        version=EVIL,
        problems=(EVIL,),
        vaults=(VaultStatus(EVIL, EVIL, 3, 5, EVIL),),
    )


def test_nothing_that_is_shown_is_ever_run(
    chromium: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOG[0], "message", EVIL)
    monkeypatch.setitem(LOG[0], EVIL, EVIL)
    with serving(evil_host()) as address:
        chromium.open_page(width=375)

        for link in (None, ".sources a", ".list a[href^='/run/']"):
            if link is None:
                seen = chromium.go(address)
            else:
                seen = chromium.submit(f'document.querySelector("{link}").click()')

            assert_in_order(seen, address)
            assert chromium.evaluate("window.pwned === undefined")
            assert chromium.evaluate("document.querySelectorAll('script, img').length") == 0
            assert chromium.evaluate("document.body.innerText.includes('<script>window.pwned')")
            assert chromium.evaluate("document.documentElement.scrollWidth") <= 375


def test_a_person_shows_the_token_once(chromium: Browser) -> None:
    with serving(quiet_host(), token=TOKEN) as address:
        chromium.open_page(width=375)

        chromium.go(f"{address}/source/offsite/web01")
        asked = chromium.evaluate("document.querySelector('label').innerText")
        chromium.submit(
            "document.querySelector('#token').value = 'wrong';"
            " document.querySelector('button').click()"
        )
        refused = chromium.evaluate("document.querySelector('[role=alert]').innerText")
        chromium.submit(
            f"document.querySelector('#token').value = '{TOKEN}';"
            " document.querySelector('button').click()"
        )
        shown = chromium.evaluate("location.pathname + document.querySelector('h1').innerText")
        seen = chromium.go(address)

    assert (asked, refused) == ("Token", "That is not the token.")
    assert shown.split() == ["/source/offsite/web01web01"]
    assert_in_order(seen, address)
    assert chromium.evaluate("document.cookie") == ""


def test_a_link_with_the_token_leaves_no_trace_of_it(chromium: Browser) -> None:
    with serving(quiet_host(), token=TOKEN) as address:
        chromium.open_page()

        chromium.go(f"{address}/?show=running&token={TOKEN}")

        assert chromium.evaluate("location.href") == f"{address}/?show=running"
        assert "web02" in chromium.evaluate("document.querySelector('.sources').innerText")
