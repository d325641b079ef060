# SPDX-License-Identifier: Apache-2.0
"""The shape of a signed message, read without GnuPG: RFC 4880, sections 4.2 and 11.3.

gpg tolerates packets around a signed text that change nothing it prints. A manifest is
exactly three packets, so that no byte of it is outside what the signature and this shape fix.
"""

from snapvault.adapters.sealers.packet_lengths import LONGEST, read_length
from snapvault.errors import IntegrityError

_SIGNED_TEXT = (4, 11, 2)  # one-pass signature, literal data, signature


def require_one_signed_text(message: bytes) -> None:
    """Return if the message is one signed text: uncompressed, binary, with nothing around it.

    Raises:
        IntegrityError: it is anything else.
    """
    try:
        tags = tuple(_tags(message))
    except IndexError as error:
        raise IntegrityError("signed object is damaged: it ends early") from error
    if tags != _SIGNED_TEXT:
        raise IntegrityError("not a signed object: it is no single OpenPGP signed message")


def _tags(message: bytes) -> list[int]:
    """Return the tags of the packets of a message. Stops after a few, which are enough to refuse.

    Raises:
        IndexError: the message ends within a packet.
    """
    tags: list[int] = []
    at = 0
    while at < len(message) and len(tags) <= len(_SIGNED_TEXT):
        head = message[at]
        if not head & 0x80:
            return []
        new = bool(head & 0x40)
        tags.append(head & 0x3F if new else head >> 2 & 0x0F)
        at = _end_of_new(message, at + 1) if new else _end_of_old(message, at + 1, head & 3)
        if at > len(message):
            raise IndexError("packet is longer than its message")
    return tags


def _end_of_old(message: bytes, at: int, kind: int) -> int:
    if kind == 3:  # up to the end: then nothing can follow, and the signature is missing
        return len(message)
    size = 1 << kind
    return at + size + _number(message, at, size)


def _end_of_new(message: bytes, at: int) -> int:
    while True:
        length = read_length(message[at : at + LONGEST])
        if length is None:
            raise IndexError("length is cut off")
        at += length.octets + length.size
        if length.is_last:
            return at


def _number(message: bytes, at: int, size: int) -> int:
    if at + size > len(message):
        raise IndexError("length is cut off")
    return int.from_bytes(message[at : at + size], "big")
