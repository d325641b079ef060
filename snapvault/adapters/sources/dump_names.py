# SPDX-License-Identifier: Apache-2.0
"""Streams' names for databases, which may be called anything."""

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass

from snapvault.errors import ConfigError
from snapvault.model.policy import NAME_LENGTH, is_name

_DIGEST = 8  # hex digits
_LEAST = 16  # characters that a name of a database's own needs
_MAPPED = re.compile(r".*-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Naming:
    """How the streams of one dump source are called.

    `whole` is the name of the one stream, if there is one; `prefix` comes before the name of
    each, if there are several: empty, or ending with a dot.
    """

    whole: str
    prefix: str = ""

    def own(self, database: str, *, reserved: Collection[str] = ()) -> str:
        """Return the name of a database's stream, the same every night.

        What is no stream's name, or `reserved`, is made one and gets a digest of the real name,
        as do names that look like that already; so no two databases share one.

        Raises:
            ConfigError: the prefix leaves no room.
        """
        room = NAME_LENGTH - len(self.prefix)
        if room < _LEAST:
            raise ConfigError(
                f'the name of stream "{self.whole}" is too long for streams of its own',
                hint=f"Shorten it to {NAME_LENGTH - _LEAST - 1} characters.",
            )
        plain = is_name(database) and len(database) <= room and database not in reserved
        if plain and not _MAPPED.fullmatch(database):
            return self.prefix + database
        kept = re.sub(r"[^a-z0-9._-]+", "-", database.lower()).lstrip("._-") or "database"
        digest = hashlib.sha256(database.encode(errors="surrogateescape")).hexdigest()[:_DIGEST]
        return f"{self.prefix}{kept[: room - _DIGEST - 1]}-{digest}"
