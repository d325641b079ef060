# SPDX-License-Identifier: Apache-2.0
"""Whom to tell: the shapes of notifiers, and their model values.

URLs and headers are secrets more often than not, so no message here shows a value.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from snapvault.config import addresses
from snapvault.config.problems import quoted
from snapvault.config.strict import Shape
from snapvault.config.templates import template
from snapvault.config.values import (
    DURATION_SCHEMA,
    Name,
    PathText,
    TcpPort,
    duration_from,
    unique,
)
from snapvault.model.notices import Wish
from snapvault.model.settings import (
    DEFAULT_WISHES,
    MailSettings,
    NotifierSettings,
    PingSettings,
    WebhookSettings,
)

Template = Annotated[str, AfterValidator(template)]
WebUrl = Annotated[str, AfterValidator(addresses.web_url)]
MailAddress = Annotated[str, AfterValidator(addresses.mail_address)]
NotifierName = Annotated[str, AfterValidator(addresses.notifier_name)]
WishWord = Literal["failure", "recovery", "breach", "always"]

_PORTS = {"starttls": 587, "tls": 465, "none": 25}

PathOf = Callable[[str, str | None, str | None], Path | None]
"""Makes a path of a key, of the path written there, and of the credential in its place."""


class MailShape(Shape):
    """Mail through an SMTP server."""

    host: Annotated[str, AfterValidator(addresses.mail_host)]
    """The server's name or address."""
    port: TcpPort | None = None
    """The server's port; left out: 587, 465 with tls, 25 with none."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """How the connection is encrypted."""
    user: Annotated[str, AfterValidator(addresses.login)] | None = None
    """Whom to log in as; left out: nobody."""
    password_file: PathText | None = None
    """A file with the user's password."""
    password_credential: Name | None = None
    """The systemd credential with that password."""
    sender: MailAddress = Field(alias="from")
    """Whom mails come from."""
    to: Annotated[list[MailAddress], AfterValidator(unique)] = Field(min_length=1)
    """Whom they go to."""
    ca_bundle: PathText | None = None
    """Certificates to trust instead of the system's."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _at_most_one(self, "password_file", "password_credential")
        password = self.password_file or self.password_credential
        if (self.user is None) != (password is None):
            here, there = ("none", "a user") if password is None else ("one", "none")
            raise ValueError(
                f"expected a user and a password, or neither, found {there} and {here}"
            )
        return self


class UrlShape(Shape):
    """Where to post: exactly one of three."""

    url: WebUrl | None = None
    """Where to post."""
    url_file: PathText | None = None
    """A file whose first line is the URL."""
    url_credential: Name | None = None
    """The systemd credential with the URL."""
    ca_bundle: PathText | None = None
    """Certificates to trust instead of the system's."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [key for key in ("url", "url_file", "url_credential") if getattr(self, key)]
        if len(given) != 1:
            names = " and ".join(quoted(key) for key in given) or "none"
            raise ValueError(
                f'expected exactly one of "url", "url_credential", "url_file", found {names}'
            )
        return self


class WebhookShape(UrlShape):
    """A JSON document by POST."""

    headers: Annotated[dict[str, str], BeforeValidator(addresses.headers)] = Field(
        default_factory=dict
    )
    """Headers to send with it."""
    body: Template | None = None
    """A template of another document."""


class PingShape(UrlShape):
    """A ping per run, as healthchecks.io takes it."""


class NotifierShape(Shape):
    """Somebody to tell: exactly one of mail, webhook and ping."""

    mail: MailShape | None = None
    """Tell by mail."""
    webhook: WebhookShape | None = None
    """Tell a program, with a JSON document by POST."""
    ping: PingShape | None = None
    """Tell a service that waits for each run, as healthchecks.io does."""
    on: Annotated[list[WishWord], AfterValidator(unique)] = Field(
        default_factory=lambda: [wish.value for wish in Wish if wish in DEFAULT_WISHES],
        min_length=1,
    )
    """What of; not for a ping, which is told of every run."""
    subject: Template | None = None
    """A template of a mail's subject."""
    text: Template | None = None
    """A template of a mail's text."""
    timeout: Annotated[
        timedelta,
        BeforeValidator(duration_from(timedelta(seconds=1), timedelta(minutes=10))),
        DURATION_SCHEMA,
    ] = timedelta(seconds=20)
    """The longest time that telling may take."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [key for key in ("mail", "webhook", "ping") if getattr(self, key) is not None]
        if len(given) != 1:
            names = " and ".join(quoted(key) for key in given) or "none"
            raise ValueError(f'expected exactly one of "mail", "ping", "webhook", found {names}')
        for key in ("subject", "text"):
            if getattr(self, key) is not None and self.mail is None:
                raise ValueError(f'expected {quoted(key)} with "mail" only, found it without')
        if "on" in self.model_fields_set and self.ping is not None:
            raise ValueError('expected "on" with "mail" or "webhook" only, found it with "ping"')
        return self


def notifier_settings(name: str, shape: NotifierShape, path_of: PathOf) -> NotifierSettings:
    """Make the model value of a notifier; `path_of` gets keys below the notifier, with dots."""
    to: MailSettings | WebhookSettings | PingSettings
    if shape.mail is not None:
        to = _mail(shape.mail, path_of)
    elif shape.webhook is not None:
        hook = shape.webhook
        to = WebhookSettings(
            url=hook.url,
            url_file=path_of("webhook.url_file", hook.url_file, hook.url_credential),
            headers=dict(hook.headers),
            body=hook.body,
            ca_bundle=path_of("webhook.ca_bundle", hook.ca_bundle, None),
        )
    elif shape.ping is not None:
        to = PingSettings(
            url=shape.ping.url,
            url_file=path_of("ping.url_file", shape.ping.url_file, shape.ping.url_credential),
            ca_bundle=path_of("ping.ca_bundle", shape.ping.ca_bundle, None),
        )
    else:
        raise AssertionError("a shape has exactly one way")  # pragma: no cover - the shape checks
    return NotifierSettings(
        name=name,
        to=to,
        on=frozenset(Wish(word) for word in shape.on),
        subject=shape.subject,
        text=shape.text,
        timeout=shape.timeout,
    )


def _mail(shape: MailShape, path_of: PathOf) -> MailSettings:
    return MailSettings(
        host=shape.host,
        sender=shape.sender,
        to=tuple(shape.to),
        port=shape.port or _PORTS[shape.security],
        security=shape.security,
        user=shape.user,
        password_file=path_of("mail.password_file", shape.password_file, shape.password_credential),
        ca_bundle=path_of("mail.ca_bundle", shape.ca_bundle, None),
    )


def _at_most_one(shape: Shape, *keys: str) -> None:
    if all(getattr(shape, key) is not None for key in keys):
        names = " and ".join(quoted(key) for key in keys)
        raise ValueError(f"expected at most one of {names}, found both")
