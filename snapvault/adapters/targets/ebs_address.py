# SPDX-License-Identifier: Apache-2.0
"""How a place for EBS snapshots is written: `ebs:REGION?key=value&key=value`.

Values may be percent-encoded, and must be where they hold `&` or `%`. The keys are `profile`,
`role` (an ARN), `endpoint` (a URL), `zone`, `volume_type`, `encrypted` (yes or no), `kms_key` (an
ARN) and `timeout` (a duration).
"""

import difflib
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final
from urllib.parse import unquote

from snapvault.adapters.targets.ebs_service import VOLUME_TYPES, EbsPlace
from snapvault.errors import ConfigError
from snapvault.units import parse_duration

PREFIX: Final = "ebs:"

_EXAMPLE: Final = 'such as "ebs:eu-west-1" or "ebs:eu-west-1?zone=eu-west-1a&encrypted=yes"'
_REGION: Final = re.compile(r"[a-z]{2,}(-[a-z]+)+-[0-9]+")
_ROLE: Final = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/\S+")
_KEY: Final = re.compile(r"arn:aws[a-z-]*:kms:[^:]+:[0-9]{12}:key/\S+")
_URL: Final = re.compile(r"https?://[^\s/]+\S*")


def parse(text: str) -> EbsPlace:
    """Read an address.

    Raises:
        ConfigError: it is none, has a key that is not known, or a value that makes no sense.
    """
    region, mark, rest = text.removeprefix(PREFIX).partition("?")
    if not text.startswith(PREFIX) or not _REGION.fullmatch(region):
        raise ConfigError(
            f'"{text}" names no AWS region', hint=f"Write ebs: and a region, {_EXAMPLE}."
        )
    found: dict[str, Any] = {}
    for pair in rest.split("&") if mark else ():
        key, equals, value = pair.partition("=")
        if key not in _KEYS:
            raise ConfigError(f'"{text}" has an unknown key "{key}"', hint=_nearest(key, _KEYS))
        name, read = _KEYS[key]
        if not equals or not value:
            raise ConfigError(f'key "{key}" of "{text}" has no value')
        if name in found:
            raise ConfigError(f'key "{key}" of "{text}" is there twice')
        found[name] = read(key, unquote(value))
    if "volume_type" in found and "zone" not in found:
        raise ConfigError(
            f'"{text}" has a volume_type, but no zone to make a volume in',
            hint=f'Add the zone, such as "zone={region}a", or leave out volume_type.',
        )
    if "kms_key" in found and not found.setdefault("encrypted", True):
        raise ConfigError(f'"{text}" has a kms_key, but is not to be encrypted')
    return EbsPlace(region=region, **found)


def _nearest(word: str, known: "dict[str, Any]") -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f'Did you mean "{near[0]}"?' if near else f"Known are {', '.join(known)}."


def _any(_: str, value: str) -> str:
    return value


def _like(pattern: re.Pattern[str], meant: str) -> Callable[[str, str], str]:
    def read(key: str, value: str) -> str:
        if not pattern.fullmatch(value):
            raise ConfigError(f'{key} "{value}" is not {meant}')
        return value

    return read


def _truth(key: str, value: str) -> bool:
    if value not in {"yes", "no"}:
        raise ConfigError(f'{key} "{value}" is neither yes nor no')
    return value == "yes"


def _volume_type(_: str, value: str) -> str:
    if value not in VOLUME_TYPES:
        hint = _nearest(value, dict(VOLUME_TYPES))
        if value in {"io1", "io2"}:
            hint = "Leave out the zone, and make the volume of the snapshot with the AWS tools."
        raise ConfigError(f'cannot make a volume of type "{value}"', hint=hint)
    return value


def _duration(key: str, value: str) -> timedelta:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error


_KEYS: Final[dict[str, tuple[str, Callable[[str, str], Any]]]] = {
    "profile": ("profile", _any),
    "role": ("role_arn", _like(_ROLE, "the ARN of a role, arn:aws:iam::ACCOUNT:role/NAME")),
    "endpoint": ("endpoint_url", _like(_URL, "a URL, http:// or https://")),
    "zone": ("zone", _any),
    "volume_type": ("volume_type", _volume_type),
    "encrypted": ("encrypted", _truth),
    "kms_key": ("kms_key", _like(_KEY, "the ARN of a KMS key, arn:aws:kms:REGION:ACCOUNT:key/ID")),
    "timeout": ("timeout", _duration),
}
