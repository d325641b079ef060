# SPDX-License-Identifier: Apache-2.0
"""One conversation with an SMTP server, over a line that is cut when its time is up."""

import ipaddress
import smtplib
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Final, TypeVar

from snapvault.adapters.notifiers.connecting import (
    Line,
    explain,
    first_line,
    tls_context,
    within,
)
from snapvault.adapters.notifiers.templates import one_line
from snapvault.errors import NotifyError, NotifyUnavailableError
from snapvault.model.settings import MailSettings

T = TypeVar("T")
Refusals = Mapping[str, tuple[int, bytes]]

_WORDS_LENGTH: Final = 200
_WAYS_IN: Final = frozenset(("CRAM-MD5", "LOGIN", "PLAIN"))  # those of smtplib


def send(
    to: MailSettings, message: EmailMessage, sender: str, recipients: Sequence[str], seconds: float
) -> Refusals:
    """Hand a message over, and return the recipients that the server refused, if not all.

    Raises:
        NotifyError: nobody gets it; retryable if trying again can help.
    """
    secret = _password(to)

    def work(server: smtplib.SMTP) -> Refusals:
        return server.send_message(message, sender, recipients)

    return _converse(to, secret, work, seconds)


def reach(to: MailSettings, seconds: float) -> None:
    """Connect, log in, and leave.

    Raises:
        NotifyError: the server cannot be reached, or not be trusted, or does not know us.
    """
    _converse(to, _password(to), lambda server: server.noop(), seconds)


def is_temporary(code: int) -> bool:
    """Tell whether a refusal with this code may be over soon; -1: the server hung up."""
    return not 500 <= code < 600


def answer(code: int, words: bytes | str) -> str:
    """Return what a server said as one short line."""
    text = words if isinstance(words, str) else words.decode(errors="replace")
    return f"{code} {one_line(text)}".strip()[:_WORDS_LENGTH]


@dataclass(frozen=True, slots=True)
class _Secret:
    text: str = field(repr=False)


def _whom(to: MailSettings) -> str:
    return f'mail server "{to.host}" port {to.port}'


def _password(to: MailSettings) -> _Secret | None:
    if to.user is None:
        return None
    if to.password_file is None:
        raise NotifyError(f'{_whom(to)} has user "{to.user}" but no password_file')
    password = first_line(to.password_file, f'the password of mail user "{to.user}"')
    if not (password.isascii() and to.user.isascii()):
        raise NotifyError(
            f"cannot log in to {_whom(to)}: user and password can only have ASCII characters",
            hint="Give the mail user another password.",
        )
    return _Secret(password)


def _converse(
    to: MailSettings, secret: _Secret | None, work: Callable[[smtplib.SMTP], T], seconds: float
) -> T:
    """Do something with a server that has let us in."""
    context = None if to.security == "none" else tls_context(to.ca_bundle)

    def session(line: Line) -> T:
        server = _Server(line, to, context)
        try:
            _enter(server, to, context, secret)
            result = work(server)
            # No word of leave-taking is waited for: the message is theirs already.
            with suppress(OSError, smtplib.SMTPException):
                server.putcmd("quit")
            return result
        finally:
            server.close()

    # What is raised is made outside of `except`, because the first error may quote the password.
    try:
        return within(seconds, session)
    except NotifyError:
        raise
    except smtplib.SMTPRecipientsRefused as error:
        problem = refused(error.recipients)
    except smtplib.SMTPAuthenticationError as error:
        kind = NotifyUnavailableError if is_temporary(error.smtp_code) else NotifyError
        problem = kind(
            f'{_whom(to)} does not let user "{to.user}" in: it answered {error.smtp_code}',
            hint=f'Look at the user, and at the password in "{to.password_file}".',
        )
    except smtplib.SMTPResponseException as error:
        kind = NotifyUnavailableError if is_temporary(error.smtp_code) else NotifyError
        said = answer(error.smtp_code, error.smtp_error)
        if secret is not None:
            said = said.replace(secret.text, "...")
        problem = kind(f"{_whom(to)} answered {said}")
    except smtplib.SMTPServerDisconnected:
        problem = NotifyUnavailableError(f"{_whom(to)} hung up")
    except smtplib.SMTPNotSupportedError:
        problem = NotifyError(f"{_whom(to)} takes only addresses in ASCII")
    except OSError as error:
        problem = explain(error, _whom(to), seconds)
    except (smtplib.SMTPException, ValueError):
        problem = NotifyError(f"{_whom(to)} does not speak SMTP as it should")
    raise problem


def refused(recipients: Refusals) -> NotifyError:
    """Return the error for recipients that a server refused, none of which got the message."""
    said = "; ".join(f'"{who}": {answer(*why)}' for who, why in recipients.items())
    kind = (
        NotifyUnavailableError
        if any(is_temporary(code) for code, _ in recipients.values())
        else NotifyError
    )
    return kind(f"the mail server refused {said}")


def _enter(
    server: "_Server", to: MailSettings, context: ssl.SSLContext | None, secret: _Secret | None
) -> None:
    server.introduce_as_address()
    server.ehlo_or_helo_if_needed()
    if to.security == "starttls":
        if not server.has_extn("starttls"):
            raise NotifyError(
                f"{_whom(to)} does not offer STARTTLS",
                hint="Set security to tls if it speaks TLS from the start.",
            )
        server.starttls(context=context)
        server.ehlo_or_helo_if_needed()
    if secret is not None and to.user is not None:
        if context is None and not server.is_on_this_machine():
            raise NotifyError(
                f"the password for {_whom(to)} is not sent without TLS",
                hint="Set security to starttls or tls.",
            )
        offered = server.esmtp_features.get("auth", "").upper().split()
        if _WAYS_IN.isdisjoint(offered):
            raise NotifyError(f"{_whom(to)} offers no way to log in that SnapVault knows")
        server.login(to.user, secret.text)


class _Server(smtplib.SMTP):
    """smtplib's client over a delivery's own line, with TLS from the start if asked for."""

    def __init__(self, line: Line, to: MailSettings, context: ssl.SSLContext | None) -> None:
        self._line = line
        self._tls = context if to.security == "tls" else None
        super().__init__(to.host, to.port, local_hostname="localhost", timeout=line.left + 1)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        del timeout
        connection = self._line.connect(host, port)
        if self._tls is None:
            return connection
        try:
            return self._tls.wrap_socket(connection, server_hostname=host)
        except BaseException:
            connection.close()
            raise

    def introduce_as_address(self) -> None:
        """Say hello with our own address, which needs no name server (RFC 5321, 4.1.3)."""
        address = _address(self.connection.getsockname())
        self.local_hostname = f"[{'IPv6:' if address.version == 6 else ''}{address}]"

    def is_on_this_machine(self) -> bool:
        """Tell whether what we say stays on this machine."""
        return _address(self.connection.getpeername()).is_loopback

    @property
    def connection(self) -> socket.socket:
        """The socket.

        Raises:
            SMTPServerDisconnected: there is none any more.
        """
        if self.sock is None:
            raise smtplib.SMTPServerDisconnected
        return self.sock


def _address(name: tuple[str, ...]) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(name[0].partition("%")[0])
