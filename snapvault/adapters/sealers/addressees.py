# SPDX-License-Identifier: Apache-2.0
"""Whom a sealed object is addressed to, as its first bytes say: RFC 4880 and RFC 9580, 5.1.

No private key is needed for that, and nothing is proven by it: what an object is has been
vouched for by others.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from snapvault.adapters.sealers import keys
from snapvault.adapters.sealers.packet_lengths import LONGEST, read_length
from snapvault.adapters.sealers.process import Gpg
from snapvault.errors import IntegrityError

HEAD: Final = 16 << 10  # bytes

_SESSION_KEY = 1  # the tag of a packet with a session key for one reader
_KEY_ID_SIZE = 8


class GnupgAddressees:
    """Reads addressees, and knows the keys of a home by name."""

    head_size: Final = HEAD

    def __init__(self, home: Path) -> None:
        """Read the key ring once.

        Raises:
            ConfigError, SealError: the home or gpg cannot be used.
        """
        self._owners: dict[str, str] = {}
        for key in keys.list_keys(Gpg(home, None)):
            for each in (key.fingerprint, *key.subkeys):
                self._owners[each] = self._owners[_id_of(each)] = key.fingerprint

    def ids(self, head: bytes) -> frozenset[str]:
        """Return the ids of the keys that can open an object that begins like this."""
        found = frozenset(_session_keys(head))
        if not found:
            raise IntegrityError("not an encrypted OpenPGP message: it has no readers")
        return found

    def owner(self, key_id: str) -> str:
        """Return the fingerprint of the primary key that an id belongs to, or the id."""
        return self._owners.get(key_id, key_id)


def _id_of(fingerprint: str) -> str:
    """Return a key's id: the end of the fingerprint, or its start where the key is of version 6."""
    return fingerprint[-16:] if len(fingerprint) == 40 else fingerprint[:16]


def _session_keys(message: bytes) -> Iterator[str]:
    """Yield the ids or fingerprints of the keys that session keys are for."""
    at = 0
    while at + 2 < len(message) and message[at] & 0x80:
        begin, end = _body(message, at)
        tag = message[at] & 0x3F if message[at] & 0x40 else message[at] >> 2 & 0x0F
        if tag != _SESSION_KEY or end > len(message) or end - begin <= _KEY_ID_SIZE:
            return
        version, rest = message[begin], message[begin + 1 : end]
        if version == 3:
            yield rest[:_KEY_ID_SIZE].hex().upper()
        elif version == 6 and rest[0] > 1:  # length of: version of the key, and its fingerprint
            yield rest[2 : 1 + rest[0]].hex().upper()
        at = end


def _body(message: bytes, at: int) -> tuple[int, int]:
    """Return where a packet's body begins and ends; one of unknown length ends nowhere."""
    nowhere = len(message) + 1
    if not message[at] & 0x40:
        kind = message[at] & 3
        if kind == 3:
            return at + 1, nowhere
        begin = at + 1 + (1 << kind)
        return begin, begin + int.from_bytes(message[at + 1 : begin], "big")
    length = read_length(message[at + 1 : at + 1 + LONGEST])
    if length is None or not length.is_last:
        return at + 1, nowhere
    begin = at + 1 + length.octets
    return begin, begin + length.size
