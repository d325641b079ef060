# SPDX-License-Identifier: Apache-2.0
"""Notifiers against real servers, good, bad and endless ones."""

import asyncio
import json
import logging
import socket
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from snapvault import clock
from snapvault.adapters.notifiers import templates
from snapvault.adapters.notifiers.http import AskedToWaitError
from snapvault.adapters.notifiers.opening import check_notifier, open_notifier, send_test
from snapvault.daemon.telling import Telling
from snapvault.errors import NotifyError, NotifyUnavailableError
from snapvault.model.notices import NoticeKind, Wish
from snapvault.model.policy import CommandSpec
from snapvault.model.settings import (
    MailSettings,
    NotifierSettings,
    PingSettings,
    WebhookSettings,
)
from tests.support.events import RecordedEvents
from tests.support.http_sink import (
    Answer,
    HttpSink,
    drip,
    flood,
    hang,
    http_sink,
    say,
    status,
    tidy_server,
)
from tests.support.loopback import Handler, closed_port
from tests.support.mail_server import MailServer
from tests.support.notices import AT, RUN, a_notice
from tests.support.tls_forwarder import Authority, make_authority

pytestmark = pytest.mark.integration

SECRET = "s3cr3t-Zq7"
SHORT = timedelta(seconds=0.4)
MOST = 60.0  # seconds that a delivery of 0.4 s may take on a busy machine


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def stop() -> Iterator[Callable[[Any], Any]]:
    """Stops what is given to it when the test is over."""
    servers: list[Any] = []

    def remember(server: Any) -> Any:
        servers.append(server)
        return server

    yield remember
    for server in servers:
        (server.server if isinstance(server, HttpSink) else server).stop()


@pytest.fixture(autouse=True)
def no_thread_stays(stop: Callable[[Any], Any]) -> Iterator[None]:
    """Deliveries are over while their servers still go on, which are stopped after this."""
    yield
    deadline = clock.monotonic() + 60
    while any(thread.name == "delivery" for thread in threading.enumerate()):
        assert clock.monotonic() < deadline, "a delivery's thread is still there"
        clock.sleep(0.01)


def everything(error: BaseException) -> str:
    """Return all that a log could ever show of an error, the errors behind it included."""
    chain: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        chain += [repr(seen), str(seen), repr(vars(seen)), repr(seen.args)]
        seen = seen.__cause__ or seen.__context__
    return "".join(traceback.format_exception(error)) + "".join(chain)


def told(settings: NotifierSettings, **fields: Any) -> None:
    open_notifier(settings).tell(a_notice(**fields))


