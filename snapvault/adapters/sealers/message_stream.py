# SPDX-License-Identifier: Apache-2.0
"""An encrypted message that is decrypted as it streams by, without a program and its pipes.

gpg unlocks the session key, which only it can. It moves the bulk 8 KiB at a time through two pipes
and proves it by SHA-1, which takes seven times the CPU of what is here
(docs/adr/0009-gpg-unlocks-and-we-decrypt.md).

Source: RFC 4880, sections 4.2, 5.9, 5.13 and 5.14.
"""

from collections.abc import Callable, Iterable
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
from snapvault.adapters.sealers.packet_lengths import part_size, read_length
from snapvault.adapters.sealers.partial_bodies import LayoutError, encrypted_packet
from snapvault.adapters.sealers.passphrase import Secret
from snapvault.errors import IntegrityError

HEAD: Final = 64 << 10
"""Bytes at the start of a message that show whether it is made as expected, and unlock it."""

PIECE: Final = 512 << 10
"""Bytes to feed at once: what a core's cache keeps from one step to the next."""

_LEAST_FIRST_PART = 512  # bytes; RFC 4880, section 4.2.2.4


class MessageStream:
    """A message on its way: sealed bytes in, clear bytes out. `begin` is the way in.

    It does not prove the message: who takes what comes out holds that, or the sealed bytes,
    against a digest, and throws everything away if they do not fit.
    """

    def __init__(self, feedback: Feedback, packet: int, before_data: int) -> None:
        """Skip what is before the encrypted packet's length, and before the data in the literal."""
        self._stream = feedback.stream()
        self._outer, self._inner = _Parts(), _Parts()
        self._before_packet = _Skip(packet)
        self._version = _Skip(len(VERSION))
        self._before_literal = _Skip(PREFIX + 1)
        self._before_data = _Skip(before_data)
        self._digest = b""

    @classmethod
    def begin(
        cls, head: bytes, session_key: Callable[[bytes], Secret | None]
    ) -> "MessageStream | None":
        """Judge a message by its first `HEAD` bytes; None if it is not made as expected.

        All of it is to be passed on afterwards, the head too. `session_key` takes the head.

        Raises: what `session_key` raises.
        """
        try:
            packet = encrypted_packet(head)
            first = head[packet + 1 : packet + 1 + _LEAST_FIRST_PART]
            if part_size(head[packet]) < len(first) or len(first) < _LEAST_FIRST_PART:
                raise LayoutError("it is in small parts")
            if first[:1] != VERSION:
                raise LayoutError("it is encrypted in another way")
            key = session_key(head)
            if key is None:
                return None
            feedback = Feedback(key)
            return cls(feedback, packet, _skipped(feedback.decrypt(bytes(BLOCK), first[1:])))
        except (LayoutError, ValueError, IndexError):
            return None

    def pass_on(self, pieces: Iterable[bytes], sink: Callable[[bytes], None]) -> None:
        """Decrypt all of the message; `sink` gets no empty pieces.

        Raises:
            IntegrityError: the message is not whole, or cannot be one of ours.
        """
        for piece in pieces:
            if data := self._feed(piece):
                sink(data)
        if data := self._finish():
            sink(data)

    def _feed(self, piece: bytes) -> bytes:
        """Return what a piece of the message holds."""
        parts, rest = self._outer.take(self._before_packet.after(memoryview(piece)))
        if len(rest):
            raise _damaged("something follows its end")
        if parts:
            parts[0] = self._version.after(parts[0])
        return self._data(self._stream.decrypt(parts))

    def _finish(self) -> bytes:
        """Return what was still to come."""
        data = self._data(self._stream.finish())
        if not self._outer.is_over or not self._inner.is_over:
            raise _damaged("it ends early")
        if len(self._digest) != DIGEST_SIZE or not self._digest.startswith(DIGEST_PACKET):
            raise _damaged("it does not end as it has to")
        return data

    def _data(self, clear: memoryview) -> bytes:
        """Return the data in some more of the packet; what follows the data is kept."""
        parts, rest = self._inner.take(self._before_literal.after(clear))
        self._digest += rest
        if len(self._digest) > DIGEST_SIZE:
            raise _damaged("something follows its data")
        if parts:
            parts[0] = self._before_data.after(parts[0])
        return b"".join(parts)


class _Parts:
    """Cuts a packet's body, whose length comes in parts, out of what streams by."""

    def __init__(self) -> None:
        self.is_over = False
        self._left = 0  # bytes of this part that are still to come
        self._is_last = False
        self._length = b""  # octets of a length that is not whole yet
        self._usual = b""  # the length of the part before

    def take(self, view: memoryview) -> tuple[list[bytes | memoryview], memoryview]:
        """Return pieces of the body, and what follows it."""
        parts: list[bytes | memoryview] = []
        at = 0
        while at < len(view) and not self.is_over:
            if self._left:
                part = view[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                self.is_over = self._is_last and not self._left
            elif count := self._alike(view[at:]):
                step = 1 + part_size(self._usual[0])
                end = at + count * step
                parts += [view[start : start + step - 1] for start in range(at + 1, end, step)]
                at = end
            else:
                self._length += view[at : at + 1]
                at += 1
                self._read_length()
        return parts, view[at:]

    def _alike(self, view: memoryview) -> int:
        """Return how many whole parts of the usual length come next; 0 if not all are."""
        if self._length or not self._usual:
            return 0
        step = 1 + part_size(self._usual[0])
        count = len(view) // step
        return count if bytes(view[: count * step : step]) == self._usual * count else 0

    def _read_length(self) -> None:
        length = read_length(self._length)
        if length is None:
            return
        self._left, self._is_last = length.size, length.is_last
        if not length.is_last:
            self._usual = self._length
        self._length = b""
        self.is_over = length.is_last and not length.size


class _Skip:
    """Leaves out the first bytes of something that comes in pieces."""

    def __init__(self, count: int) -> None:
        self._count = count

    def after(self, view: bytes | memoryview) -> memoryview:
        skipped = min(self._count, len(view))
        self._count -= skipped
        return memoryview(view)[skipped:]


def _skipped(clear: bytes) -> int:
    """Return the bytes before the data of the literal packet with which a message begins.

    Raises:
        LayoutError: it begins with something else.
    """
    require_literal(clear)
    if part_size(clear[PREFIX + 1]) < _LEAST_FIRST_PART:
        raise LayoutError("it does not hold its data in parts")
    return before_data(clear[PREFIX + 2 :])


def _damaged(why: str) -> IntegrityError:
    return IntegrityError(f"sealed object is damaged: {why}")
