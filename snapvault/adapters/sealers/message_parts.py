# SPDX-License-Identifier: Apache-2.0
"""Parts of an encrypted message, decrypted without the rest of it.

A message as gpg makes it from a pipe: session keys, then one packet (SEIPD, version 1) whose body
is AES in cipher feedback; in that 18 bytes of prefix, one literal data packet, and a packet with
the digest of it all. The head of the message is enough for gpg to tell the session key; all else
is counting. The digest is of the whole, and so is not looked at.

Source: RFC 4880, sections 4.2, 5.1, 5.9, 5.13 and 5.14.
"""

from collections.abc import Callable
from typing import Final

from snapvault.adapters.sealers.cfb import BLOCK, Feedback
from snapvault.adapters.sealers.clear_packet import (
    DIGEST_PACKET,
    DIGEST_SIZE,
    PREFIX,
    VERSION,
    before_data,
    require_literal,
)
from snapvault.adapters.sealers.partial_bodies import (
    REACH,
    Body,
    LayoutError,
    Look,
    cut,
    encrypted_packet,
    parse,
)
from snapvault.adapters.sealers.passphrase import Secret

HEAD: Final = 16 << 10
"""Bytes at the start: the session keys for a dozen readers, and the first part."""

TAIL: Final = REACH + (8 << 10)
"""Bytes at the end: what has to be known of both packets, and the seek table of a volume."""


def open_parts(
    size: int, fetch: Look, session_key: Callable[[bytes], Secret | None]
) -> "MessageParts | None":
    """Return the parts of a message of `size` bytes, or None where it is not made as expected.

    `session_key` takes the head of the message.

    Raises: what the two functions raise.
    """
    message = _Ends(size, fetch)
    try:
        at = encrypted_packet(message.head)
        sealed = parse(message.look, at, size)
        if sealed.part + sealed.first > len(message.head) < size:
            raise LayoutError("its first part is not in the head")
        if message.look(sealed.first, sealed.first + 1) != VERSION:
            raise LayoutError("it is encrypted in another way")
        key = session_key(message.head)
        if key is None:
            return None
        return MessageParts(_Clear(message.look, sealed, _feedback(key)))
    except LayoutError:
        return None


class MessageParts:
    """What the literal data packet of a message holds."""

    def __init__(self, clear: "_Clear") -> None:
        """Find the literal data packet.

        Raises:
            LayoutError: there is none, or another one as well.
        """
        require_literal(clear.look(0, PREFIX + 1))
        end = clear.size - DIGEST_SIZE
        if clear.look(end, end + len(DIGEST_PACKET)) != DIGEST_PACKET:
            raise LayoutError("it has no digest at its end")
        self._clear = clear
        self._literal = parse(clear.look, PREFIX + 1, end)
        self._skip = before_data(cut(self._literal, 0, 2, clear.look))
        self.size = self._literal.size - self._skip
        if self.size < 0:
            raise LayoutError("literal data is cut off")

    def read(self, begin: int, end: int) -> bytes:
        """Fetch and decrypt a part."""
        if not 0 <= begin <= end <= self.size:
            raise ValueError(f"bytes {begin} to {end} of {self.size}")
        return cut(self._literal, begin + self._skip, end + self._skip, self._clear.look)


class _Clear:
    """The encrypted packet, decrypted where it is looked at."""

    def __init__(self, look: Look, sealed: Body, feedback: Feedback) -> None:
        self._look = look
        self._sealed = sealed
        self._feedback = feedback
        self.size = sealed.size - 1  # without the version
        if self.size < PREFIX + 1 + DIGEST_SIZE:
            raise LayoutError("it is too short")

    def look(self, begin: int, end: int) -> bytes:
        """Return some clear bytes, of the prefix on."""
        aligned = begin - begin % BLOCK
        before = max(0, aligned - BLOCK)
        data = cut(self._sealed, 1 + before, 1 + end, self._look)
        last = bytes(BLOCK) if aligned == 0 else data[:BLOCK]
        clear = self._feedback.decrypt(last, data[aligned - before :])
        return clear[begin - aligned :]


class _Ends:
    """A message whose head and tail are here; the rest is fetched where it is looked at."""

    def __init__(self, size: int, fetch: Look) -> None:
        self._fetch = fetch
        self._size = size
        if size <= HEAD + TAIL:
            self.head = self._tail = fetch(0, size) if size else b""
        else:
            self.head, self._tail = fetch(0, HEAD), fetch(size - TAIL, size)

    def look(self, begin: int, end: int) -> bytes:
        """Return some bytes of the message."""
        if end <= len(self.head):
            return self.head[begin:end]
        start = self._size - len(self._tail)
        if begin >= start:
            return self._tail[begin - start : end - start]
        return self._fetch(begin, end)


def _feedback(key: Secret) -> Feedback:
    try:
        return Feedback(key)
    except ValueError as error:
        raise LayoutError(str(error)) from None
