# SPDX-License-Identifier: Apache-2.0
"""What a drill puts around a vault and around targets: to measure, and to keep it from writing."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from snapvault import clock
from snapvault.engine.drill_clock import Meters
from snapvault.engine.vault import Vault
from snapvault.errors import StoreDeniedError
from snapvault.model.drills import Phase
from snapvault.ports.sealer import Sealer, Signed
from snapvault.ports.store import Readable, StoredObject, StoreReader, StoreTraits
from snapvault.ports.target import Target


def measured(vault: Vault, meters: Meters) -> Vault:
    """Return a vault whose store and sealer are measured, and that nothing can be put into."""
    return replace(
        vault,
        store=ReadOnlyStore(vault.store, meters),
        sealer=MeasuredSealer(vault.sealer, meters),
    )


class ReadOnlyStore:
    """A store that is read from, and measured; what would change it is refused."""

    def __init__(self, inner: StoreReader, meters: Meters) -> None:
        self._inner = inner
        self._meters = meters

    @property
    def location(self) -> str:
        """Where the store is, for messages."""
        return self._inner.location

    def stat(self, name: str) -> StoredObject:
        """Return the object's name and size."""
        return self._inner.stat(name)

    def get(self, name: str) -> bytes:
        """Return a whole object."""
        with self._meters.measure(Phase.FETCH):
            data = self._inner.get(name)
        self._fetched(len(data))
        return data

    def get_part(self, name: str, offset: int, size: int) -> bytes:
        """Return some bytes of an object."""
        with self._meters.measure(Phase.FETCH):
            data = self._inner.get_part(name, offset, size)
        self._fetched(len(data))
        return data

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        """Open an object to be read once, in order."""
        with ExitStack() as stack:
            with self._meters.measure(Phase.FETCH):
                raw = stack.enter_context(self._inner.open(name))
            reader = _MeasuredReadable(raw, self._meters)
            yield reader
            self._fetched(reader.taken)

    def names(self, prefix: str = "") -> Iterator[StoredObject]:
        """List the objects whose names start with `prefix`."""
        return self._inner.names(prefix)

    def put(self, name: str, data: bytes) -> None:
        """Refuse."""
        del data
        raise _refusal(name)

    def put_file(self, name: str, path: Path, *, size: int, sha256: str) -> None:
        """Refuse."""
        del path, size, sha256
        raise _refusal(name)

    def delete(self, names: Sequence[str]) -> None:
        """Refuse."""
        raise _refusal(", ".join(names))

    def probe(self) -> StoreTraits:
        """Refuse: a probe writes."""
        raise _refusal("probe/")

    def _fetched(self, size: int) -> None:
        self._meters.count("fetched_objects", 1)
        self._meters.count("fetched_bytes", size)


def _refusal(what: str) -> StoreDeniedError:
    return StoreDeniedError(f'a drill changes nothing in a vault: "{what}"')


class _MeasuredReadable:
    def __init__(self, inner: Readable, meters: Meters) -> None:
        self._inner = inner
        self._meters = meters
        self.taken = 0

    def read(self, size: int, /) -> bytes:
        with self._meters.measure(Phase.FETCH):
            data = self._inner.read(size)
        self.taken += len(data)
        return data


class MeasuredSealer:
    """A sealer whose decryption is measured: without the waits for its input and its reader."""

    def __init__(self, inner: Sealer, meters: Meters) -> None:
        self._inner = inner
        self._meters = meters
        self.check = inner.check
        self.export = inner.export
        self.seal = inner.seal
        self.seal_to_file = inner.seal_to_file
        self.open_parts = inner.open_parts
        self.sign = inner.sign

    @property
    def recipients(self) -> tuple[str, ...]:
        """Fingerprints of the recovery keys."""
        return self._inner.recipients

    @property
    def signer(self) -> str:
        """Fingerprint of the host's own key."""
        return self._inner.signer

    @property
    def trusted(self) -> frozenset[str]:
        """Fingerprints whose signatures count."""
        return self._inner.trusted

    def open(self, sealed: bytes) -> bytes:
        """Decrypt bytes in memory."""
        with self._meters.measure(Phase.DECRYPT):
            return self._inner.open(sealed)

    def open_stream(
        self, sealed: Readable, sink: Callable[[bytes], None], *, vouched: bool = False
    ) -> None:
        """Decrypt in pieces."""
        begun = clock.monotonic()
        source, taker = _TimedRead(sealed), _TimedSink(sink)
        try:
            self._inner.open_stream(source, taker, vouched=vouched)
        finally:
            passed = clock.monotonic() - begun
            self._meters.add(Phase.DECRYPT, passed - source.seconds - taker.seconds)

    def read_signed(self, message: bytes) -> Signed:
        """Return what a signed message says, once its signature is proven."""
        return self._inner.read_signed(message)


class _TimedRead:
    """Something to read from that adds up the seconds that reading takes."""

    def __init__(self, inner: Readable) -> None:
        self._inner = inner
        self.seconds = 0.0

    def read(self, size: int, /) -> bytes:
        begun = clock.monotonic()
        try:
            return self._inner.read(size)
        finally:
            self.seconds += clock.monotonic() - begun


class _TimedSink:
    """A taker of pieces that adds up the seconds that taking them takes."""

    def __init__(self, inner: Callable[[bytes], None]) -> None:
        self._inner = inner
        self.seconds = 0.0

    def __call__(self, piece: bytes) -> None:
        begun = clock.monotonic()
        try:
            self._inner(piece)
        finally:
            self.seconds += clock.monotonic() - begun


class MeasuredTarget:
    """A target whose writing is measured. Its first commit tells that everything is proven."""

    def __init__(self, inner: Target, meters: Meters) -> None:
        self._inner = inner
        self._meters = meters
        self.read_into = inner.read_into
        self.abort = inner.abort

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data`."""
        with self._meters.measure(Phase.WRITE):
            self._inner.write(offset, data)
        self._meters.written_at = clock.monotonic()
        self._meters.count("written_bytes", len(data))

    def reserve(self, offset: int, length: int) -> None:
        """Take room for a range."""
        with self._meters.measure(Phase.WRITE):
            self._inner.reserve(offset, length)

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros."""
        with self._meters.measure(Phase.WRITE):
            self._inner.zero(offset, length)

    def commit(self) -> None:
        """Make it durable and show it."""
        if self._meters.proven_at is None:
            self._meters.proven_at = clock.monotonic()
        self._inner.commit()
