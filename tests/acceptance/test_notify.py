# SPDX-License-Identifier: Apache-2.0
"""Trying whether people can be told, before the night on which they must be."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.program import Host
from tests.support.http_sink import HttpSink, http_sink, status
from tests.support.mail_server import MailServer


@pytest.fixture
def mails() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture
def hook() -> Iterator[HttpSink]:
    sink = http_sink()
    yield sink
    sink.server.stop()


def telling(host: Host, **notifiers: Any) -> Host:
    document = json.loads(host.settings.read_text())
    host.settings.write_text(json.dumps(document | {"notify": notifiers}))
    return host


def mail(server: MailServer) -> dict[str, Any]:
    return {
        "mail": {
            "host": "127.0.0.1",
            "port": server.port,
            "security": "none",
            "from": "backup@host1.example.org",
            "to": ["ops@example.org"],
        }
    }


def test_everybody_is_sent_a_test(host: Host, mails: MailServer, hook: HttpSink) -> None:
    telling(host, people=mail(mails), hook={"webhook": {"url": hook.url + "/x"}})

    said = host.does("notify").stdout

    assert said == 'told "people"\ntold "hook"\n'
    assert "this is a test" in mails.mails[0].text
    assert b"this is a test" in hook.requests[0].body


def test_one_is_picked_by_name(host: Host, mails: MailServer, hook: HttpSink) -> None:
    telling(host, people=mail(mails), hook={"webhook": {"url": hook.url + "/x"}})

    document = host.does("--json", "notify", "people").json

    assert document == [{"name": "people", "delivered": True, "error": None}]
    assert hook.requests == []


def test_an_unknown_name_is_refused_with_the_nearest_one(host: Host, mails: MailServer) -> None:
    telling(host, people=mail(mails))

    said = host.fails(10, "notify", "poeple")

    assert 'no notifier "poeple"' in said
    assert '"people"' in said


def test_settings_without_notifiers_are_told_so(host: Host) -> None:
    assert "nobody is told anything" in host.fails(10, "notify")


def test_a_failure_is_told_without_the_url_and_the_others_are_tried(
    host: Host, mails: MailServer
) -> None:
    sink = http_sink(status(404))
    telling(host, hook={"webhook": {"url": sink.url + "/secret"}}, people=mail(mails))

    ended = host.run("notify")

    sink.server.stop()
    assert ended.status == 3
    assert "hook" in ended.stderr
    assert "secret" not in ended.stderr
    assert ended.stderr.count("hint: ") == 1
    assert ended.stdout == 'told "people"\n'


def test_a_server_that_is_not_there_comes_with_a_hint(host: Host, mails: MailServer) -> None:
    telling(host, people=mail(mails))
    mails.stop()

    said = host.fails(18, "notify")

    assert "refused the connection" in said
    assert 'hint: See whether it runs and this host can reach it, and what "notify.people"' in said


def test_the_doctor_reaches_notifiers_and_tells_nobody(
    host: Host, mails: MailServer, hook: HttpSink
) -> None:
    telling(host, people=mail(mails), hook={"webhook": {"url": hook.url + "/x"}})
    host.does("init")

    said = host.does("doctor").stdout

    assert "ok    notifier people" in said
    assert "ok    notifier hook" in said
    assert mails.mails == []
    assert hook.requests == []


def test_the_doctor_names_a_mail_server_that_is_not_there(host: Host, mails: MailServer) -> None:
    telling(host, people=mail(mails))
    host.does("init")
    mails.stop()

    ended = host.run("doctor")

    assert ended.status == 18
    assert "fail  notifier people" in ended.stdout
    assert "See whether it runs and this host can reach it" in ended.stdout
