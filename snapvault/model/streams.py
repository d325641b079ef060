# SPDX-License-Identifier: Apache-2.0
"""Streams of bytes, as everything that moves them sees them."""

from typing import Protocol


class Readable(Protocol):
    """Bytes that arrive in order."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`; empty only at the end."""
        ...
