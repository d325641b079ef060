# SPDX-License-Identifier: Apache-2.0
"""What is answered to a request: who may see it, which page it is, and with which headers."""

import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode

from snapvault import clock
from snapvault.daemon.web import views
from snapvault.daemon.web.access import Access, local_goal
from snapvault.daemon.web.metrics import metrics
from snapvault.daemon.web.pages import Pages
from snapvault.errors import SnapVaultError
from snapvault.model.runs import Run, SourceKey
from snapvault.model.status import Status
from snapvault.ports.events import Events

_FRESH_SECONDS: Final = 2.0
_REFUSALS_EVERY: Final = 60.0
_HTML: Final = "text/html; charset=utf-8"
_TEXT: Final = "text/plain; charset=utf-8"
_POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
_COMMON: Final = (
    ("Content-Security-Policy", _POLICY),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `target` is the path with its query; names of `headers` are in title case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    client: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; `headers` adds to what is particular what all have."""

    status: HTTPStatus
    body: bytes
    media_type: str = _HTML
    extra: tuple[tuple[str, str], ...] = ()
    max_age: int | None = None

    def headers(self) -> list[tuple[str, str]]:
        """Return all headers."""
        kept = "no-store" if self.max_age is None else f"max-age={self.max_age}"
        return [
            ("Content-Type", self.media_type),
            ("Content-Length", str(len(self.body))),
            ("Cache-Control", kept),
            *_COMMON,
            *self.extra,
        ]


def plain(status: HTTPStatus, *extra: tuple[str, str]) -> Answer:
    """Answer with the name of a status alone."""
    return Answer(status, f"{status.phrase.lower()}\n".encode(), _TEXT, extra)


class Answers:
    """Answers requests. Safe from several threads."""

    def __init__(
        self,
        access: Access,
        status: Callable[[], Status],
        run: Callable[[str], Run | None],
        run_log: Callable[[str], Sequence[Mapping[str, object]]],
        log: Events,
        zone: tzinfo,
    ) -> None:
        self._access = access
        self._status = _Fresh(status)
        self._run = run
        self._run_log = run_log
        self._log = log
        self._pages = Pages(zone)
        self._refusals = 0
        self._refusal_logged: float | None = None

    def to(self, request: Request) -> Answer:
        """Answer a request, whatever happens."""
        try:
            return self._to(request)
        except SnapVaultError as error:
            self._log.warn("web.failed", str(error))
            return self._page(
                HTTPStatus.SERVICE_UNAVAILABLE,
                self._pages.problem("The status cannot be told", str(error), error.hint),
            )
        except Exception:  # noqa: BLE001 - the boundary: one page must not take the daemon along
            self._log.warn("web.failed", "could not make a page", traceback=traceback.format_exc())
            return self._page(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                self._pages.problem(
                    "This page could not be made",
                    "It is a defect; the daemon's log has more.",
                    None,
                ),
            )

    def _to(self, request: Request) -> Answer:
        path = request.target.partition("?")[0]
        # What checks health learns nothing, and may come by any name.
        if path == "/health":
            return self._only_reading(request) or Answer(HTTPStatus.OK, b"ok\n", _TEXT)
        if not self._access.is_for_us(request.headers.get("Host")):
            return plain(HTTPStatus.MISDIRECTED_REQUEST)
        if path == "/login" and self._access.needs_token:
            return self._login(request)
        return self._only_reading(request) or self._read(request, path)

    def _read(self, request: Request, path: str) -> Answer:
        if path == "/style.css":
            return Answer(HTTPStatus.OK, self._pages.style, "text/css", max_age=86400)
        query = parse_qsl(request.target.partition("?")[2], keep_blank_values=True)
        shown = next((value for name, value in query if name == "token"), None)
        if shown is not None and self._access.needs_token:
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            return self._shown(request, shown, local_goal(f"{path}?{rest}" if rest else path))
        if not self._access.is_allowed(request.headers):
            return self._who(request, request.target, wrong="Authorization" in request.headers)
        return self._route(path, dict(query), request.headers.get("Accept", ""))

    def _only_reading(self, request: Request) -> Answer | None:
        if request.method in {"GET", "HEAD"}:
            return None
        return plain(HTTPStatus.METHOD_NOT_ALLOWED, ("Allow", "GET, HEAD"))

    def _route(self, path: str, query: Mapping[str, str], accept: str) -> Answer:
        match [unquote(part) for part in path.split("/")[1:]]:
            case [""]:
                show = query.get("show", "all")
                return self._page(HTTPStatus.OK, self._pages.overview(self._status(), show=show))
            case ["metrics"]:
                body, media_type = metrics(self._status(), accept)
                return Answer(HTTPStatus.OK, body, media_type)
            case ["source", vault, source]:
                page = self._pages.source(self._status(), SourceKey(vault, source))
                return self._page(HTTPStatus.OK, page) if page else self._missing()
            case ["run", name]:
                status = self._status()
                run = views.known_runs(status).get(name) or self._run(name)
                if run is None:
                    return self._missing()
                return self._page(HTTPStatus.OK, self._pages.run(status, run, self._run_log(name)))
            case _:
                return self._missing()

    def _missing(self) -> Answer:
        page = self._pages.problem("There is nothing here", "No page has this address.", None)
        return self._page(HTTPStatus.NOT_FOUND, page)

    def _login(self, request: Request) -> Answer:
        if request.method != "POST":
            return self._who(request, "/", wrong=False)
        form = parse_qs(request.body.decode("utf-8", "replace"), keep_blank_values=True)
        goal = local_goal(form.get("goal", ["/"])[0])
        return self._shown(request, form.get("token", [""])[0], goal)

    def _shown(self, request: Request, shown: str, goal: str) -> Answer:
        """Let somebody in who shows the token, by an address that does not hold it."""
        if not self._access.knows(shown):
            return self._who(request, goal, wrong=True)
        return Answer(
            HTTPStatus.SEE_OTHER,
            b"",
            _TEXT,
            (("Location", goal), ("Set-Cookie", self._access.cookie())),
        )

    def _who(self, request: Request, goal: str, *, wrong: bool) -> Answer:
        if wrong:
            self._tell_refusal(request.client)
        asks = ("WWW-Authenticate", 'Bearer realm="SnapVault"')
        if "text/html" not in request.headers.get("Accept", ""):
            return plain(HTTPStatus.UNAUTHORIZED, asks)
        page = self._pages.login(goal=local_goal(goal), wrong=wrong)
        return self._page(HTTPStatus.UNAUTHORIZED, page, asks)

    def _tell_refusal(self, client: str) -> None:
        """Tell of wrong tokens, but let nobody fill the log with them."""
        self._refusals += 1
        now = clock.monotonic()
        if self._refusal_logged is None or now - self._refusal_logged >= _REFUSALS_EVERY:
            self._log.warn(
                "web.refused",
                "somebody showed a wrong token at the status page",
                client=client,
                times=self._refusals,
            )
            self._refusals, self._refusal_logged = 0, now

    def _page(self, status: HTTPStatus, page: str, *extra: tuple[str, str]) -> Answer:
        # A lone surrogate in a name must not keep the rest from being shown.
        return Answer(status, page.encode("utf-8", "replace"), _HTML, extra)


class _Fresh:
    """A status that is found out at most every other second, by one thread at a time."""

    def __init__(self, find: Callable[[], Status]) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._found: Status | None = None
        self._at = 0.0

    def __call__(self) -> Status:
        with self._lock:
            if self._found is None or clock.monotonic() - self._at >= _FRESH_SECONDS:
                self._found = self._find()
                self._at = clock.monotonic()
            return self._found
