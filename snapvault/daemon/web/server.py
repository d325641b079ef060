# SPDX-License-Identifier: Apache-2.0
"""The daemon's own web server: one status page, metrics, nothing that changes anything."""

import contextlib
import io
import socket
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import tzinfo
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from snapvault import clock
from snapvault.config.zones import local_zone
from snapvault.daemon.web.access import Access
from snapvault.daemon.web.answers import Answer, Answers, Request, plain
from snapvault.daemon.web.listening import address_text, listen
from snapvault.errors import ConfigError
from snapvault.model.runs import Run
from snapvault.model.status import Status
from snapvault.ports.events import Events

_CONNECTIONS: Final = 32
_SECONDS: Final = 15.0
_REQUEST_BYTES: Final = 64 * 1024
_FORM_BYTES: Final = 4096
_PAUSE: Final = 0.2  # when too many files are open, say


class StatusServer:
    """Serves the status page at an address, in threads of its own.

    `token` is what whoever looks must know; None: nothing, and then only loopback addresses
    are served. `run` finds a run that the status does not speak of any more. `status`, `run` and
    `run_log` are called from those threads, `status` by one at a
    time and at most every other second. What goes wrong in them is told to `log` and to
    whoever looked, and harms nobody else. `seconds` is what one connection may take in all.
    """

    def __init__(  # noqa: PLR0913 - the last three are for tests
        self,
        host: str,
        port: int,
        token: str | None,
        status: Callable[[], Status],
        run_log: Callable[[str], Sequence[Mapping[str, object]]],
        log: Events,
        *,
        run: Callable[[str], Run | None] = lambda _: None,
        zone: tzinfo | None = None,
        connections: int = _CONNECTIONS,
        seconds: float = _SECONDS,
    ) -> None:
        self._host = host
        self._port = port
        self._token = token
        self._status = status
        self._run_log = run_log
        self._run = run
        self._log = log
        self._zone = zone
        self._connections = connections
        self._seconds = seconds
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """Where it is served, with the port that was found: `127.0.0.1:9797`."""
        if self._server is None:
            raise RuntimeError("not started")
        host, port = self._server.server_address[:2]
        return address_text(str(host), int(port))

    def start(self) -> None:
        """Take the port and serve; it is open on return.

        Raises:
            ConfigError: the port is taken, the address is not this machine's, the token is
                empty, or there is none and the address can be reached from outside.
        """
        if self._token is not None and not self._token.strip():
            raise ConfigError(
                "the token of the status page is empty",
                hint='Write at least 20 random characters into the file that "token_file" names.',
            )
        listener = listen(self._host, self._port, with_token=self._token is not None)
        access = Access(self._token and self._token.strip(), listener.getsockname()[1])
        answers = Answers(
            access,
            self._status,
            self._run,
            self._run_log,
            self._log,
            self._zone or local_zone(),
        )
        self._server = _Server(
            listener, answers, self._log, connections=self._connections, seconds=self._seconds
        )
        self._thread = threading.Thread(target=self._server.serve, name="status page", daemon=True)
        self._thread.start()
        self._log.emit("web.listening", address=self.address)

    def stop(self) -> None:
        """Close the port; answers that are being written go on in the background. Repeatable."""
        if self._server is not None and self._thread is not None and self._thread.is_alive():
            self._server.end()
            self._thread.join()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    """A thread for each connection, up to a number; who comes then is told to come later."""

    daemon_threads = True

    def __init__(
        self,
        listener: socket.socket,
        answers: Answers,
        log: Events,
        *,
        connections: int,
        seconds: float,
    ) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_address = listener.getsockname()
        self.answers = answers
        self.seconds = seconds
        self._log = log
        self._free = threading.BoundedSemaphore(connections)
        self._ending = False

    def serve(self) -> None:
        """Take connections until `end` is called; without any, it does nothing at all."""
        while not self._ending:
            self.handle_request()

    def end(self) -> None:
        """Have `serve` return; who waits for a connection to come hears of it at once."""
        self._ending = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def get_request(self) -> tuple[Any, Any]:
        """Take a connection; where none can be taken, let some time go by."""
        try:
            return super().get_request()
        except OSError:
            if not self._ending:
                clock.sleep(_PAUSE)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a new thread, unless there are too many."""
        if not self._free.acquire(blocking=False):
            _send_busy(request)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make room for the next."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, unless it is only that somebody left or was too slow."""
        del request, client_address
        text = traceback.format_exc()
        if not text.rstrip().splitlines()[-1].startswith(_LEFT):
            self._log.warn("web.failed", "could not answer a request", traceback=text)


_LEFT: Final = ("BrokenPipe", "ConnectionReset", "ConnectionAborted", "Timeout", "TimeoutError")
_BUSY: Final = (
    b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Type: text/plain\r\n"
    b"Connection: close\r\n\r\nbusy\n"
)


def _send_busy(request: socket.socket) -> None:
    try:
        request.setblocking(False)
        request.send(_BUSY)
    except OSError:
        return


class _Handler(BaseHTTPRequestHandler):
    """One connection with one request: HTTP/1.0 as far as we are concerned."""

    server: _Server
    server_version = "SnapVault"

    def setup(self) -> None:
        """Give the whole connection one deadline, and one measure."""
        super().setup()
        self._deadline = clock.monotonic() + self.server.seconds
        self.rfile = io.BufferedReader(_Bounded(self.connection, self._deadline))

    def version_string(self) -> str:
        """Name us, and no versions."""
        return self.server_version

    def do_GET(self) -> None:
        """Answer a GET."""
        self._answer("GET", b"")

    def do_HEAD(self) -> None:
        """Answer a HEAD."""
        self._answer("HEAD", b"")

    def do_POST(self) -> None:
        """Answer the form that asks for the token."""
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            self._send(plain(HTTPStatus.LENGTH_REQUIRED))
            return
        if not 0 <= length <= _FORM_BYTES:
            self._send(plain(HTTPStatus.REQUEST_ENTITY_TOO_LARGE))
            return
        self._answer("POST", self.rfile.read(length))

    def _answer(self, method: str, body: bytes) -> None:
        headers = {name.title(): value for name, value in self.headers.items()}
        request = Request(method, self.path, headers, body, self.client_address[0])
        self._send(self.server.answers.to(request))

    def _send(self, answer: Answer) -> None:
        self.request_version = "HTTP/1.0"  # also for what was not even a request
        left = self._deadline - clock.monotonic()
        self.connection.settimeout(max(left, 0.001))  # for all of what is sent
        self.send_response(answer.status)
        for name, value in answer.headers():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is not even a request we know, without showing it again."""
        del message, explain
        status = HTTPStatus(code)
        if status is HTTPStatus.NOT_IMPLEMENTED:  # what http.server says of other methods
            status = HTTPStatus.METHOD_NOT_ALLOWED
        self.close_connection = True
        self._send(plain(status))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's own
        """Log no requests: addresses may hold a token."""
        del format, args


class _Bounded(io.RawIOBase):
    """What comes from a socket, until a deadline and up to a size.

    A time limit for each read would let a sender who gives a byte now and then stay for ever.
    """

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        super().__init__()
        self._connection = connection
        self._deadline = deadline
        self._left = _REQUEST_BYTES

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what there is."""
        seconds = self._deadline - clock.monotonic()
        if seconds <= 0 or self._left <= 0:
            raise TimeoutError("the request takes too long")
        self._connection.settimeout(seconds)
        count = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count
