# SPDX-License-Identifier: Apache-2.0
"""Posting to a URL that may itself be a secret: all that is ever shown of it is scheme and host."""

import base64
import http.client
import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote, unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from snapvault import clock
from snapvault.adapters.notifiers.connecting import (
    Line,
    explain,
    first_line,
    tls_context,
    within,
)
from snapvault.errors import NotifyError, NotifyUnavailableError
from snapvault.model.notices import Notice
from snapvault.model.settings import NotifierSettings, PingSettings, WebhookSettings
from snapvault.ports.source import Finding

T = TypeVar("T")

# LIMIT: ours, in seconds. A server that asks for a longer pause is asked again sooner.
LONGEST_PAUSE: Final = 600.0

_PORTS: Final = {"http": 80, "https": 443}
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_WHAT_WE_SET: Final = frozenset(("connection", "content-length", "host", "transfer-encoding"))
# What RFC 3986 allows in a path or a query, and "%": what is encoded already stays as it is.
_URL_CHARACTERS: Final = "/%:@!$&'()*+,;=~-._?"
_LATER: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


class AskedToWaitError(NotifyUnavailableError):
    """The server said when to come back: in `retry_after` seconds."""

    def __init__(self, summary: str, *, retry_after: float) -> None:
        super().__init__(summary)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Place:
    """Where to post. `path` and `query` are as they are sent, `login` is a header's value."""

    scheme: str
    host: str
    port: int
    path: str = field(repr=False)
    query: str = field(default="", repr=False)
    login: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Return what may be shown: scheme and host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f'"{self.scheme}://{host}{port}"'

    @property
    def target(self) -> str:
        """What the request asks for."""
        return self.path + (f"?{self.query}" if self.query else "")


def find_place(
    url: str | None, url_file: Path | None, notice: Notice | None, *, name: str
) -> Place:
    """Return where a notifier's URL leads for a notice; None: for no notice in particular.

    Raises:
        NotifyError: there is no URL, or it is none.
    """
    if url is None:
        if url_file is None:
            raise NotifyError(f'notifier "{name}" has no URL')
        url = first_line(url_file, f'the URL of notifier "{name}"')
    names = (
        ("source", notice.source if notice else None),
        ("vault", notice.vault if notice else None),
        ("policy", notice.policy if notice else None),
    )
    for key, value in names:
        url = url.replace("{" + key + "}", quote(value or "", safe="", errors="replace"))
    place = _read_url(url)
    if place is None:
        raise NotifyError(
            f'the URL of notifier "{name}" is none',
            hint="It starts with https:// or http:// and a host, and has no blanks.",
        )
    return place


def post(
    place: Place,
    body: bytes,
    headers: Mapping[str, str],
    *,
    ca_bundle: Path | None,
    seconds: float,
) -> None:
    """Post a body, and return once the server has taken it (2xx) within this time.

    Nothing of the answer but its status and when to come back is read. Redirects are not
    followed: the body and the headers are meant for this server alone.

    Raises:
        NotifyError: it was not taken; retryable if trying again can help.
    """
    sent = _headers(place, headers)

    def work(line: Line) -> tuple[int, str | None]:
        connection = _open(place, line, ca_bundle)
        try:
            connection.request("POST", place.target, body, sent, preload_content=False)
            answer = connection.getresponse()
            try:
                return answer.status, answer.headers.get("Retry-After")
            finally:
                answer.close()
        finally:
            connection.close()

    status, retry_after = _do(place, work, seconds)
    _judge(place, status, retry_after)


def reach(place: Place, *, ca_bundle: Path | None, seconds: float) -> None:
    """Connect, look at the certificate, and hang up.

    Raises:
        NotifyError: the server cannot be reached, or not be trusted.
    """

    def work(line: Line) -> None:
        connection = _open(place, line, ca_bundle)
        try:
            connection.connect()
        finally:
            connection.close()

    _do(place, work, seconds)


def look(settings: NotifierSettings, to: PingSettings | WebhookSettings) -> Iterator[Finding]:
    """Look whether a notifier's address answers, without sending anything; for `check`."""
    name = f"notifier {settings.name}"
    try:
        place = find_place(to.url, to.url_file, None, name=settings.name)
        reach(place, ca_bundle=to.ca_bundle, seconds=settings.timeout.total_seconds())
    except NotifyError as error:
        yield Finding(name, str(error), error=error)
    else:
        yield Finding(name, f"{place} answers")


