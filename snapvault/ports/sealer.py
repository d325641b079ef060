# SPDX-License-Identifier: Apache-2.0
"""Sealing: OpenPGP encryption to one of two sets of readers, and signatures."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from snapvault.ports.store import Readable


class Readers(Enum):
    """Who can open what is sealed (docs/format.md, section 3)."""

    RECOVERY = "recovery"  # the recovery keys alone: data
    RECOVERY_AND_HOST = "recovery and host"  # and this host's own key: maps, signatures


@dataclass(frozen=True, slots=True)
class Signed:
    """What a signed message says, and the full fingerprint of the primary key that signed it."""

    content: bytes
    fingerprint: str


class Parts(Protocol):
    """A sealed object that is opened in some places, without the rest of it.

    Nothing that it gives is proven: whoever uses it knows by other means what it has to be. Safe
    from several threads.
    """

    @property
    def size(self) -> int:
        """How many bytes the object has when it is opened."""
        ...

    def read(self, begin: int, end: int) -> bytes:
        """Fetch, by one call, and decrypt the bytes from `begin` to `end`, which lie within `size`.

        Raises: what fetching raises.
        """
        ...


class Addressees(Protocol):
    """Tells whom sealed objects are addressed to, without opening them. Safe from several threads.

    Nothing is proven by it.
    """

    @property
    def head_size(self) -> int:
        """How many bytes at the start of an object `ids` needs at the most."""
        ...

    def ids(self, head: bytes) -> frozenset[str]:
        """Return the ids of the keys that can open an object that begins like this; not empty.

        Raises:
            IntegrityError: it is not sealed.
        """
        ...

    def owner(self, key_id: str) -> str:
        """Return the fingerprint of the primary key that an id belongs to, or the id if unknown."""
        ...


class Sealer(Protocol):
    """GnuPG with its keys chosen. Safe from several threads at once.

    Fingerprints are 40 (or 64) upper-case hexadecimal digits of a primary key.
    """

    @property
    def recipients(self) -> tuple[str, ...]:
        """Fingerprints of the recovery keys; sorted, never empty."""
        ...

    @property
    def signer(self) -> str:
        """Fingerprint of this host's own key."""
        ...

    @property
    def trusted(self) -> frozenset[str]:
        """Fingerprints whose signatures count: `signer` and the settings' `trusted_signers`."""
        ...

    def check(self) -> None:
        """Prove that this host can encrypt to every reader and sign.

        Raises:
            KeyMissingError: a key is missing, ambiguous, expired, revoked, disabled or of
                the wrong kind; the message says which of them and for what.
            SealError: GnuPG is not there, or signing failed (a wrong passphrase, say).
        """
        ...

    def export(self, fingerprint: str) -> bytes:
        """Return a public key, ASCII-armored."""
        ...

    def seal(self, data: bytes, readers: Readers) -> bytes:
        """Encrypt bytes small enough to hold in memory; binary OpenPGP."""
        ...

    def seal_to_file(self, chunks: Iterable[bytes], path: Path, readers: Readers) -> None:
        """Encrypt chunks, as they come, into a new file; nothing is held or stored in clear.

        An exception raised by `chunks` ends GnuPG, removes the file and is passed on.
        """
        ...

    def open(self, sealed: bytes) -> bytes:
        """Decrypt bytes small enough to hold in memory.

        Raises:
            KeyMissingError: none of the keys that can open it is here.
            IntegrityError: damaged, or not an encrypted OpenPGP message.
            SealError: the passphrase is wrong, or GnuPG failed otherwise.
        """
        ...

    def open_stream(
        self, sealed: Readable, sink: Callable[[bytes], None], *, vouched: bool = False
    ) -> None:
        """Decrypt in pieces; `sink` is called with each piece, in order, from this thread.

        What `sink` was given is proven only when this returns. With `vouched` it need not be
        proven even then, which is faster: the caller holds these bytes or the sealed ones against
        a digest that it trusts, and throws everything away if they differ. An exception raised
        by `sink` or by reading `sealed` ends GnuPG and is passed on.

        Raises: as `open`.
        """
        ...

    def open_parts(self, size: int, fetch: Callable[[int, int], bytes]) -> Parts | None:
        """Open a sealed object of `size` bytes to decrypt parts of it; None where that cannot be.

        `fetch(begin, end)` returns exactly those bytes of it; an exception that it raises is
        passed on. Some 40 KiB are fetched here, whatever is read later.

        Raises: as `open`, if no key opens it. It is not proven to be undamaged.
        """
        ...

    def sign(self, content: bytes) -> bytes:
        """Return an OpenPGP signed message (binary, uncompressed) that holds `content`."""
        ...

    def read_signed(self, message: bytes) -> Signed:
        """Return what a signed message says once its signature is proven.

        Does not ask whether the signer is trusted: callers compare with `trusted`.

        Raises:
            IntegrityError: no signature, a bad one, one by an expired or revoked key at the
                time of signing, more than one, or by a key that is not in the key ring.
        """
        ...
