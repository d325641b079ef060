# SPDX-License-Identifier: Apache-2.0
"""Who may look: whoever knows the token, or, without one, whoever is on this machine."""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

_COOKIE_DAYS: Final = 30


class Access:
    """Decides over requests. Safe from several threads. The token is kept, never shown."""

    def __init__(self, token: str | None, port: int) -> None:
        self._token = None if token is None else token.encode()
        # Cookies are shared by all ports of a host: each daemon has a name of its own.
        self._cookie_name = f"snapvault_{port}"

    def __repr__(self) -> str:
        return f"Access(token={'set' if self.needs_token else None})"

    @property
    def needs_token(self) -> bool:
        """Whether there is a token to know."""
        return self._token is not None

    def is_for_us(self, host: str | None) -> bool:
        """Tell whether a `Host` header names this machine.

        A page from elsewhere could have its name resolve to 127.0.0.1 and read what is served
        here. Where a token is asked for, that page has none, and any name will do.
        """
        if self.needs_token:
            return True
        if host is None:
            return False
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return is_loopback(name)

    def is_allowed(self, headers: Mapping[str, str]) -> bool:
        """Tell whether a request's headers show that its sender knows the token."""
        if self._token is None:
            return True
        scheme, _, shown = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.knows(shown.strip()):
            return True
        return hmac.compare_digest(_bytes(self._cookie_of(headers)), self._proof().encode())

    def knows(self, shown: str) -> bool:
        """Tell whether a text is the token, in a time that tells nothing of it."""
        if self._token is None:
            return False
        # Digests have one length whatever is shown.
        return hmac.compare_digest(_digest(_bytes(shown)), _digest(self._token))

    def cookie(self) -> str:
        """Return the `Set-Cookie` header of somebody who showed the token."""
        return (
            f"{self._cookie_name}={self._proof()}; Path=/; Max-Age={_COOKIE_DAYS * 86400};"
            " HttpOnly; SameSite=Lax"
        )

    def _proof(self) -> str:
        """Return what a cookie holds: known to whoever has the token, and not the token."""
        return hmac.new(self._token or b"", b"snapvault status page", hashlib.sha256).hexdigest()

    def _cookie_of(self, headers: Mapping[str, str]) -> str:
        # Other programs on this host set cookies too, some of which no strict reader takes.
        for part in headers.get("Cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == self._cookie_name:
                return value
        return ""


def is_loopback(host: str) -> bool:
    """Tell whether a name or an address is this machine's own, and reached from it alone."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def local_goal(wanted: str) -> str:
    """Return where to go after a login: a path of ours, or the overview."""
    if not wanted.startswith("/") or wanted.startswith("//") or "\\" in wanted:
        return "/"
    if not (wanted.isascii() and wanted.isprintable() and " " not in wanted):
        return "/"
    return wanted


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
