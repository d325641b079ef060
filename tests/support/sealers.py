# SPDX-License-Identifier: Apache-2.0
"""A sealer without GnuPG, for tests of many histories: quick, and as strict as the real one.

It really hides, authenticates and remembers for whom: what is sealed is XORed with a keyed
stream and ends with a keyed digest, and a sealer opens only what is sealed to a reader that it is.
"""

from collections.abc import Callable, Iterable
from hashlib import sha1
from pathlib import Path
from secrets import token_bytes

import numpy as np
from blake3 import blake3

from snapvault.errors import IntegrityError, KeyMissingError
from snapvault.ports.sealer import Parts, Readers, Signed
from snapvault.ports.store import Readable

_MAGIC = b"PAPR"
_NONCE = 16
_HEAD = len(_MAGIC) + 1 + _NONCE
_TAG = 32
_PIECE = 1 << 20
_MARKS = {Readers.RECOVERY: b"R", Readers.RECOVERY_AND_HOST: b"B"}


def fingerprint_of(name: str) -> str:
    """Return the fingerprint of somebody's key."""
    return sha1(name.encode()).hexdigest().upper()


class PaperSealer:
    """Keys are derived from names; `holds` says whose private key is at hand."""

    def __init__(
        self, *, recovery: str = "recovery", host: str = "host", holds: str, trusts: str = ""
    ) -> None:
        self._recovery = recovery
        self._host = host
        self._holds = holds
        self._trusted = frozenset(fingerprint_of(name) for name in (host, *trusts.split()))

    @property
    def recipients(self) -> tuple[str, ...]:
        return (fingerprint_of(self._recovery),)

    @property
    def signer(self) -> str:
        return fingerprint_of(self._host)

    @property
    def trusted(self) -> frozenset[str]:
        return self._trusted

    def check(self) -> None:
        pass

    def export(self, fingerprint: str) -> bytes:
        return b"public key " + fingerprint.encode()

    def seal(self, data: bytes, readers: Readers) -> bytes:
        return b"".join(self._sealed([data], readers))

    def seal_to_file(self, chunks: Iterable[bytes], path: Path, readers: Readers) -> None:
        try:
            with path.open("xb") as file:
                file.writelines(self._sealed(chunks, readers))
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _sealed(self, chunks: Iterable[bytes], readers: Readers) -> Iterable[bytes]:
        head = _MAGIC + _MARKS[readers] + token_bytes(_NONCE)
        stream = _Stream(self._key(readers), head)
        yield head
        for chunk in chunks:
            yield stream.hide(chunk)
        yield stream.tag()

    def _key(self, readers: Readers) -> bytes:
        both = readers is Readers.RECOVERY_AND_HOST
        names = [self._recovery, self._host] if both else [self._recovery]
        return blake3(" ".join(names).encode()).digest()

    def open(self, sealed: bytes) -> bytes:
        out = bytearray()
        self.open_stream(_Once(sealed), out.extend)
        return bytes(out)

    def open_stream(
        self, sealed: Readable, sink: Callable[[bytes], None], *, vouched: bool = False
    ) -> None:
        head = b""
        while len(head) < _HEAD and (piece := sealed.read(_HEAD - len(head))):
            head += piece
        readers = self._readers(head)
        stream = _Stream(self._key(readers), head)
        rest = b""
        while piece := sealed.read(_PIECE):
            rest += piece
            if len(rest) > _TAG:
                sink(stream.show(rest[:-_TAG]))
                rest = rest[-_TAG:]
        if rest != stream.tag():
            raise IntegrityError("a sealed message is damaged")

    def _readers(self, head: bytes) -> Readers:
        readers = next((each for each in Readers if head[4:5] == _MARKS[each]), None)
        if len(head) < _HEAD or head[:4] != _MAGIC or readers is None:
            raise IntegrityError("not a sealed message")
        can = {self._recovery} | ({self._host} if readers is Readers.RECOVERY_AND_HOST else set())
        if self._holds not in can:
            raise KeyMissingError("none of the keys that can open it is here")
        return readers

    def open_parts(self, size: int, fetch: Callable[[int, int], bytes]) -> Parts | None:
        if size < _HEAD + _TAG:
            return None
        head = fetch(0, _HEAD)
        readers = self._readers(head)
        return _PaperParts(size - _HEAD - _TAG, fetch, _Stream(self._key(readers), head))

    def sign(self, content: bytes) -> bytes:
        return self._signature(self.signer, content) + content

    def read_signed(self, message: bytes) -> Signed:
        signature, content = message[:72], message[72:]
        fingerprint = signature[:40].decode("ascii", errors="replace")
        if signature != self._signature(fingerprint, content):
            raise IntegrityError("bad signature")
        return Signed(content, fingerprint)

    def _signature(self, fingerprint: str, content: bytes) -> bytes:
        key = blake3(b"signer" + fingerprint.encode()).digest()
        return fingerprint.encode() + blake3(content, key=key).digest()


class _Stream:
    """Hides or shows bytes in order, and digests what was hidden."""

    def __init__(self, key: bytes, head: bytes) -> None:
        self._pad = blake3(head, key=key)
        self._digest = blake3(head, key=key)
        self._at = 64

    def hide(self, data: bytes) -> bytes:
        hidden = self._crossed(data)
        self._digest.update(hidden)
        return hidden

    def show(self, data: bytes) -> bytes:
        self._digest.update(data)
        return self._crossed(data)

    def tag(self) -> bytes:
        return self._digest.digest(_TAG)

    def show_part(self, begin: int, data: bytes) -> bytes:
        return self._crossed_at(64 + begin, data)

    def _crossed(self, data: bytes) -> bytes:
        self._at += len(data)
        return self._crossed_at(self._at - len(data), data)

    def _crossed_at(self, at: int, data: bytes) -> bytes:
        pad = np.frombuffer(self._pad.digest(len(data), seek=at), np.uint8)
        return (np.frombuffer(data, np.uint8) ^ pad).tobytes()


class _PaperParts:
    """Some bytes of what is sealed."""

    def __init__(self, size: int, fetch: Callable[[int, int], bytes], stream: _Stream) -> None:
        self.size = size
        self._fetch = fetch
        self._stream = stream

    def read(self, begin: int, end: int) -> bytes:
        return self._stream.show_part(begin, self._fetch(_HEAD + begin, _HEAD + end))


class _Once:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read(self, size: int, /) -> bytes:
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece
