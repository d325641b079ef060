# SPDX-License-Identifier: Apache-2.0
"""Counting what is asked of a store: for reports, and for promises about cost."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from snapvault.adapters.throttle import Traffic
from snapvault.formats import names as object_names
from snapvault.model.usage import LIST_PAGE, Usage
from snapvault.ports.store import Readable, Store, StoredObject, StoreTraits


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """Calls by kind, and bytes of objects moved.

    `deletes` counts objects, everything else calls; `opens` and `gets` together are the
    objects fetched as a whole. `bytes_up` counts puts that returned, `bytes_down` what was read.
    """

    stats: int = 0
    gets: int = 0
    opens: int = 0
    parts: int = 0
    listings: int = 0
    puts: int = 0
    deletes: int = 0
    probes: int = 0
    bytes_up: int = 0
    bytes_down: int = 0

    @property
    def fetches(self) -> int:
        """Objects that were asked for as a whole."""
        return self.gets + self.opens


class MeteredStore:
    """Passes everything on and counts it. Around the retrying store, a call retried counts once.

    `traffic` is what limits its uploads, for those who have more to limit. `before` is what was
    asked already.
    """

    def __init__(
        self, inner: Store, traffic: Traffic | None = None, *, before: Usage | None = None
    ) -> None:
        self._inner = inner
        self.traffic = traffic
        self._counter: Counter[str] = Counter()
        self._usage = before or Usage()
        self._lock = threading.Lock()

    def counts(self) -> StoreCounts:
        """Return what was counted so far."""
        with self._lock:
            return StoreCounts(**self._counter)

    def usage(self) -> Usage:
        """Return what was asked so far, as stores bill it."""
        with self._lock:
            return self._usage

    def count_call(self, kind: str, amount: int) -> None:
        """Count calls that were made of the same store in another way, by their kind."""
        match kind:
            case "stats" | "gets" | "opens" | "parts":
                self.use(Usage(gets=amount))
            case "puts" | "listings" | "locks":
                self.use(Usage(puts=amount))
            case "deletes":
                self.use(Usage(deletes=-(-amount // LIST_PAGE)))

    def use(self, usage: Usage) -> None:
        """Count what was asked of the same store in another way."""
        with self._lock:
            self._usage += usage

    @property
    def location(self) -> str:
        """Where the store is, for messages."""
        return self._inner.location

    def stat(self, name: str) -> StoredObject:
        """Return the object's name and size."""
        self._count("stats")
        self.use(_get(name))
        return self._inner.stat(name)

    def get(self, name: str) -> bytes:
        """Return a whole object."""
        self._count("gets")
        self.use(_get(name))
        data = self._inner.get(name)
        self._count_read(name, len(data))
        return data

    def get_part(self, name: str, offset: int, size: int) -> bytes:
        """Return some bytes of an object."""
        self._count("parts")
        self.use(_get(name))
        data = self._inner.get_part(name, offset, size)
        self._count_read(name, len(data))
        return data

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        """Open an object to be read once, in order."""
        self._count("opens")
        self.use(_get(name))
        with self._inner.open(name) as readable:
            yield _MeteredReadable(readable, lambda size: self._count_read(name, size))

    def names(self, prefix: str = "") -> Iterator[StoredObject]:
        """List the objects whose names start with `prefix`."""
        self._count("listings")
        self.use(Usage(puts=1))
        return self._paged(self._inner.names(prefix))

    def put(self, name: str, data: bytes) -> None:
        """Make `data` readable under `name`."""
        self._count("puts")
        self.use(_put(name))
        self._inner.put(name, data)
        self._count_sent(len(data))

    def put_file(self, name: str, path: Path, *, size: int, sha256: str) -> None:
        """Make a file's bytes readable under `name`."""
        self._count("puts")
        self.use(_put(name))
        self._inner.put_file(name, path, size=size, sha256=sha256)
        self._count_sent(size)

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects."""
        self._count("deletes", len(names))
        self.use(Usage(deletes=-(-len(names) // LIST_PAGE)))
        self._inner.delete(names)

    def probe(self) -> StoreTraits:
        """Probe the inner store; what the probe itself asks is not counted."""
        self._count("probes")
        return self._inner.probe()

    def _paged(self, found: Iterator[StoredObject]) -> Iterator[StoredObject]:
        """Count the requests that a listing takes beyond the first."""
        for number, item in enumerate(found):
            if number and number % LIST_PAGE == 0:
                self.use(Usage(puts=1))
            yield item

    def _count_read(self, name: str, size: int) -> None:
        self._count("bytes_down", size)
        self.use(Usage(bytes_down=size, volume_down=size if _is_volume(name) else 0))

    def _count_sent(self, size: int) -> None:
        self._count("bytes_up", size)
        self.use(Usage(bytes_up=size))

    def _count(self, kind: str, amount: int = 1) -> None:
        with self._lock:
            self._counter[kind] += amount


def _is_volume(name: str) -> bool:
    return name.startswith(object_names.VOLUMES)


def _get(name: str) -> Usage:
    return Usage(gets=1, volume_gets=int(_is_volume(name)))


def _put(name: str) -> Usage:
    return Usage(puts=1, volume_puts=int(_is_volume(name)))


class _MeteredReadable:
    """Counts what is read."""

    def __init__(self, inner: Readable, count: Callable[[int], None]) -> None:
        self._inner = inner
        self._count = count

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        data = self._inner.read(size)
        self._count(len(data))
        return data
