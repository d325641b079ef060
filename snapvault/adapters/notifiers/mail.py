# SPDX-License-Identifier: Apache-2.0
"""Mail: one message for each notice, to all recipients."""

import json
import re
import uuid
from collections.abc import Iterator
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from typing import Final

from snapvault import clock
from snapvault.adapters.notifiers import smtp, templates
from snapvault.adapters.notifiers.wishes import is_news
from snapvault.errors import NotifyError, NotifyUnavailableError
from snapvault.model.notices import Notice
from snapvault.model.settings import MailSettings, NotifierSettings
from snapvault.ports.source import Finding
from snapvault.units import format_count

_MESSAGES: Final = uuid.UUID("c2f3c3f7-6a55-4a37-9a0e-2a0a3c1c6b18")

# Enough to keep anything else out of headers and commands; the server knows who exists.
_LOCAL: Final = re.compile(r"[^\s@<>()\[\]:;,\\\"]+")
_DOMAIN: Final = re.compile(r"[\w.-]+|\[[0-9A-Za-z.:]+\]")


class MailNotifier:
    """Mails each notice that is wished for."""

    def __init__(self, settings: NotifierSettings, to: MailSettings) -> None:
        self._settings = settings
        self._to = to
        # Whom a message did not reach that the others have: by its Message-ID.
        self._outstanding: tuple[str, tuple[str, ...]] | None = None

    @property
    def name(self) -> str:
        """The name in the settings."""
        return self._settings.name

    def wants(self, notice: Notice) -> bool:
        """Tell whether a notice is wished for; failures only once they are final."""
        return is_news(notice, self._settings.on)

    def tell(self, notice: Notice) -> None:
        """Hand a message over to the server; see the port.

        A server may take it for some recipients only. That is an error, and a further attempt
        is for the others alone.
        """
        message = self.compose(notice)
        identity = str(message["Message-ID"])
        recipients = tuple(_address(each) for each in self._to.to)
        if self._outstanding is not None and self._outstanding[0] == identity:
            recipients = self._outstanding[1]
        refusals = smtp.send(
            self._to, message, _address(self._to.sender), recipients, self._seconds
        )
        self._outstanding = None
        if refusals:
            waiting = tuple(who for who, why in refusals.items() if smtp.is_temporary(why[0]))
            if waiting:
                self._outstanding = (identity, waiting)
            others = format_count(len(recipients) - len(refusals), "other recipient")
            kind = NotifyUnavailableError if waiting else NotifyError
            raise kind(f"{smtp.refused(refusals)}; {others} got the mail")

    def check(self) -> Iterator[Finding]:
        """Connect to the server and log in, without sending anything."""
        server = f'mail server "{self._to.host}" port {self._to.port}'
        try:
            smtp.reach(self._to, self._seconds)
        except NotifyError as error:
            yield Finding(f"notifier {self.name}", str(error), error=error)
        else:
            yield Finding(f"notifier {self.name}", f"{server} answers")

    def compose(self, notice: Notice) -> EmailMessage:
        """Return the message for a notice; the same Message-ID each time."""
        subject = templates.render_subject(notice, self._settings.subject)
        text = templates.render_text(notice, self._settings.text)
        body = text.text if subject.note is None else f"({subject.note})\n\n{text.text}"
        domain = _address(self._to.sender).rpartition("@")[2]
        message = EmailMessage(policy=SMTP)
        message["From"] = _header(self._to.sender)
        message["To"] = [_header(each) for each in self._to.to]
        message["Subject"] = subject.text
        message["Date"] = format_datetime(clock.now())
        message["Message-ID"] = _identity(domain, self.name, templates.notice_id(notice))
        # Messages about one source lie together, under a first one that was never sent.
        thread = (notice.host, notice.vault or "", notice.source or notice.policy or "")
        message["References"] = message["In-Reply-To"] = _identity(domain, self.name, *thread)
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answers from absentees
        message["X-Auto-Response-Suppress"] = "All"  # what Exchange looks at instead
        message["X-SnapVault-Notice"] = notice.kind.value
        message.set_content(body)
        return message

    @property
    def _seconds(self) -> float:
        return self._settings.timeout.total_seconds()


def _identity(domain: str, *parts: str) -> str:
    """Return a Message-ID made of what it is for."""
    made = uuid.uuid5(_MESSAGES, repr(parts))
    return f"<{made}@{domain if domain.isascii() else 'snapvault.invalid'}>"


def _address(text: str) -> str:
    """Return the bare address of what a person wrote: `SnapVault <backup@example.org>`."""
    return _header(text).addr_spec


def _header(text: str) -> Address:
    name, address = parseaddr(text)
    local, _, domain = address.rpartition("@")
    if not text.isprintable() or not _LOCAL.fullmatch(local) or not _DOMAIN.fullmatch(domain):
        raise NotifyError(f"{json.dumps(text, ensure_ascii=False)} is no mail address")
    return Address(display_name=name, username=local, domain=domain)
