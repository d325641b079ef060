# SPDX-License-Identifier: Apache-2.0
"""A real SMTP server on the loopback interface that keeps what it is handed."""

import asyncio
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Self

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from tests.support.loopback import Connection, end_server
from tests.support.tls_forwarder import Authority


@dataclass(frozen=True, slots=True)
class Mail:
    """One message, as it was handed over."""

    sender: str
    recipients: list[str]
    raw: bytes
    user: str | None

    @property
    def message(self) -> EmailMessage:
        return message_from_bytes(self.raw, policy=policy.default)

    @property
    def text(self) -> str:
        """The body, as text with plain line ends."""
        return str(self.message.get_content()).replace("\r\n", "\n")


# Without slots: QUIRK: Python 3.11.2 cannot list the members of one with slots, as aiosmtpd does.
@dataclass
class _Handler:
    mails: list[Mail]
    refusals: Mapping[str, str]
    data_answer: str

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if address in self.refusals:
            return self.refusals[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, server: Any, session: Any, envelope: Any
    ) -> str:
        user = session.auth_data.login.decode() if session.auth_data else None
        if self.data_answer.startswith("2"):
            content = bytes(envelope.content)
            self.mails.append(Mail(envelope.mail_from, list(envelope.rcpt_tos), content, user))
        return self.data_answer


class _Conversation(SMTP):
    """What is said on one connection, which `connections` gets (twice, once it speaks TLS)."""

    def __init__(self, connections: list[Connection], handler: _Handler, **options: Any) -> None:
        super().__init__(handler, **options)
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connections.append(Connection.of(transport))
        super().connection_made(transport)


@dataclass
class MailServer:
    """Listens from construction until `stop`.

    `security` is as in the settings. `refusals` are answers to recipients, and may be changed
    meanwhile. With `password`, the user `backup` may log in with it.
    """

    authority: Authority | None = None
    security: str = "none"
    password: str | None = None
    refusals: dict[str, str] = field(default_factory=dict)
    data_answer: str = "250 OK"
    mails: list[Mail] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._connections: list[Connection] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mail server", daemon=True)
        self._thread.start()
        if not self._ready.wait(60) or not self.port:
            raise RuntimeError("could not listen on the loopback interface")

    def stop(self) -> None:
        """Stop listening and cut every connection; safe to repeat."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        implicit = self._context() if self.security == "tls" else None
        try:
            server = self._loop.run_until_complete(
                self._loop.create_server(self._protocol, "127.0.0.1", 0, ssl=implicit)
            )
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            self._loop.run_forever()
            self._loop.run_until_complete(end_server(server, self._connections))
        finally:
            self._ready.set()
            self._loop.close()

    def _protocol(self) -> Any:
        return _Conversation(
            self._connections,
            _Handler(self.mails, self.refusals, self.data_answer),
            hostname="mail.test",
            enable_SMTPUTF8=True,
            loop=self._loop,
            tls_context=self._context() if self.security == "starttls" else None,
            require_starttls=self.security == "starttls",
            authenticator=self._authenticate if self.password is not None else None,
            # With TLS from the start, aiosmtpd does not know that there is any.
            auth_require_tls=self.security == "starttls",
        )

    def _authenticate(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        is_known = (
            isinstance(data, LoginPassword)
            and data.login == b"backup"
            and data.password == (self.password or "").encode()
        )
        return AuthResult(success=is_known, handled=False, auth_data=data)

    def _context(self) -> ssl.SSLContext:
        assert self.authority is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.authority.certificate, self.authority.key)
        return context
