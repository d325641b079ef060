# SPDX-License-Identifier: Apache-2.0
"""From what the settings say of a notifier to the adapter that delivers."""

from collections.abc import Iterator
from datetime import datetime

from snapvault.adapters.notifiers.mail import MailNotifier
from snapvault.adapters.notifiers.ping import PingNotifier
from snapvault.adapters.notifiers.templates import check_template
from snapvault.adapters.notifiers.webhook import WebhookNotifier
from snapvault.model.notices import Notice, NoticeKind
from snapvault.model.settings import MailSettings, NotifierSettings, WebhookSettings
from snapvault.ports.notifier import Notifier
from snapvault.ports.source import Finding


def open_notifier(settings: NotifierSettings) -> Notifier:
    """Return the notifier that the settings describe. Nothing is read or reached yet."""
    return _open(settings)


def check_notifier(settings: NotifierSettings) -> Iterator[Finding]:
    """Look at what a notifier needs, without telling anybody: templates, and its server."""
    for field, problem in check_templates(settings).items():
        yield Finding(
            f"notifier {settings.name}",
            f"the template {field} cannot be used: {problem}",
            remedy="Mend the template. Until then the usual text is sent.",
        )
    yield from _open(settings).check()


def check_templates(settings: NotifierSettings) -> dict[str, str]:
    """Return what is wrong with a notifier's templates, by the settings' field; often empty."""
    body = settings.to.body if isinstance(settings.to, WebhookSettings) else None
    written = {"subject": settings.subject, "text": settings.text, "body": body}
    found = {field: check_template(text) for field, text in written.items() if text is not None}
    return {field: problem for field, problem in found.items() if problem is not None}


def send_test(
    settings: NotifierSettings,
    *,
    host: str,
    at: datetime,
    vault: str | None = None,
    source: str | None = None,
    policy: str | None = None,
) -> None:
    """Deliver a notice that says it is a test, whatever the wishes are.

    It is of the kind `recovery`, so that no program wakes anybody. A ping has it logged on the
    other side, which takes it for no run. The names fill in the URL's.

    Raises:
        NotifyError: it was not delivered.
    """
    notifier = _open(settings)
    notice = Notice(
        kind=NoticeKind.RECOVERY,
        at=at,
        host=host,
        title=f'test of notifier "{settings.name}"',
        message="this is a test: SnapVault can reach you, and nothing has happened",
        vault=vault,
        source=source,
        policy=policy,
    )
    notifier.tell(notice)


def _open(settings: NotifierSettings) -> MailNotifier | WebhookNotifier | PingNotifier:
    to = settings.to
    if isinstance(to, MailSettings):
        return MailNotifier(settings, to)
    if isinstance(to, WebhookSettings):
        return WebhookNotifier(settings, to)
    return PingNotifier(settings, to)
