# SPDX-License-Identifier: Apache-2.0
"""The server: what it answers, to whom, and what it bears."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import pytest

from snapvault import clock
from snapvault.daemon.web.server import StatusServer
from snapvault.errors import ConfigError, HostError
from snapvault.model.status import Status
from tests.support.events import RecordedEvents
from tests.support.status_builder import failing, quiet_host

TOKEN = "t0ken-of-the-tests-0123"
HTML = {"Accept": "text/html,*/*;q=0.8"}
Serve = Callable[..., StatusServer]


@pytest.fixture
def log() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
def serve(log: RecordedEvents) -> Iterator[Serve]:
    """Return what starts a server, which is stopped afterwards."""
    with ExitStack() as stack:

        def start(
            token: str | None = None,
            *,
            host: str = "127.0.0.1",
            port: int = 0,
            status: Callable[[], Status] = quiet_host,
            run_log: Callable[[str], Sequence[Mapping[str, object]]] = lambda _: [],
            **limits: Any,
        ) -> StatusServer:
            server = StatusServer(
                host, port, token, status, run_log, log, zone=ZoneInfo("UTC"), **limits
            )
            stack.callback(server.stop)
            server.start()
            return server

        yield start


def ask(
    server: StatusServer,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> tuple[HTTPResponse, str]:
    """Ask, and return the answer with its text."""
    with closing(HTTPConnection(server.address, timeout=60)) as connection:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer, answer.read().decode()


def raw(server: StatusServer) -> socket.socket:
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def read_all(connection: socket.socket) -> bytes:
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


def port_of(server: StatusServer) -> int:
    return int(server.address.rpartition(":")[2])


# --- pages ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "media_type", "holds"),
    [
        ("/", "text/html; charset=utf-8", "All 7 sources are protected"),
        ("/?show=running", "text/html; charset=utf-8", "web02"),
        ("/source/offsite/web01", "text/html; charset=utf-8", "Restore points of the last"),
        ("/health", "text/plain; charset=utf-8", "ok"),
        ("/style.css", "text/css", "prefers-color-scheme"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8", "snapvault_source_age_seconds"),
    ],
)
def test_each_page_is_at_its_address(serve: Serve, path: str, media_type: str, holds: str) -> None:
    answer, text = ask(serve(), path)

    assert answer.status == 200
    assert answer.headers["Content-Type"] == media_type
    assert holds in text


def test_a_run_is_shown_with_its_log(serve: Serve) -> None:
    status = quiet_host()
    run = status.runs[0]
    asked: list[str] = []

    def run_log(name: str) -> list[dict[str, object]]:
        asked.append(name)
        return [{"event": "volume.stored"}]

    answer, text = ask(serve(status=lambda: status, run_log=run_log), f"/run/{run.id}")

    assert (answer.status, asked) == (200, [run.id])
    assert "volume.stored" in text


def test_a_run_that_the_status_no_longer_speaks_of_is_looked_up(serve: Serve) -> None:
    old = replace(quiet_host().runs[0], id="20250101T020000Z-0ld")
    known = {old.id: old}

    answer, text = ask(serve(run=known.get), f"/run/{old.id}")

    assert answer.status == 200
    assert old.id in text


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/source/offsite", "/source/offsite/nobody", "/run/r-0", "/source//", "/login"],
)
def test_what_is_not_there_is_not_found(serve: Serve, path: str) -> None:
    answer, text = ask(serve(), path)

    assert answer.status == 404
    assert "There is nothing here" in text


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/run/..%2F..%2Fetc%2Fpasswd", "/%00", "/%ff%fe", "/style.css/x"],
)
def test_no_address_leads_out_of_the_pages(serve: Serve, path: str) -> None:
    answer, text = ask(serve(), path)

    assert answer.status == 404
    assert "There is nothing here" in text


def test_a_run_that_nobody_knows_is_not_looked_up(serve: Serve) -> None:
    def run_log(name: str) -> list[dict[str, object]]:
        raise AssertionError(name)

    answer, _ = ask(serve(run_log=run_log), "/run/..%2F..%2Fsecret")

    assert answer.status == 404


@pytest.mark.parametrize("path", ["/", "/health", "/style.css", "/nothing", "/metrics"])
def test_every_answer_says_what_a_browser_must_not_do(serve: Serve, path: str) -> None:
    headers = ask(serve(), path)[0].headers

    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; img-src 'self' data:;")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Server"] == "SnapVault"
    assert ("no-store" in headers["Cache-Control"]) == (path != "/style.css")


def test_head_answers_like_get_without_a_body(serve: Serve) -> None:
    server = serve()

    whole, text = ask(server, "/source/offsite/web01")
    head, nothing = ask(server, "/source/offsite/web01", method="HEAD")

    assert (head.status, nothing) == (200, "")
    assert (
        head.headers["Content-Length"] == whole.headers["Content-Length"] == str(len(text.encode()))
    )


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/", "/health", "/metrics"])
def test_nothing_can_be_changed(serve: Serve, method: str, path: str) -> None:
    answer, _ = ask(serve(), path, method=method, body=b"")

    assert answer.status == 405


def test_a_status_that_cannot_be_told_is_a_page_of_its_own(
    serve: Serve, log: RecordedEvents
) -> None:
    def status() -> Status:
        raise ConfigError('settings "x" cannot be read', hint="Mend <them>.")

    answer, text = ask(serve(status=status), "/")

    assert answer.status == 503
    assert "settings &#34;x&#34; cannot be read" in text
    assert "Mend &lt;them&gt;." in text
    assert log.warnings == ['settings "x" cannot be read']


def test_a_defect_is_told_to_the_log_and_not_to_who_looks(
    serve: Serve, log: RecordedEvents
) -> None:
    def status() -> Status:
        raise RuntimeError("inner secret")

    server = serve(status=status)
    answer, text = ask(server, "/")

    assert answer.status == 500
    assert "inner secret" not in text
    assert "inner secret" in str(log.events)
    assert ask(server, "/health")[0].status == 200


def test_the_status_is_found_out_once_for_many_who_look(serve: Serve) -> None:
    calls: list[int] = []

    def status() -> Status:
        calls.append(1)
        return quiet_host()

    server = serve(status=status)
    lookers = [threading.Thread(target=ask, args=(server, "/")) for _ in range(8)]
    for looker in lookers:
        looker.start()
    for looker in lookers:
        looker.join()

    # LIMIT: on a machine that is very slow, two seconds may pass meanwhile.
    assert 1 <= len(calls) < 8


# --- who may look ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/metrics", "/source/offsite/web01", "/run/x", "/nothing"])
def test_without_the_token_nothing_is_shown(serve: Serve, path: str) -> None:
    server = serve(TOKEN)

    answer, text = ask(server, path)
    asked, form = ask(server, path, headers=HTML)

    assert (answer.status, text) == (401, "unauthorized\n")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert asked.status == 401
    assert 'name="token"' in form
    assert "web01" not in form.replace(f'value="{path}"', "")


@pytest.mark.parametrize("path", ["/health", "/style.css"])
def test_health_and_style_need_no_token(serve: Serve, path: str) -> None:
    assert ask(serve(TOKEN), path)[0].status == 200


def test_prometheus_shows_the_token_as_a_bearer(serve: Serve) -> None:
    server = serve(f"{TOKEN}\n")

    right, _ = ask(server, "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    wrong, _ = ask(server, "/metrics", headers={"Authorization": f"Bearer {TOKEN}x"})

    assert (right.status, wrong.status) == (200, 401)


def test_a_token_in_an_address_becomes_a_cookie_and_goes_from_the_address(serve: Serve) -> None:
    server = serve(TOKEN)

    answer, _ = ask(server, f"/?show=running&token={TOKEN}")
    cookie = answer.headers["Set-Cookie"].partition(";")[0]
    after, text = ask(server, "/", headers={"Cookie": cookie})

    assert (answer.status, answer.headers["Location"]) == (303, "/?show=running")
    assert (after.status, "All 7 sources" in text) == (200, True)


def test_a_wrong_token_in_an_address_is_not_repeated(serve: Serve) -> None:
    answer, text = ask(serve(TOKEN), "/run/1?token=wr0ng", headers=HTML)

    assert answer.status == 401
    assert "Set-Cookie" not in answer.headers
    assert "wr0ng" not in text
    assert 'value="/run/1"' in text


def test_the_form_lets_in_who_knows_the_token(serve: Serve) -> None:
    server = serve(TOKEN)

    body = urlencode({"token": TOKEN, "goal": "/run/1"}).encode()
    answer, _ = ask(server, "/login", method="POST", body=body)
    body = urlencode({"token": "wrong", "goal": "//evil.example"}).encode()
    refused, text = ask(server, "/login", method="POST", body=body, headers=HTML)

    assert (answer.status, answer.headers["Location"]) == (303, "/run/1")
    assert refused.status == 401
    assert "That is not the token." in text
    assert "evil" not in text


@pytest.mark.parametrize(
    ("length", "status"), [("5000", 413), ("-1", 413), ("many", 411), ("0", 401)]
)
def test_a_form_of_the_wrong_size_is_refused(serve: Serve, length: str, status: int) -> None:
    answer, _ = ask(serve(TOKEN), "/login", method="POST", headers={"Content-Length": length})

    assert answer.status == status


def test_the_token_is_never_in_the_log(serve: Serve, log: RecordedEvents) -> None:
    server = serve(TOKEN)

    for path in (f"/?token={TOKEN}", f"/nothing?token={TOKEN}x", f"/{TOKEN}?token=%ff"):
        ask(server, path)
    ask(server, "/metrics", headers={"Authorization": f"Bearer {TOKEN}y"})

    assert "somebody showed a wrong token at the status page" in log.warnings
    assert TOKEN not in str(log.events)


def test_wrong_tokens_do_not_fill_the_log(serve: Serve, log: RecordedEvents) -> None:
    server = serve(TOKEN)

    for _ in range(5):
        ask(server, "/?token=wrong")

    assert len(log.warnings) == 1


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9797", "169.254.169.254"])
def test_a_name_that_was_bent_to_this_machine_reads_nothing(serve: Serve, host: str) -> None:
    answer, text = ask(serve(), "/", headers={"Host": host})

    assert answer.status == 421
    assert "web01" not in text


def test_a_load_balancer_may_ask_for_health_by_any_name(serve: Serve) -> None:
    assert ask(serve(), "/health", headers={"Host": "evil.example"})[0].status == 200


# --- where it listens -----------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_it_never_listens_to_the_network_without_a_token(serve: Serve, host: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot serve .* without a token") as caught:
        serve(host=host)

    assert "token_file" in str(caught.value.hint)


@pytest.mark.parametrize("token", ["", " \n"])
def test_an_empty_token_is_none(serve: Serve, token: str) -> None:
    with pytest.raises(ConfigError, match="token of the status page is empty"):
        serve(token, host="0.0.0.0")


def test_with_a_token_it_listens_wherever_it_is_told(serve: Serve) -> None:
    server = serve(TOKEN, host="0.0.0.0")

    assert server.address == f"0.0.0.0:{port_of(server)}"
    assert ask(server, "/health")[0].status == 200


def test_localhost_and_ipv6_are_served(serve: Serve) -> None:
    named, six = serve(host="localhost"), serve(host="::1")

    assert named.address.startswith("127.0.0.1:")
    assert six.address.startswith("[::1]:")
    assert ask(six, "/", headers={"Host": six.address})[0].status == 200


def test_a_port_that_is_taken_is_named_with_who_has_it(serve: Serve) -> None:
    program = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0));"
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())

        with pytest.raises(HostError) as caught:
            serve(port=port)

        holder.communicate("")
    assert f"the port is taken by process {holder.pid} (" in str(caught.value)
    assert f"ss -ltnp sport = :{port}" in str(caught.value.hint)
    assert '"listen" under "daemon"' in str(caught.value.hint)


@pytest.mark.parametrize("host", ["no.such.host.invalid", ""])
def test_an_address_that_there_is_not_is_named(serve: Serve, host: str) -> None:
    with pytest.raises(ConfigError, match=r"could not serve .*: no such address") as caught:
        serve(TOKEN, host=host)

    assert host in str(caught.value)


def test_the_port_is_free_again_after_a_stop(serve: Serve) -> None:
    server = serve()
    port = port_of(server)

    server.stop()
    server.stop()

    again = serve(port=port)
    assert ask(again, "/health")[0].status == 200


def test_a_server_that_never_started_can_be_stopped(log: RecordedEvents) -> None:
    StatusServer("127.0.0.1", 0, None, quiet_host, lambda _: [], log).stop()

    assert log.events == []


# --- what it bears --------------------------------------------------------------------------


def test_who_sends_a_byte_now_and_then_is_cut_off(serve: Serve) -> None:
    server = serve(seconds=2)
    started = clock.monotonic()

    with raw(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        ended = None
        while ended is None and clock.monotonic() - started < 60:
            try:
                connection.sendall(b"X")
                connection.settimeout(0.05)
                if connection.recv(1) == b"":
                    ended = clock.monotonic()
            except TimeoutError:
                continue
            except OSError:
                ended = clock.monotonic()

    assert ended is not None
    assert ended - started >= 1.9
    assert ask(server, "/health")[0].status == 200


def test_who_comes_when_all_places_are_taken_is_told_to_come_later(serve: Serve) -> None:
    server = serve(connections=2, seconds=120)

    with raw(server) as one, raw(server) as two:
        for connection in (one, two):
            connection.sendall(b"GET / HT")
        deadline = clock.monotonic() + 60
        answer = b""
        while b"503" not in answer and clock.monotonic() < deadline:
            with raw(server) as third:
                answer = read_all(third)

    assert b"Retry-After" in answer
    deadline = clock.monotonic() + 60
    while clock.monotonic() < deadline:
        try:
            if ask(server, "/health")[0].status == 200:
                break
        except OSError:
            continue
    else:
        pytest.fail("the places are not free again")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\n\r\n", b"421"),
        (b"GET /" + b"a" * 66000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
        (b"\x00\x00\x00\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_request_is_refused_in_order(
    serve: Serve, log: RecordedEvents, request_: bytes, status: bytes
) -> None:
    server = serve()

    with raw(server) as connection:
        with suppress(ConnectionError):  # it may have answered before all of it was sent
            connection.sendall(request_)
        answer = read_all(connection)

    # A reset may overtake the answer to somebody who has sent more than is ever read.
    assert status in answer.partition(b"\n")[0] or (status == b"414" and answer == b"")
    assert log.warnings == []
    assert ask(server, "/health")[0].status == 200


def test_a_request_is_read_up_to_a_size_alone(serve: Serve, log: RecordedEvents) -> None:
    server = serve()
    small, large = b"X: " + b"y" * 500 + b"\r\n", b"X: " + b"y" * 2000 + b"\r\n"

    answers = []
    for header in (small, large):
        with raw(server) as connection:
            # The other side may have closed before all of it was sent.
            with suppress(OSError):
                connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + header * 60 + b"\r\n")
            answers.append(read_all(connection))

    assert b"200 OK" in answers[0]
    assert answers[1] == b""
    assert log.warnings == []


def test_who_leaves_before_the_answer_disturbs_nobody(serve: Serve, log: RecordedEvents) -> None:
    server = serve()

    for _ in range(5):
        with raw(server) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    assert ask(server, "/health")[0].status == 200
    assert log.warnings == []


def test_a_failed_run_is_reached_from_the_overview(serve: Serve) -> None:
    status = quiet_host()
    failed = failing(status.sources[0])
    assert failed.last is not None
    status = replace(status, failures=(failed.last,))
    server = serve(status=lambda: status)

    _, overview = ask(server, "/")
    answer, text = ask(server, f"/run/{failed.last.id}")

    assert f'href="/run/{failed.last.id}"' in overview
    assert answer.status == 200
    assert "no free extents" in text
