# SPDX-License-Identifier: Apache-2.0
"""Decrypting in the middle: OpenPGP's cipher feedback, RFC 4880, sections 5.13 and 13.9.

Each block of clear bytes is a block of the message, crossed with the block before it after that was
enciphered. So whoever has two neighbors and the key has the second one's clear bytes.
"""

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
