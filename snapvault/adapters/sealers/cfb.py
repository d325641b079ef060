# SPDX-License-Identifier: Apache-2.0
"""OpenPGP's cipher feedback, from the start or in the middle: RFC 4880, sections 5.13 and 13.9.

Each block of clear bytes is a block of the message, crossed with the block before it after that was
enciphered. So whoever has two neighbors and the key has the second one's clear bytes.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from snapvault.adapters.sealers.passphrase import Secret

BLOCK: Final = 16
"""Bytes of a block of AES."""

_KEY_SIZES = {"7": 16, "8": 24, "9": 32}  # bytes, by OpenPGP's number of the algorithm


class Feedback:
    """AES in cipher feedback with one message's key, from any block on. Safe from threads."""

    def __init__(self, session_key: Secret) -> None:
        """`session_key` is as gpg tells it: `9:` and hexadecimal digits.

        Raises:
            ValueError: it is no key of AES.
        """
        algorithm, _, digits = session_key.reveal().partition(":")
        if len(digits) != 2 * _KEY_SIZES.get(algorithm, -1):
            raise ValueError("not a key of AES")
        try:
            key = algorithms.AES(bytes.fromhex(digits))
        except ValueError:
            # SAFETY: `from None`, since what cannot be read may still be most of a key.
            raise ValueError("not a key of AES") from None
        # SAFETY: each block is enciphered once, to be crossed with the next one: that is what
        # cipher feedback is made of. The package's own mode of that name is on its way out.
        self._cipher = Cipher(key, modes.ECB())  # noqa: S305

    def decrypt(self, before: bytes, sealed: bytes) -> bytes:
        """Decrypt bytes that begin with a block; `before` is the block before it."""
        stream = before + sealed
        blocks = -(-len(sealed) // BLOCK)
        pad = self._cipher.encryptor().update(stream[: blocks * BLOCK])
        crossed = np.frombuffer(sealed, np.uint8) ^ np.frombuffer(pad, np.uint8)[: len(sealed)]
        return crossed.tobytes()

    def stream(self) -> "FeedbackStream":
        """Return what decrypts a message from its first block on."""
        return FeedbackStream(self._cipher)


class FeedbackStream:
    """Decrypts a message that comes in pieces."""

    def __init__(self, cipher: "Cipher[modes.ECB]") -> None:
        self._cipher = cipher.encryptor()
        # A block that is done with, and what came after it and does not fill one yet.
        self._sealed = bytes(BLOCK)
        self._clear = bytearray()

    def decrypt(self, parts: Sequence[bytes | memoryview]) -> memoryview:
        """Decrypt as many whole blocks as are there. The result is good until the next call."""
        sealed = b"".join([self._sealed, *parts])
        size = (len(sealed) - BLOCK) // BLOCK * BLOCK
        self._sealed = sealed[size:]
        if len(self._clear) < size + BLOCK:
            self._clear = bytearray(size + BLOCK)
        self._cipher.update_into(memoryview(sealed)[:size], self._clear)
        clear = np.frombuffer(self._clear, dtype=np.uint64, count=size // 8)
        clear ^= np.frombuffer(sealed, dtype=np.uint64, offset=BLOCK, count=size // 8)
        return memoryview(self._clear)[:size]

    def finish(self) -> memoryview:
        """Decrypt what does not fill a block."""
        pad = self._cipher.update(self._sealed[:BLOCK])
        return memoryview(bytes(a ^ b for a, b in zip(self._sealed[BLOCK:], pad, strict=False)))
