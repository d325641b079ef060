# SPDX-License-Identifier: Apache-2.0
"""How the daemon runs, and where its status page is served."""

import re
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, NamedTuple

from pydantic import BeforeValidator, ValidationInfo, WithJsonSchema, field_validator

from snapvault.config.problems import HintedValueError, found, quoted
from snapvault.config.strict import Shape
from snapvault.config.values import (
    DURATION_SCHEMA,
    LONGEST_DURATION,
    JobCount,
    Name,
    PathText,
    duration_from,
)
from snapvault.model import settings
from snapvault.model.settings import DaemonSettings

_LISTEN_EXPECTED: Final = (
    'an address and a port such as "127.0.0.1:9797" or "[::1]:9797", or false for nowhere'
)
_LISTEN: Final = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+)):([0-9]{1,5})")
_DEFAULTS: Final = DaemonSettings()
_NOWHERE: Final = "none"
_LOCALHOST: Final = "localhost"


class Listen(NamedTuple):
    """Where to listen; port 0 is a free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this host itself can come there."""
        return self.host == _LOCALHOST or ip_address(self.host).is_loopback


def _listen(value: object) -> str:
    if value is False:
        return _NOWHERE
    if not isinstance(value, str):
        # Pydantic reports a ValueError as a problem of the file and lets a TypeError through.
        message = f"expected {_LISTEN_EXPECTED}, found {found(value)}"
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 65535:
            raise HintedValueError(message, hint=f'Write "127.0.0.1:{value}".')
        raise ValueError(message)  # noqa: TRY004 - see above
    read_listen(value)
    return value


def read_listen(text: str) -> Listen | None:
    """Read where to listen; None: nowhere.

    Raises:
        ValueError: the text is neither an address with a port nor `none`.
    """
    if text == _NOWHERE:
        return None
    message = f"expected {_LISTEN_EXPECTED}, found {quoted(text, limit=60)}"
    match = _LISTEN.fullmatch(text)
    if match is None:
        address = text.strip("[]")
        if not (address == _LOCALHOST or _is_address(address)):
            raise ValueError(message)
        whole = (
            f"[{address}]:{_DEFAULTS.listen_port}"
            if ":" in address
            else f"{address}:{_DEFAULTS.listen_port}"
        )
        raise HintedValueError(message, hint=f"Add a port: {quoted(whole)}.")
    host, port = match[1] or match[2], int(match[3])
    is_bracketed = match[1] is not None
    if is_bracketed != (":" in host) or not (host == _LOCALHOST or _is_address(host)):
        raise ValueError(message)
    if port > 65535:
        raise ValueError(f"expected a port from 1 to 65535, or 0 for a free one, found {port}")
    return Listen(host, port)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


class DaemonShape(Shape):
    """How the daemon runs."""

    max_jobs: JobCount = _DEFAULTS.max_jobs
    """How many sources are backed up at one time."""
    token_file: PathText | None = None
    """A file with what whoever looks at the status page must know."""
    token_credential: Name | None = None
    """The systemd credential with that token."""
    listen: Annotated[
        str,
        BeforeValidator(_listen),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "boolean", "const": False}]}),
    ] = settings.DEFAULT_LISTEN
    """Where the status page is served."""
    stop_timeout: Annotated[
        timedelta,
        BeforeValidator(duration_from(timedelta(seconds=1), timedelta(hours=6))),
        DURATION_SCHEMA,
    ] = _DEFAULTS.stop_timeout
    """The longest time that backups have to end at a stop."""
    keep_history: Annotated[
        timedelta,
        BeforeValidator(duration_from(timedelta(days=1), LONGEST_DURATION)),
        DURATION_SCHEMA,
    ] = _DEFAULTS.keep_history
    """How long runs, alarms and logs are remembered."""

    @field_validator("token_credential")
    @classmethod
    def _one_token(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("token_file") is not None:
            raise ValueError(
                'expected at most one of "token_file" and "token_credential", found both'
            )
        return value

    @field_validator("listen")
    @classmethod
    def _has_token(cls, value: str, info: ValidationInfo) -> str:
        tokens = [info.data.get(key, "wrong") for key in ("token_file", "token_credential")]
        place = read_listen(value)
        if place is not None and not place.is_loopback and tokens == [None, None]:
            raise HintedValueError(
                "expected a loopback address where there is neither"
                f' "token_file" nor "token_credential", found {quoted(value)}',
                hint="Write a long random token into a file, and name it with token_file.",
            )
        return value


def daemon_settings(shape: DaemonShape, token_file: Path | None) -> DaemonSettings:
    """Make the model value; `token_file` is where the token is, from whichever key."""
    place = read_listen(shape.listen)
    return DaemonSettings(
        max_jobs=shape.max_jobs,
        listen_host=None if place is None else place.host,
        listen_port=_DEFAULTS.listen_port if place is None else place.port,
        token_file=token_file,
        stop_timeout=shape.stop_timeout,
        keep_history=shape.keep_history,
    )
