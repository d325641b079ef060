# SPDX-License-Identifier: Apache-2.0
"""Where notices go. What is refused is shown only where it can hold no secret."""

import re
from email.utils import parseaddr
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from snapvault.config.problems import HintedValueError, found, quoted
from snapvault.model.policy import NAME_LENGTH, is_name

_PLACEHOLDERS: Final = ("{source}", "{vault}", "{policy}")
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OUR_HEADERS: Final = frozenset(("connection", "content-length", "host", "transfer-encoding"))


def notifier_name(text: str) -> str:
    """Check the name of a notifier, where somebody may have put its URL.

    Raises:
        ValueError: it is none; the message does not show it.
    """
    if not is_name(text):
        raise ValueError(
            f"expected a name of at most {NAME_LENGTH} of a-z, 0-9, dots, hyphens and underscores"
            " that starts with a letter or digit, found something else"
        )
    return text


def web_url(text: str) -> str:
    """Check a URL to post to, which may have our placeholders.

    Raises:
        ValueError: it is none; the message does not show it.
    """
    plain = text
    for placeholder in _PLACEHOLDERS:
        plain = plain.replace(placeholder, "x")
    if "{" in plain or "}" in plain:
        names = ", ".join(quoted(each) for each in _PLACEHOLDERS)
        raise ValueError(f"expected no braces but those of {names}, found others")
    try:
        url = urlsplit(plain)
        good = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        good = False
    if not good or not text.isprintable() or " " in text:
        raise ValueError(
            'expected a URL such as "https://hooks.example.org/backup", found something else,'
            " which may be secret and is not shown"
        )
    return text


def mail_address(text: str) -> str:
    """Check an address of mail lightly: `ops@example.org`, `Operators <ops@example.org>`.

    Raises:
        ValueError: mail cannot go there.
    """
    name, address = parseaddr(text)
    user, at, domain = address.rpartition("@")
    good = bool(user and at and domain) and not any(c.isspace() for c in address)
    if not good or not text.isprintable() or (not name and address != text.strip().strip("<>")):
        raise ValueError(
            'expected a mail address such as "ops@example.org" or "Operators <ops@example.org>",'
            f" found {quoted(text, limit=60)}"
        )
    return text


def mail_host(text: str) -> str:
    """Check the name or the address of a mail server.

    Raises:
        ValueError: it is neither.
    """
    expected = 'expected the name of a mail server such as "mail.example.org"'
    if "@" in text:
        raise ValueError(f"{expected}, found one with a user, which is not shown")
    refusal = f"{expected}, found {quoted(text, limit=60)}"
    try:
        ip_address(text)
    except ValueError:
        host, colon, port = text.rpartition(":")
        if colon and port.isdecimal() and host:
            raise HintedValueError(refusal, hint=f"Write the port as port: {port}.") from None
        if not re.fullmatch(r"[^\s:/\[\]]+", text):
            raise ValueError(refusal) from None
    return text


def login(text: str) -> str:
    """Check the name that a user logs in with.

    Raises:
        ValueError: it is empty, or has characters that no line can hold.
    """
    if not text.strip() or not text.isprintable():
        raise ValueError("expected a user's name on one line, found none")
    return text


def headers(value: object) -> object:
    """Check the headers of a request, their names and their values.

    Raises:
        ValueError: one of them cannot be sent; only what can be a name is shown.
    """
    if not isinstance(value, dict):
        # Pydantic reports a ValueError as a problem of the file and lets a TypeError through.
        kind = "text" if isinstance(value, str) else found(value)
        raise ValueError(f"expected a mapping of headers, found {kind}")  # noqa: TRY004 - see above
    seen: set[str] = set()
    for name, content in value.items():
        if not _HEADER.fullmatch(name):
            raise ValueError(
                'expected names of headers such as "Authorization", found one that cannot be sent'
            )
        if name.lower() in _OUR_HEADERS:
            raise ValueError(f"expected no header that SnapVault sets itself, found {quoted(name)}")
        if name.lower() in seen:
            raise ValueError(f"expected each header once, found {quoted(name)} twice")
        seen.add(name.lower())
        if not isinstance(content, str) or not content.isprintable():
            raise ValueError(
                f"expected header {quoted(name)} to be text on one line, found something else"
            )
    return value
