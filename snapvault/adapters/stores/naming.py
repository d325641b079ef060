# SPDX-License-Identifier: Apache-2.0
"""What every store accepts as an object's name (docs/format.md, section 2), and says of one."""

import re

from snapvault.errors import IntegrityError

# A part never starts with a dot, so "..", "." and the directory store's own files cannot be named.
NAME_PATTERN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")

# LIMIT: keys have at most 1024 bytes, prefix included (Amazon S3).
NAME_LIMIT = 900


def require_name(name: str) -> str:
    """Return the name as it is.

    Raises:
        ValueError: it is no object name.
    """
    if len(name) > NAME_LIMIT or NAME_PATTERN.fullmatch(name) is None:
        raise ValueError(f"not an object name: {name!r}")
    return name


def cut_short(name: str, location: str) -> IntegrityError:
    """Return the error for an object that ends before the part that was asked for."""
    return IntegrityError(f'object "{name}" in "{location}" is shorter than it should be')
