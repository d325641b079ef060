# SPDX-License-Identifier: Apache-2.0
import socket
import threading
from contextlib import closing
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.adapters.notifiers.connecting import Line, first_line, tls_context, within
from snapvault.errors import NotifyError


def test_work_gives_its_result_or_its_error() -> None:
    def fail(line: Line) -> None:
        raise LookupError("x")

    assert within(60, lambda line: 7) == 7
    with pytest.raises(LookupError):
        within(60, fail)


def test_work_that_is_late_is_left_and_its_connections_end() -> None:
    connected, ended = threading.Event(), threading.Event()

    with closing(socket.create_server(("127.0.0.1", 0))) as silent:

        def work(line: Line) -> None:
            with closing(line.connect("127.0.0.1", silent.getsockname()[1])) as connection:
                connected.set()
                connection.settimeout(None)
                assert connection.recv(1) == b""
            ended.set()

        for seconds in (0.5, 5, 50):  # a busy machine may be late before it is connected
            with pytest.raises(TimeoutError):
                within(seconds, work)
            if connected.is_set():
                break

        assert ended.wait(60)


def test_a_line_that_was_cut_connects_no_more() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        line = Line(60)
        line.cut()

        with pytest.raises(TimeoutError):
            line.connect("127.0.0.1", server.getsockname()[1])


def test_an_address_that_swallows_everything_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as full,
        closing(socket.create_server(("127.0.0.1", 0))) as server,
        closing(socket.create_connection(full.getsockname())),
    ):
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", listener.getsockname())
            for listener in (full, server)
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        began = clock.monotonic()

        line = Line(6)
        with closing(line.connect("host", 1)) as connection:
            assert connection.getpeername() == server.getsockname()
        line.cut()

        assert 2 < clock.monotonic() - began < 6


def test_a_secret_is_a_files_first_line(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"  secret \r\nnot this\n")

    assert first_line(file, "it") == "secret"


def test_a_ca_bundle_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    for name, said in (("empty", "there is no certificate in it"), ("none", "no such file")):
        with pytest.raises(NotifyError, match=said):
            tls_context(tmp_path / name)