def _do(place: Place, work: Callable[[Line], T], seconds: float) -> T:
    # What is raised is made outside of `except`: a traceback of it must not hold the first
    # error, because those of libraries quote URLs and headers.
    try:
        return within(seconds, work)
    except NotifyError:
        raise
    except http.client.RemoteDisconnected:
        problem: NotifyError = NotifyUnavailableError(f"{place} hung up without an answer")
    except OSError as error:
        problem = explain(error, str(place), seconds)
    except (http.client.HTTPException, urllib3.exceptions.HTTPError, ValueError):
        problem = NotifyError(f"{place} gave an answer that is not HTTP")
    raise problem


def _judge(place: Place, status: int, retry_after: str | None) -> None:
    """Raise unless a status says that the post was taken."""
    if 200 <= status < 300:
        return
    try:
        words = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        words = str(status)
    message = f"{place} answered {words}"
    if 300 <= status < 400:
        raise NotifyError(
            f"{message}, which is a redirect",
            hint="Redirects are not followed. Write the address that it leads to.",
        )
    if status < 500 and status not in _LATER:
        hint = (
            "Look whether the address is still valid." if status in {401, 403, 404, 410} else None
        )
        raise NotifyError(message, hint=hint)
    pause = _pause(retry_after)
    if pause is None:
        raise NotifyUnavailableError(message)
    raise AskedToWaitError(message, retry_after=pause)


def _pause(retry_after: str | None) -> float | None:
    """Read the header Retry-After, seconds or a date; None: it says nothing."""
    if retry_after is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", retry_after.strip()):
        return min(float(retry_after), LONGEST_PAUSE)
    try:
        seconds = (parsedate_to_datetime(retry_after) - clock.now()).total_seconds()
    except (TypeError, ValueError, OverflowError):  # no date, or one without a zone
        return None
    return min(max(seconds, 0.0), LONGEST_PAUSE)


def _headers(place: Place, wanted: Mapping[str, str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    if place.login is not None:
        headers["authorization"] = place.login
    for name, value in wanted.items():
        if not _TOKEN.fullmatch(name) or name.lower() in _WHAT_WE_SET:
            raise NotifyError(f"cannot send header {json.dumps(name)} to {place}")
        if not value.isprintable():
            raise NotifyError(
                f'cannot send header "{name}" to {place}: its value holds a line\'s end'
                " or another control character"
            )
        headers[name.lower()] = value.encode().decode("latin-1")  # what is sent is UTF-8
    return headers


def _open(place: Place, line: Line, ca_bundle: Path | None) -> HTTPConnection:
    if place.scheme == "http":
        return _Plain(line, place.host, place.port)
    return _Secure(line, place.host, place.port, ssl_context=tls_context(ca_bundle))


class _Plain(HTTPConnection):
    """HTTP over a delivery's own line."""

    def __init__(self, line: Line, host: str, port: int) -> None:
        super().__init__(host, port, timeout=line.left)
        self._line = line

    def _new_conn(self) -> socket.socket:
        return self._line.connect(self.host, self.port)


class _Secure(HTTPSConnection):
    """HTTPS over a delivery's own line."""

    def __init__(self, line: Line, host: str, port: int, *, ssl_context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=line.left, ssl_context=ssl_context)
        self._line = line

    def _new_conn(self) -> socket.socket:
        return self._line.connect(self.host, self.port)


def _read_url(url: str) -> Place | None:
    """Take a URL apart; None: it is none."""
    if not url.isprintable() or " " in url:
        return None
    try:
        parts = urlsplit(url)
        scheme, port = parts.scheme, parts.port
        host = (parts.hostname or "").encode("idna").decode()
    except ValueError:  # UnicodeError is one
        return None
    if scheme not in _PORTS or not host or "%" in host or port == 0:
        return None
    login = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        login = "Basic " + base64.b64encode(pair.encode()).decode()
    return Place(
        scheme=scheme,
        host=host,
        port=port or _PORTS[scheme],
        path=quote(parts.path, safe=_URL_CHARACTERS) or "/",
        query=quote(parts.query, safe=_URL_CHARACTERS),
        login=login,
    )
