# SPDX-License-Identifier: Apache-2.0
"""How a place for new logical volumes is written: `lvm:GROUP[/NAME][?key=value&key=value]`.

The keys are `thin` (the name of a thin pool in the group) and `prefix` (what comes before the
stream's name in that of its volume).
"""

import difflib
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from snapvault.errors import ConfigError

PREFIX: Final = "lvm:"

_EXAMPLE: Final = 'such as "lvm:vg0", "lvm:vg0/web01-root" or "lvm:vg0?thin=pool0&prefix=new-"'
_KEYS: Final = ("thin", "prefix")
# lvm(8), "VALID NAMES"; it has more rules, and says them itself.
_NAME: Final = re.compile(r"[a-zA-Z0-9+_.][a-zA-Z0-9+_.-]*")


@dataclass(frozen=True, slots=True)
class LvmPlace:
    """Where new logical volumes are made: a volume group, and perhaps a thin pool in it.

    `name` is that of the one volume, None if each is named after its source and stream, or after
    `prefix` and stream.
    """

    group: str
    name: str | None = None
    pool: str | None = None
    prefix: str | None = None

    def name_of(self, source: str, stream: str) -> str:
        """Return the name of the volume for a stream."""
        if self.name is not None:
            return self.name
        return f"{f'{source}-' if self.prefix is None else self.prefix}{stream}"


def parse(text: str) -> LvmPlace:
    """Read an address.

    Raises:
        ConfigError: it is none, has a key that is not known, or a value that makes no sense.
    """
    volume, mark, rest = text.removeprefix(PREFIX).partition("?")
    group, slash, name = volume.partition("/")
    names = [group, *([name] if slash else [])]
    if not text.startswith(PREFIX) or not all(map(_NAME.fullmatch, names)):
        raise ConfigError(
            f'"{text}" names no volume group', hint=f"Write lvm: and a volume group, {_EXAMPLE}."
        )
    found: dict[str, str] = {}
    for pair in rest.split("&") if mark else ():
        key, _, value = pair.partition("=")
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.5)
            hint = f'Did you mean "{near[0]}"?' if near else f"Known are {', '.join(_KEYS)}."
            raise ConfigError(f'"{text}" has an unknown key "{key}"', hint=hint)
        if key in found:
            raise ConfigError(f'key "{key}" of "{text}" is there twice')
        found[key] = unquote(value)
    pool, prefix = found.get("thin"), found.get("prefix")
    if pool is not None and not _NAME.fullmatch(pool):
        raise ConfigError(f'thin "{pool}" is no name of a thin pool', hint="Write thin=pool0.")
    if prefix is not None and slash:
        raise ConfigError(f'"{text}" has a name and a prefix', hint="Leave out one of the two.")
    if prefix and not _NAME.fullmatch(prefix):
        raise ConfigError(f'prefix "{prefix}" cannot begin the name of a logical volume')
    return LvmPlace(group, name if slash else None, pool, prefix)