# --- servers ---------------------------------------------------------------------------------


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port of this machine where nobody listens."""
    with closed_port() as port:
        yield port


async def repeat(writer: asyncio.StreamWriter) -> None:
    writer.write(f"HTTP/1.1 400 {SECRET}\r\n{SECRET}: {SECRET}\r\n\r\n{SECRET}".encode())


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def drip_greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def drip_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"220-not yet\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def drip_handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")  # a long ServerHello begins
    while True:
        writer.write(b"\x03")
        await writer.drain()
        await asyncio.sleep(0.02)


async def go_ahead_and_drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.test\r\n")
    await reader.readline()
    writer.write(b"250-mail.test\r\n250 STARTTLS\r\n")
    await reader.readline()
    writer.write(b"220 go ahead\r\n")
    await drip_handshake(reader, writer)


# --- webhooks -------------------------------------------------------------------------------


def hook(
    url: str, *, timeout: timedelta = timedelta(seconds=20), **fields: Any
) -> NotifierSettings:
    return NotifierSettings(name="ops", to=WebhookSettings(url=url, **fields), timeout=timeout)


def test_a_webhook_gets_the_documented_document(stop: Callable[[Any], Any]) -> None:
    sink = stop(http_sink())

    told(hook(f"{sink.url}/hook?a=1", headers={"X-Token": SECRET}))

    [request] = sink.requests
    assert (request.method, request.target) == ("POST", "/hook?a=1")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-token"] == SECRET
    document = json.loads(request.body)
    assert str(uuid.UUID(document.pop("id"))) == templates.notice_id(a_notice())
    assert document == {
        "version": 1,
        "kind": "failure",
        "at": "2026-11-21T01:30:10.000000Z",
        "host": "host1",
        "title": 'backup of "web01" failed',
        "message": 'could not back up source "web01": the store did not answer',
        "hint": "Look at the network.",
        "vault": "offsite",
        "source": "web01",
        "policy": "nightly",
        "alarm": None,
        "retry_at": None,
        "run": {
            "id": "20261121T013000Z-web01-1",
            "state": "failed",
            "trigger": "retry",
            "attempt": 2,
            "missed": 0,
            "due": "2026-11-21T01:29:30.000000Z",
            "started": "2026-11-21T01:30:00.000000Z",
            "ended": "2026-11-21T01:30:10.000000Z",
            "seconds": 10.0,
            "point": None,
            "taken_at": None,
            "size_bytes": None,
            "counters": {"read_bytes": 4096},
            "error": {
                "message": "the store did not answer",
                "hint": "Look at the network.",
                "exit_status": 14,
                "retryable": True,
            },
        },
        "note": None,
    }


def test_a_webhook_goes_over_tls_that_an_authority_of_ones_own_vouches_for(
    stop: Callable[[Any], Any], authority: Authority
) -> None:
    sink = stop(http_sink(authority=authority))

    told(hook(sink.url, ca_bundle=authority.ca_bundle))

    assert len(sink.requests) == 1


def test_a_webhook_tells_a_stranger_nothing(
    stop: Callable[[Any], Any], authority: Authority
) -> None:
    sink = stop(http_sink(authority=authority))

    with pytest.raises(NotifyError, match="cannot trust") as raised:
        told(hook(sink.url))

    assert not raised.value.retryable
    assert sink.requests == []


def test_names_in_a_url_cannot_break_out_of_their_place(stop: Callable[[Any], Any]) -> None:
    sink = stop(http_sink())

    told(
        hook(sink.url + "/{vault}/{source}?p={policy}&keep={this}"),
        source="../a b",
        policy="x&y=#\r\nHost: evil",
    )

    [request] = sink.requests
    assert request.target == (
        "/offsite/..%2Fa%20b?p=x%26y%3D%23%0D%0AHost%3A%20evil&keep=%7Bthis%7D"
    )


def test_names_that_are_no_text_are_posted(stop: Callable[[Any], Any]) -> None:
    sink = stop(http_sink())

    told(hook(sink.url + "/{policy}"), policy="bad \udcff", source=None)
    told(ping(sink.url + "/{policy}"), policy="bad \udcff", message="bad \udcff")

    assert [request.target.partition("?")[0] for request in sink.requests] == [
        "/bad%20%3F",
        "/bad%20%3F/fail",
    ]


def test_a_login_in_the_url_is_sent_as_a_header(stop: Callable[[Any], Any]) -> None:
    sink = stop(http_sink())
    url = sink.url.replace("://", "://me:p%40ss@")

    told(hook(url))

    assert sink.requests[0].headers["authorization"] == "Basic bWU6cEBzcw=="


def test_a_url_is_read_from_its_file_at_each_delivery(
    stop: Callable[[Any], Any], tmp_path: Path
) -> None:
    sink = stop(http_sink())
    file = tmp_path / "url"
    settings = NotifierSettings(name="ops", to=WebhookSettings(url_file=file))
    notifier = open_notifier(settings)

    for path in ("/one", "/two"):
        file.write_text(f"{sink.url}{path}\n")
        notifier.tell(a_notice())

    assert [request.target for request in sink.requests] == ["/one", "/two"]


def test_a_template_writes_another_document(stop: Callable[[Any], Any]) -> None:
    sink = stop(http_sink())
    body = '{"text": {{ (title ~ "\\n" ~ message) | json }}, "all": {{ document | json }}}'

    told(hook(sink.url, body=body))

    sent = json.loads(sink.requests[0].body)
    assert sent["text"].startswith('backup of "web01" failed\ncould not')
    assert sent["all"]["source"] == "web01"


@pytest.mark.parametrize("body", ["{{ nothing }}", '{"text": "{{ title }}"}', "{% if %}"])
def test_a_template_that_fails_costs_its_form_and_not_the_notice(
    stop: Callable[[Any], Any], body: str
) -> None:
    sink = stop(http_sink())

    told(hook(sink.url, body=body))

    sent = json.loads(sink.requests[0].body)
    assert sent["title"] == 'backup of "web01" failed'
    assert sent["note"].startswith("the template could not be used: ")


def test_a_template_may_write_something_else_than_json(stop: Callable[[Any], Any]) -> None:
    sink = stop(http_sink())

    told(hook(sink.url, body="text={{ title | urlencode }}", headers={"content-type": "x/form"}))

    assert sink.requests[0].body == b"text=backup%20of%20%22web01%22%20failed"
    assert sink.requests[0].headers["content-type"] == "x/form"


@pytest.mark.parametrize("code", [200, 201, 204])
def test_what_is_taken_is_delivered(stop: Callable[[Any], Any], code: int) -> None:
    sink = stop(http_sink(status(code, body=b"")))

    told(hook(sink.url))

    assert len(sink.requests) == 1


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 599])
def test_a_server_in_trouble_is_asked_again(stop: Callable[[Any], Any], code: int) -> None:
    sink = stop(http_sink(status(code)))

    with pytest.raises(NotifyUnavailableError, match=f"answered {code}"):
        told(hook(sink.url))


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 413])
def test_a_refusal_is_final(stop: Callable[[Any], Any], code: int) -> None:
    sink = stop(http_sink(status(code)))

    with pytest.raises(NotifyError, match=f"answered {code}") as raised:
        told(hook(sink.url))

    assert not raised.value.retryable


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(stop: Callable[[Any], Any], code: int) -> None:
    elsewhere = stop(http_sink())
    sink = stop(http_sink(status(code, f"Location: {elsewhere.url}/{SECRET}")))

    with pytest.raises(NotifyError, match="is a redirect") as raised:
        told(hook(sink.url, headers={"X-Token": SECRET}))

    assert elsewhere.requests == []
    assert SECRET not in everything(raised.value)


@pytest.mark.parametrize(
    ("header", "pause"),
    [("7", 7.0), ("999999", 600.0), ("Fri, 01 Jan 2100 00:00:00 GMT", 600.0)],
)
def test_a_server_says_when_to_come_back(
    stop: Callable[[Any], Any], header: str, pause: float
) -> None:
    sink = stop(http_sink(status(429, f"Retry-After: {header}")))

    with pytest.raises(AskedToWaitError) as raised:
        told(hook(sink.url))

    assert raised.value.retry_after == pause


@pytest.mark.parametrize("header", ["soon", "-1", "", "9" * 4000, "Fri, 99 Foo 2100"])
def test_nonsense_about_when_to_come_back_is_ignored(
    stop: Callable[[Any], Any], header: str
) -> None:
    sink = stop(http_sink(status(503, f"Retry-After: {header}")))

    with pytest.raises(NotifyUnavailableError) as raised:
        told(hook(sink.url))

    assert not isinstance(raised.value, AskedToWaitError)


def test_an_endless_body_is_not_read(stop: Callable[[Any], Any]) -> None:
    sink = stop(http_sink(flood))

    told(hook(sink.url))

    assert len(sink.requests) == 1


@pytest.mark.parametrize(
    "text", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A" * 70000]
)
def test_an_answer_that_is_not_http_is_final(stop: Callable[[Any], Any], text: bytes) -> None:
    sink = stop(http_sink(say(text)))

    with pytest.raises(NotifyError, match="not HTTP") as raised:
        told(hook(sink.url))

    assert not raised.value.retryable


def test_a_server_that_hangs_up_is_asked_again(stop: Callable[[Any], Any]) -> None:
    sink = stop(http_sink(say(b"")))

    with pytest.raises(NotifyUnavailableError, match="hung up"):
        told(hook(sink.url))


def test_a_closed_port_is_tried_again(dead_port: int) -> None:
    with pytest.raises(NotifyUnavailableError, match="refused the connection"):
        told(hook(f"http://127.0.0.1:{dead_port}"))


def test_a_host_without_an_address_is_tried_again() -> None:
    with pytest.raises(NotifyUnavailableError, match="no address"):
        told(hook("https://hooks.invalid/x"))


@pytest.mark.parametrize("answer", [hang, drip], ids=["hangs", "drips"])
def test_a_server_that_never_ends_is_left_in_time(
    stop: Callable[[Any], Any], authority: Authority, answer: Answer
) -> None:
    for tls in (None, authority):
        sink = stop(http_sink(answer, authority=tls))
        began = clock.monotonic()

        with pytest.raises(NotifyUnavailableError, match="did not finish within"):
            told(hook(sink.url, timeout=SHORT, ca_bundle=authority.ca_bundle))

        assert clock.monotonic() - began < MOST


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_port_where_nobody_speaks_is_left_in_time(scheme: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        began = clock.monotonic()

        with pytest.raises(NotifyUnavailableError, match="did not finish within"):
            told(hook(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}", timeout=SHORT))

        assert clock.monotonic() - began < MOST


def test_a_handshake_that_drips_is_left_in_time(stop: Callable[[Any], Any]) -> None:
    server = stop(tidy_server(drip_handshake))
    began = clock.monotonic()

    with pytest.raises(NotifyUnavailableError, match="did not finish within"):
        told(hook(f"https://127.0.0.1:{server.port}", timeout=SHORT))

    assert clock.monotonic() - began < MOST


def test_a_name_server_that_never_answers_is_left_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()

    def look_up(*_: object, **__: object) -> None:
        answered.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    began = clock.monotonic()

    with pytest.raises(NotifyUnavailableError, match="did not finish within"):
        told(hook("https://hooks.example.org/x", timeout=SHORT))

    assert clock.monotonic() - began < MOST
    answered.set()


def test_no_error_of_a_webhook_holds_what_is_secret(
    stop: Callable[[Any], Any], authority: Authority, dead_port: int
) -> None:
    sinks = [
        stop(http_sink(answer)).url
        for answer in (status(404), status(500), say(b"junk"), say(b""), hang, repeat)
    ]
    trusted = stop(http_sink(authority=authority)).url
    urls = [f"{url}/{SECRET}?k={SECRET}" for url in [*sinks, trusted]]
    urls += [f"http://u:{SECRET}@127.0.0.1:{dead_port}/{SECRET}", f"https://{SECRET} /x"]
    urls += [f"ftp://x/{SECRET}", f"http://x:{SECRET}/", f"https:///{SECRET}", f"http://[{SECRET}/"]
    headers = {"Authorization": f"Bearer {SECRET}"}
    cases = [hook(url, headers=headers, timeout=SHORT) for url in urls]
    bad = [{"X-A": f"{SECRET}\r\nX-B: 1"}, {"X-A": f"{SECRET}\0"}]
    cases += [hook(sinks[0], headers=each, timeout=SHORT) for each in bad]

    for settings in cases:
        with pytest.raises(NotifyError) as raised:
            told(settings)

        assert SECRET not in everything(raised.value), settings.to.url  # type: ignore[union-attr]
        assert SECRET not in repr(settings)
        assert not any(SECRET in repr(found) for found in check_notifier(settings))


def test_header_names_cannot_make_another_request(stop: Callable[[Any], Any]) -> None:
    sink = stop(http_sink())

    for name in ("X\r\nY", "Content-Length", "Transfer-Encoding", "", "a b"):
        with pytest.raises(NotifyError, match="cannot send header"):
            told(hook(sink.url, headers={name: "1"}))

    assert sink.requests == []


@pytest.mark.parametrize("value", ["a\r\nX-B: 1", "a\nb", "a\0b", "a\x7f"])
def test_header_values_stay_in_their_line(stop: Callable[[Any], Any], value: str) -> None:
    sink = stop(http_sink())

    with pytest.raises(NotifyError, match=r'header "X-A" to .+ control character'):
        told(hook(sink.url, headers={"X-A": value}))

    assert sink.requests == []


def test_header_values_may_have_any_letters(stop: Callable[[Any], Any]) -> None:
    sink = stop(http_sink())

    told(hook(sink.url, headers={"X-Name": "Zoë 日本"}))

    assert sink.requests[0].headers["x-name"] == "Zoë 日本"


# --- pings ----------------------------------------------------------------------------------


def ping(url: str, *, on: frozenset[Wish] = frozenset()) -> NotifierSettings:
    return NotifierSettings(name="hc", to=PingSettings(url=url), on=on)


def test_a_ping_tells_each_step_of_a_run(stop: Callable[[Any], Any]) -> None:
    sink = stop(http_sink())
    notifier = open_notifier(ping(sink.url + "/key/{source}?create=1"))

    for kind in (NoticeKind.START, NoticeKind.SUCCESS, NoticeKind.FAILURE):
        notifier.tell(a_notice(kind))

    rid = "7b886f42-a6fc-5091-8055-cf02e3848db6"
    targets = [request.target for request in sink.requests]
    rids = {target.rpartition("rid=")[2] for target in targets}
    assert [target.partition("&rid=")[0] for target in targets] == [
        "/key/web01/start?create=1",
        "/key/web01?create=1",
        "/key/web01/fail?create=1",
    ]
    assert rids == {rid}
    assert sink.requests[2].body.decode() == (
        'could not back up source "web01": the store did not answer\nLook at the network.'
    )


def test_a_ping_names_a_run_by_its_own_id_if_that_is_a_uuid(stop: Callable[[Any], Any]) -> None:
    sink = stop(http_sink())
    rid = "0190f2a4-5e6b-7000-8000-0123456789ab"

    told(ping(sink.url + "/"), kind=NoticeKind.SUCCESS, run=replace(RUN, id=rid))

    assert sink.requests[0].target == f"/?rid={rid}"


def test_a_ping_keeps_a_rid_of_the_url(stop: Callable[[Any], Any]) -> None:
    sink = stop(http_sink())

    told(ping(sink.url + "/x/?rid=mine"), kind=NoticeKind.START)

    assert sink.requests[0].target == "/x/start?rid=mine"


def test_a_test_of_a_ping_is_no_run(stop: Callable[[Any], Any]) -> None:
    sink = stop(http_sink())

    send_test(ping(sink.url + "/x"), host="host1", at=AT)

    assert sink.requests[0].target == "/x/log"


# --- mail -----------------------------------------------------------------------------------


def mail(
    server: MailServer, *, timeout: timedelta = timedelta(seconds=20), **fields: Any
) -> NotifierSettings:
    to: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": server.port,
        "sender": "SnapVault <backup@example.org>",
        "to": ("ops@example.org", "Zoë <zoe@example.org>"),
        "security": server.security,
        "ca_bundle": server.authority.ca_bundle if server.authority else None,
    }
    wanted = {key: fields.pop(key) for key in ("subject", "text") if key in fields}
    return NotifierSettings(
        name="mail", to=MailSettings(**(to | fields)), timeout=timeout, **wanted
    )


def mail_to_port(port: int, *, timeout: timedelta, security: str = "none") -> NotifierSettings:
    to = MailSettings(
        host="127.0.0.1",
        port=port,
        sender="a@example.org",
        to=("b@example.org",),
        security=security,
    )
    return NotifierSettings(name="mail", to=to, timeout=timeout)


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    return file


def test_a_mail_says_all_and_is_marked_as_a_machines(stop: Callable[[Any], Any]) -> None:
    server = stop(MailServer())

    told(mail(server))

    [handed] = server.mails
    message: EmailMessage = handed.message
    assert handed.sender == "backup@example.org"
    assert handed.recipients == ["ops@example.org", "zoe@example.org"]
    assert message["From"] == "SnapVault <backup@example.org>"
    assert message["To"] == "ops@example.org, Zoë <zoe@example.org>"
    assert message["Subject"] == '[host1] backup of "web01" failed'
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Message-ID"].endswith("@example.org>")
    assert message["Date"].datetime.tzinfo is not None
    body = handed.text
    assert 'could not back up source "web01": the store did not answer' in body
    assert "Look at the network." in body
    assert "20261121T013000Z-web01-1, failed (retry, attempt 2)" in body


def test_mails_about_one_source_lie_together(stop: Callable[[Any], Any]) -> None:
    server = stop(MailServer())
    notifier = open_notifier(mail(server))

    notifier.tell(a_notice())
    notifier.tell(a_notice(NoticeKind.RECOVERY))
    notifier.tell(a_notice(source="db"))
    notifier.tell(a_notice())

    first, second, other, again = [handed.message for handed in server.mails]
    assert first["References"] == second["References"] != other["References"]
    assert first["Message-ID"] != second["Message-ID"]
    assert first["Message-ID"] == again["Message-ID"]


@pytest.mark.parametrize("security", ["starttls", "tls", "none"])
def test_a_mail_server_lets_us_in_by_password(
    stop: Callable[[Any], Any], authority: Authority, password: Path, security: str
) -> None:
    server = stop(MailServer(authority, security=security, password=SECRET))

    told(mail(server, user="backup", password_file=password))

    assert [handed.user for handed in server.mails] == ["backup"]
    assert SECRET.encode() not in server.mails[0].raw


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_password_is_not_told_to_a_stranger(
    stop: Callable[[Any], Any], authority: Authority, password: Path, security: str
) -> None:
    server = stop(MailServer(authority, security=security, password=SECRET))

    with pytest.raises(NotifyError, match="cannot trust") as raised:
        told(mail(server, user="backup", password_file=password, ca_bundle=None))

    assert not raised.value.retryable
    assert server.mails == []


def test_a_server_without_starttls_gets_nothing(stop: Callable[[Any], Any], password: Path) -> None:
    server = stop(MailServer())

    with pytest.raises(NotifyError, match="does not offer STARTTLS"):
        told(mail(server, security="starttls", user="backup", password_file=password))

    assert server.mails == []


def test_a_password_does_not_leave_the_machine_without_tls(
    stop: Callable[[Any], Any], password: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = stop(MailServer(password=SECRET))
    # The one other machine there is in a test: the same, as if its address were elsewhere.
    monkeypatch.setattr(
        "snapvault.adapters.notifiers.smtp._Server.is_on_this_machine", lambda _: False
    )

    with pytest.raises(NotifyError, match="is not sent without TLS"):
        told(mail(server, user="backup", password_file=password))

    assert server.mails == []


def test_a_changed_password_is_read_at_the_next_mail(
    stop: Callable[[Any], Any], password: Path
) -> None:
    server = stop(MailServer(password=SECRET))
    notifier = open_notifier(mail(server, user="backup", password_file=password))
    password.write_text("old one\n")
    with pytest.raises(NotifyError, match="does not let user"):
        notifier.tell(a_notice())

    password.write_text(SECRET)
    notifier.tell(a_notice())

    assert len(server.mails) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"\n", "is empty"),
        (b"\xff\n", "not UTF-8"),
        ("Zoë".encode(), "ASCII"),
    ],
)
def test_a_password_that_cannot_be_used_is_named(
    stop: Callable[[Any], Any], tmp_path: Path, content: bytes | None, said: str
) -> None:
    server = stop(MailServer())
    file = tmp_path / "other"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(NotifyError, match=said):
        told(mail(server, user="backup", password_file=file))


def test_nothing_in_a_name_or_message_becomes_a_header(stop: Callable[[Any], Any]) -> None:
    server = stop(MailServer())
    evil = "x\r\nBcc: all@example.org\r\n\r\nhello\u2028there"

    told(mail(server), title=evil, message=evil, source=evil, host=evil, hint=evil)

    [handed] = server.mails
    assert handed.recipients == ["ops@example.org", "zoe@example.org"]
    assert handed.message["Bcc"] is None
    assert handed.message["Subject"].count("Bcc") == 2
    assert not any(line.startswith("Bcc") for line in handed.text.splitlines())


def test_a_subject_and_a_text_of_ones_own(stop: Callable[[Any], Any]) -> None:
    server = stop(MailServer())
    text = "{{ source }} läuft nicht: {{ run.seconds | duration }}, {{ 4096 | size }}"

    told(mail(server, subject="Störung: {{ source }}\nBcc: x@example.org", text=text))

    [handed] = server.mails
    assert handed.message["Subject"] == "Störung: web01 Bcc: x@example.org"
    assert handed.text == "web01 läuft nicht: 10s, 4.0 KiB\n"
    assert b"=?utf-8?" in handed.raw


def test_a_mail_with_a_broken_template_comes_all_the_same(stop: Callable[[Any], Any]) -> None:
    server = stop(MailServer())

    told(mail(server, subject="{{ nobody }}", text="{{ 1 / 0 }}"))

    [handed] = server.mails
    assert handed.message["Subject"] == '[host1] backup of "web01" failed'
    body = handed.text
    assert "'nobody' is undefined" in body
    assert "division by zero" in body
    assert "could not back up source" in body


def test_addresses_of_all_alphabets_get_mail(stop: Callable[[Any], Any]) -> None:
    server = stop(MailServer())
    addresses = ("Zoë <zoë@example.org>", "ops@bücher.example")

    told(mail(server, to=addresses, sender="sicherung@bücher.example"))

    [handed] = server.mails
    assert handed.recipients == ["zoë@example.org", "ops@bücher.example"]
    assert handed.message["Message-ID"].endswith("@snapvault.invalid>")


@pytest.mark.parametrize("address", ["nobody", "", "a@b@c", "a b@example.org", "a@ex\r\nBcc: x"])
def test_what_is_no_address_is_named(stop: Callable[[Any], Any], address: str) -> None:
    server = stop(MailServer())

    with pytest.raises(NotifyError, match="is no mail address"):
        told(mail(server, to=(address,)))

    assert server.mails == []


def test_file_names_that_are_no_text_are_mailed(stop: Callable[[Any], Any]) -> None:
    server = stop(MailServer())

    told(mail(server), title="bad \udcff", message="x" * 5000 + "\udcff\0", source="\udcff")

    body = server.mails[0].text
    assert "x" * 5000 + "?" in body


def test_a_recipient_who_is_refused_is_told_and_the_others_get_it(
    stop: Callable[[Any], Any],
) -> None:
    server = stop(MailServer(refusals={"zoe@example.org": "550 no such user"}))

    with pytest.raises(NotifyError, match="550 no such user; 1 other recipient got") as raised:
        told(mail(server))

    assert not raised.value.retryable
    assert [handed.recipients for handed in server.mails] == [["ops@example.org"]]


def test_a_recipient_who_is_put_off_gets_it_later_and_nobody_twice(
    stop: Callable[[Any], Any],
) -> None:
    server = stop(MailServer(refusals={"zoe@example.org": "451 greylisted"}))
    notifier = open_notifier(mail(server))
    with pytest.raises(NotifyUnavailableError):
        notifier.tell(a_notice())
    server.refusals.clear()

    notifier.tell(a_notice())
    notifier.tell(a_notice(source="db"))

    assert [handed.recipients for handed in server.mails] == [
        ["ops@example.org"],
        ["zoe@example.org"],
        ["ops@example.org", "zoe@example.org"],
    ]


@pytest.mark.parametrize(
    ("answer", "retryable"), [("550 go away", False), ("451 later", True), ("421 busy", True)]
)
def test_a_mail_server_says_whether_to_try_again(
    stop: Callable[[Any], Any], answer: str, *, retryable: bool
) -> None:
    everybody = dict.fromkeys(("ops@example.org", "zoe@example.org"), answer)
    refusing = stop(MailServer(refusals=everybody))
    failing = stop(MailServer(data_answer=answer))

    for server in (refusing, failing):
        with pytest.raises(NotifyError, match=answer) as raised:
            told(mail(server))

        assert raised.value.retryable is retryable


@pytest.mark.parametrize(
    ("security", "handler"),
    [
        ("none", silent),
        ("none", drip_greeting),
        ("starttls", drip_lines),
        ("starttls", go_ahead_and_drip),
        ("tls", silent),
        ("tls", drip_handshake),
    ],
)
def test_a_mail_server_that_never_ends_is_left_in_time(
    stop: Callable[[Any], Any], security: str, handler: Handler
) -> None:
    server = stop(tidy_server(handler))
    began = clock.monotonic()

    with pytest.raises(NotifyUnavailableError, match="did not finish within"):
        told(mail_to_port(server.port, security=security, timeout=SHORT))

    assert clock.monotonic() - began < MOST


def test_what_is_no_mail_server_is_named(stop: Callable[[Any], Any], dead_port: int) -> None:
    sink = stop(http_sink())

    with pytest.raises(NotifyUnavailableError, match="refused the connection"):
        told(mail_to_port(dead_port, timeout=timedelta(seconds=MOST)))
    with pytest.raises(NotifyUnavailableError, match="did not finish"):
        told(mail_to_port(sink.server.port, timeout=SHORT))


def test_no_error_of_a_mail_holds_the_password(
    stop: Callable[[Any], Any], authority: Authority, password: Path
) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        while line := await reader.readline():
            is_hello = line.startswith(b"ehlo")
            writer.write(b"250-x\r\n250 AUTH PLAIN LOGIN\r\n" if is_hello else b"535 " + line)

    echoing = mail_to_port(stop(tidy_server(echo)).port, timeout=timedelta(seconds=20))
    assert isinstance(echoing.to, MailSettings)
    echoing = replace(echoing, to=replace(echoing.to, user="backup", password_file=password))
    wrong = stop(MailServer(authority, security="starttls", password="another"))
    encoded = "AGJhY2t1cABzM2NyM3QtWnE3"

    for settings in (echoing, mail(wrong, user="backup", password_file=password)):
        with pytest.raises(NotifyError, match="does not let user") as raised:
            told(settings)

        shown = everything(raised.value) + repr(settings) + repr(list(check_notifier(settings)))
        assert SECRET not in shown
        assert encoded not in shown


# --- doctor and test ------------------------------------------------------------------------


def test_a_check_reaches_the_servers_and_tells_nobody(
    stop: Callable[[Any], Any], authority: Authority, password: Path
) -> None:
    sink = stop(http_sink(authority=authority))
    server = stop(MailServer(authority, security="starttls", password=SECRET))
    url = sink.url + f"/{SECRET}/{{source}}"
    good: list[NotifierSettings] = [
        hook(url, ca_bundle=authority.ca_bundle),
        NotifierSettings(name="hc", to=PingSettings(url=url, ca_bundle=authority.ca_bundle)),
        mail(server, user="backup", password_file=password),
    ]

    found = [finding for settings in good for finding in check_notifier(settings)]

    assert [finding.error for finding in found] == [None, None, None]
    assert [finding.message for finding in found] == [
        f'"{sink.url}" answers',
        f'"{sink.url}" answers',
        f'mail server "127.0.0.1" port {server.port} answers',
    ]
    assert sink.requests == []
    assert server.mails == []


def test_a_check_names_what_would_fail(dead_port: int) -> None:
    bad = [hook(f"https://127.0.0.1:{dead_port}"), ping(f"http://127.0.0.1:{dead_port}")]
    closed = f"http://127.0.0.1:{dead_port}"
    broken = replace(hook(closed, body="{% if %}"), subject="{{")

    found = [list(check_notifier(settings)) for settings in (*bad, broken)]

    assert [finding.error is not None for findings in found for finding in findings] == [
        True,
        True,
        False,
        False,
        True,
    ]
    assert [finding.remedy is not None for finding in found[2]] == [True, True, False]


def test_a_test_notice_comes_whatever_is_wished_for(stop: Callable[[Any], Any]) -> None:
    sink = stop(http_sink())
    settings = replace(hook(sink.url + "/{source}"), on=frozenset())

    send_test(settings, host="host1", at=AT, source="web01")

    [request] = sink.requests
    assert request.target == "/web01"
    assert json.loads(request.body)["title"] == 'test of notifier "ops"'


# --- secrets --------------------------------------------------------------------------------


def test_secrets_go_where_they_belong_and_nowhere_else(
    stop: Callable[[Any], Any],
    authority: Authority,
    dead_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    secrets = {name: f"{name}-s3cr3t" for name in ("password", "url", "header", "environment")}
    (tmp_path / "password").write_text(secrets["password"])
    monkeypatch.setenv("MYSQL_PWD", secrets["environment"])
    command = CommandSpec(run=("dump",), environment={"PGPASSWORD": secrets["environment"]})
    good, bad = stop(http_sink()), stop(http_sink(repeat))
    server = stop(MailServer(authority, security="starttls", password=secrets["password"]))
    refusing = stop(
        MailServer(
            authority,
            security="starttls",
            password=secrets["password"],
            data_answer=f"550 {secrets['password']}",
        )
    )
    curious = "{{ document | json }} {{ text }} {{ run }} {{ self }} {{ cycler }}"
    login: dict[str, Any] = {"user": "backup", "password_file": tmp_path / "password"}
    path, headers = f"/{secrets['url']}", {"X-Key": secrets["header"]}
    everybody = [
        hook(good.url + path, headers=headers),
        hook(bad.url + path, headers=headers),
        hook(good.url + path, headers=headers | {"content-type": "text/plain"}, body=curious),
        ping(good.url + path),
        ping(f"http://127.0.0.1:{dead_port}{path}"),
        mail(server, **login),
        mail(server, **login, subject=curious, text=curious),
        mail(refusing, **login),
    ]
    log = RecordedEvents()
    notifiers = {str(rank): open_notifier(each) for rank, each in enumerate(everybody)}
    telling = Telling(notifiers, log)

    with caplog.at_level(logging.DEBUG):
        telling.tell(a_notice(message=f"could not back up {command!r}"))
        assert telling.close(60) == 0

    names = log.names()
    assert (names.count("notice.delivered"), names.count("notice.failed")) == (5, 3)
    said = [mail.raw for mail in server.mails] + [request.body for request in good.requests]
    shown = repr((said, log, telling.standings(), notifiers, everybody, caplog.records))
    shown += "".join(record.getMessage() for record in caplog.records if record.name != "mail.log")
    assert [name for name, secret in secrets.items() if secret in shown] == []
