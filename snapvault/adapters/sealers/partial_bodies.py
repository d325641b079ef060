# SPDX-License-Identifier: Apache-2.0
"""Where the body of an OpenPGP packet lies whose length comes in parts: RFC 4880, section 4.2.2.

Of what it reads from a pipe gpg makes parts of 8 KiB, each behind an octet that says so, and in
the end a few smaller ones. So a place in the body is found by counting: only the first length is
read, and those near the end.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from snapvault.adapters.sealers.packet_lengths import LONGEST, read_length
from snapvault.model.ranges import Range

Look = Callable[[int, int], bytes]
"""Returns the bytes [begin, end) of what contains the packet."""

LARGEST_PART: Final = 8192
"""Bytes of a part, at most."""

REACH: Final = 2 * (LARGEST_PART + 64)
"""How far before its end, in bytes, a packet is looked at."""

_SMALL_LENGTH = 2  # octets, at most, of a small packet's length
_SESSION_KEY, _ENCRYPTED = 1, 18  # tags


class LayoutError(Exception):
    """A message is not made as expected: it may be a good one all the same."""


@dataclass(frozen=True, slots=True)
class Body:
    """Where a packet's body lies: `size` bytes, in parts of equal size first and others at the end.

    The body's byte 0 is at `first`. `tail` are (offset in the body, position, length) of the parts
    that were looked at one by one, in order and never empty; they reach to the end.
    """

    first: int
    part: int
    tail: tuple[tuple[int, int, int], ...]

    @property
    def size(self) -> int:
        """Bytes of the body."""
        offset, _, length = self.tail[-1]
        return offset + length

    def locate(self, begin: int, end: int) -> Iterator[Range]:
        """Yield where the bytes [begin, end) of the body lie; in order, an octet or more between.

        Raises:
            LayoutError: the body is shorter.
        """
        if end > self.size:
            raise LayoutError("packet is shorter than that")
        equal = self.tail[0][0]
        while begin < min(end, equal):
            number, skip = divmod(begin, self.part)
            length = min(self.part - skip, end - begin)
            position = self.first + number * (self.part + 1) + skip
            yield position, position + length
            begin += length
        for offset, position, length in self.tail:
            if begin < end and offset < end and begin < offset + length:
                skip = max(0, begin - offset)
                yield position + skip, position + min(length, end - offset)


def cut(body: Body, begin: int, end: int, look: Look) -> bytes:
    """Return the bytes [begin, end) of a body, for which `look` is called once, or not at all."""
    runs = list(body.locate(begin, end))
    if not runs:
        return b""
    start = runs[0][0]
    data = look(start, runs[-1][1])
    return b"".join(data[at - start : stop - start] for at, stop in runs)


def parse(look: Look, at: int, end: int) -> Body:
    """Return where the body of a packet lies that has its length at `at`, and ends at `end`.

    Parts that are not near one of the two are taken to be as large as the first. If they are not,
    what is read there is not what was written.

    Raises:
        LayoutError: the lengths say something else.
    """
    position, length, is_last = _length(look, at, end)
    if is_last:
        if position + length != end:
            raise LayoutError("packet has another length")
        return Body(position, length, ((0, position, length),))
    if length > LARGEST_PART:
        raise LayoutError("packet is in larger parts")
    equal = max(0, -(-(end - at - REACH) // (length + 1)))
    return Body(position, length, tuple(_tail(look, at, end, equal=equal, part=length)))


def _tail(
    look: Look, at: int, end: int, *, equal: int, part: int
) -> Iterator[tuple[int, int, int]]:
    """Yield the parts after the first `equal` ones."""
    position, offset, is_last = at + equal * (part + 1), equal * part, False
    while not is_last:
        position, length, is_last = _length(look, position, end)
        yield offset, position, length
        position, offset = position + length, offset + length
    if position != end:
        raise LayoutError("packet ends elsewhere")


def _length(look: Look, at: int, end: int) -> tuple[int, int, bool]:
    """Return where a part begins whose length is at `at`, the length, and if it is the last."""
    length = read_length(look(at, min(at + LONGEST, end)) if at < end else b"")
    if length is None:
        raise LayoutError("packet has no end, or its length is cut off")
    return at + length.octets, length.size, length.is_last


def encrypted_packet(head: bytes) -> int:
    """Return where the length of the encrypted packet is.

    Raises:
        LayoutError: there is another packet, or none.
    """
    at = keys = 0
    while at < len(head):
        is_new = bool(head[at] & 0x40)
        tag = head[at] & 0x3F if is_new else head[at] >> 2 & 0x0F
        if not head[at] & 0x80:
            break
        if keys and is_new and tag == _ENCRYPTED:
            return at + 1
        if tag != _SESSION_KEY:
            break
        at = _end(head, at, is_new=is_new)
        keys += 1
    raise LayoutError("it does not begin with session keys and encrypted data")


def _end(head: bytes, at: int, *, is_new: bool) -> int:
    """Return where a small packet ends."""
    if is_new:
        length = read_length(head[at + 1 : at + 1 + _SMALL_LENGTH])
        if length is not None and length.is_last:
            return at + 1 + length.octets + length.size
    elif head[at] & 3 < 2:
        size = 1 << (head[at] & 3)
        return at + 1 + size + int.from_bytes(head[at + 1 : at + 1 + size], "big")
    raise LayoutError("a session key has a strange length")
