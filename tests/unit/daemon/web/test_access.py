# SPDX-License-Identifier: Apache-2.0
"""Who may look."""

import pytest

from snapvault.daemon.web.access import Access, is_loopback, local_goal

TOKEN = "correct horse"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"bearer  {TOKEN} "},
        {"Cookie": Access(TOKEN, 9797).cookie().partition(";")[0]},
        {"Cookie": f"odd={{a; ; x=1; {Access(TOKEN, 9797).cookie().partition(';')[0]}; z"},
    ],
)
def test_who_knows_the_token_may_look(headers: dict[str, str]) -> None:
    assert Access(TOKEN, 9797).is_allowed(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer correct"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer \xff\udc80"},
        {"Cookie": f"snapvault_9797={TOKEN}"},
        {"Cookie": "snapvault_9797="},
        {"Cookie": "snapvault_9797=\udc80"},
        {"Cookie": Access("another", 9797).cookie().partition(";")[0]},
        {"Cookie": Access(TOKEN, 9798).cookie().partition(";")[0]},
    ],
)
def test_nobody_else_may(headers: dict[str, str]) -> None:
    assert not Access(TOKEN, 9797).is_allowed(headers)


def test_without_a_token_everybody_on_this_machine_may_look() -> None:
    assert Access(None, 9797).is_allowed({})
    assert not Access(None, 9797).knows("")


def test_a_cookie_does_not_give_the_token_away_and_stays_with_us() -> None:
    cookie = Access(TOKEN, 9797).cookie()

    assert TOKEN not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


def test_the_token_is_not_in_what_is_printed() -> None:
    assert TOKEN not in repr(Access(TOKEN, 9797))
    assert TOKEN not in str(vars(Access(TOKEN, 9797))["_cookie_name"])


@pytest.mark.parametrize(
    "host", ["127.0.0.1:9797", "127.8.9.1", "localhost", "LOCALHOST.:80", "a.localhost", "[::1]:80"]
)
def test_a_request_for_this_machine_is_for_us(host: str) -> None:
    assert Access(None, 9797).is_for_us(host)


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil",
        "10.0.0.1",
        "[::",
        "::1:",
    ],
)
def test_a_name_from_elsewhere_that_leads_here_is_not_for_us(host: str | None) -> None:
    assert not Access(None, 9797).is_for_us(host)


def test_with_a_token_any_name_will_do() -> None:
    assert Access(TOKEN, 9797).is_for_us("status.example.org")


@pytest.mark.parametrize("goal", ["/", "/source/a/b?x=1", "/run/r-1"])
def test_a_login_leads_where_one_wanted_to_go(goal: str) -> None:
    assert local_goal(goal) == goal


@pytest.mark.parametrize(
    "goal",
    ["", "http://evil.example", "//evil.example", "/\\evil", "/a\r\nSet-Cookie: x", "/a b", "/é"],
)
def test_a_login_never_leads_elsewhere(goal: str) -> None:
    assert local_goal(goal) == "/"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", ""])
def test_what_can_be_reached_from_outside_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)
