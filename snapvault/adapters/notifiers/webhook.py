# SPDX-License-Identifier: Apache-2.0
"""Webhooks: a JSON document by POST."""

from collections.abc import Iterator

from snapvault.adapters.notifiers import http, templates
from snapvault.adapters.notifiers.wishes import is_news
from snapvault.model.notices import Notice
from snapvault.model.settings import NotifierSettings, WebhookSettings
from snapvault.ports.source import Finding

_JSON = "application/json"


class WebhookNotifier:
    """Posts each notice that is wished for."""

    def __init__(self, settings: NotifierSettings, to: WebhookSettings) -> None:
        self._settings = settings
        self._to = to

    @property
    def name(self) -> str:
        """The name in the settings."""
        return self._settings.name

    def wants(self, notice: Notice) -> bool:
        """Tell whether a notice is wished for; failures only once they are final."""
        return is_news(notice, self._settings.on)

    def tell(self, notice: Notice) -> None:
        """Post a notice's document; see the port."""
        theirs = {name.lower(): value for name, value in self._to.headers.items()}
        is_json = "json" in theirs.get("content-type", _JSON).lower()
        rendered = templates.render_json(notice, self._to.body, must_be_json=is_json)
        http.post(
            self._place(notice),
            rendered.text.encode(),
            {"Content-Type": _JSON, "User-Agent": "SnapVault", **self._to.headers},
            ca_bundle=self._to.ca_bundle,
            seconds=self._settings.timeout.total_seconds(),
        )

    def check(self) -> Iterator[Finding]:
        """Connect to the server without sending anything."""
        return http.look(self._settings, self._to)

    def _place(self, notice: Notice) -> http.Place:
        return http.find_place(self._to.url, self._to.url_file, notice, name=self.name)
