# SPDX-License-Identifier: Apache-2.0
"""Pings: one for each run that starts, succeeds or fails, as healthchecks.io takes them.

A run that does not happen is not told: silence is what the other side listens for.
Source: healthchecks.io, "Pinging API".
"""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qsl, urlencode

from snapvault.adapters.notifiers import http
from snapvault.adapters.notifiers.templates import one_line
from snapvault.model.notices import Notice, NoticeKind
from snapvault.model.settings import NotifierSettings, PingSettings
from snapvault.ports.source import Finding

_ENDINGS: Final = {
    NoticeKind.START: "/start",
    NoticeKind.SUCCESS: "",
    NoticeKind.FAILURE: "/fail",
}
_TEST: Final = "/log"  # what is noted there changes no state
_TEXT_LENGTH: Final = 2000
_RUNS: Final = uuid.UUID("0b7c5b3e-5c1f-4a4e-9a51-6c1d3a0e7f42")


class PingNotifier:
    """Pings for every run, whatever the wishes are."""

    keeps_last_state = True  # the other side judges a source by the last ping that it got

    def __init__(self, settings: NotifierSettings, to: PingSettings) -> None:
        self._settings = settings
        self._to = to

    @property
    def name(self) -> str:
        """The name in the settings."""
        return self._settings.name

    def wants(self, notice: Notice) -> bool:
        """Tell whether a notice is a run's start or end; each failed attempt is one."""
        return notice.kind in _ENDINGS and notice.run is not None

    def tell(self, notice: Notice) -> None:
        """Ping for a run, or have anything else logged on the other side; see the port."""
        self._ping(notice, _ENDINGS.get(notice.kind, _TEST))

    def check(self) -> Iterator[Finding]:
        """Connect to the server without pinging."""
        return http.look(self._settings, self._to)

    def _ping(self, notice: Notice, ending: str) -> None:
        place = self._place(notice)
        query = place.query
        if notice.run is not None and "rid" not in dict(parse_qsl(query, keep_blank_values=True)):
            query += ("&" if query else "") + urlencode({"rid": run_uuid(notice.run.id)})
        text = "\n".join(one_line(part) for part in (notice.message, notice.hint) if part)
        http.post(
            replace(place, path=place.path.rstrip("/") + ending or "/", query=query),
            text[:_TEXT_LENGTH].encode(),
            {"Content-Type": "text/plain; charset=utf-8", "User-Agent": "SnapVault"},
            ca_bundle=self._to.ca_bundle,
            seconds=self._settings.timeout.total_seconds(),
        )

    def _place(self, notice: Notice) -> http.Place:
        return http.find_place(self._to.url, self._to.url_file, notice, name=self.name)


def run_uuid(run: str) -> str:
    """Return the UUID that stands for a run: its id if that is one, otherwise made from it."""
    try:
        return str(uuid.UUID(run))
    except ValueError:
        return str(uuid.uuid5(_RUNS, run))
