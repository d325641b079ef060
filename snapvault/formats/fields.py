# SPDX-License-Identifier: Apache-2.0
"""Fields of the vault's JSON documents, read strictly: docs/format.md, sections 8, 11 and 12.

What is not as it has to be is a `ValueError`, `TypeError` or `KeyError`: whoever reads a document
says in its own error which one cannot be read.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from snapvault.errors import IntegrityError, ManifestError

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]*")
"""Of a source, or a stream."""

ID: Final = re.compile(r"[0-9a-f]{16}")
"""Of a restore point, a hold, or a prune."""

SHA256: Final = re.compile(r"[0-9a-f]{64}")
FINGERPRINT: Final = re.compile(r"[0-9A-F]{40}(?:[0-9A-F]{24})?")
"""Of a primary key."""

VAULT_ID: Final = re.compile(r"[0-9a-f]{32}")


def text(document: Mapping[str, Any], key: str) -> str:
    """Return the text under a key."""
    value = document[key]
    if not isinstance(value, str):
        raise TypeError(f'"{key}" is not a text')
    return value


def count(value: object) -> int:
    """Return a whole number that is not below zero."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def matching(pattern: re.Pattern[str], value: object) -> str:
    """Return a text of which all has a form."""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r} has not the form {pattern.pattern}")
    return value


def one_of(value: object, *allowed: str) -> str:
    """Return a text that is one of some."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{value!r} is none of {', '.join(allowed)}")
    return value


def require_place(
    what: str, name: str, expected: str, error: type[IntegrityError] = ManifestError
) -> None:
    """Hold the name that a document says it has against the one it is stored under.

    Raises:
        ManifestError, or the error that is named: they differ.
    """
    if name != expected:
        raise error(
            f'{what} "{name}" is out of place: it says that it is "{expected}"',
            hint="Somebody moved or swapped objects in the vault; keep a copy and investigate.",
        )
