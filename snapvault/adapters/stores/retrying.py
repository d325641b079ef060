# SPDX-License-Identifier: Apache-2.0
"""Trying again: the one place that repeats calls to a store."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from snapvault import clock
from snapvault.errors import StoreError, StoreUnavailableError
from snapvault.ports.store import Readable, Store, StoredObject, StoreTraits

Result = TypeVar("Result")


class StoreBusyError(StoreUnavailableError):
    """The store answered, but not now: the network is there, and waiting will help."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one call is tried again, in seconds.

    Waits are random between nothing and a limit that doubles from `first_wait` up to
    `longest_wait` (full jitter), so that hosts that failed together do not come back
    together. No new try starts more than `total` after the first; before the store has
    answered anything at all, `first_contact`: a wrong address is no passing weakness.
    """

    first_wait: float = 0.5
    longest_wait: float = 20.0
    total: float = 300.0
    first_contact: float = 3.0


class Persistence:
    """Repeats calls that failed for a reason that passes. Denied and missing never are repeated."""

    def __init__(
        self,
        patience: Patience | None = None,
        sleep: Callable[[float], None] = clock.sleep,
        monotonic: Callable[[], float] = clock.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._patience = patience or Patience()
        self._sleep = sleep
        self._monotonic = monotonic
        self._uniform = uniform
        self._met = False

    def __call__(self, call: Callable[[], Result]) -> Result:
        """Call until it works, fails for good, or patience ends; then the last error stands."""
        started = self._monotonic()
        limit = self._patience.first_wait
        while True:
            try:
                result = call()
            except StoreError as error:
                if not isinstance(error, StoreUnavailableError) or isinstance(
                    error, StoreBusyError
                ):
                    self._met = True
                if not error.retryable:
                    raise
                wait = self._uniform(0.0, limit)
                total = self._patience.total if self._met else self._patience.first_contact
                if self._monotonic() - started + wait > total:
                    raise
                self._sleep(wait)
                limit = min(2 * limit, self._patience.longest_wait)
            else:
                self._met = True
                return result


class RetryingStore:
    """Repeats calls that failed for a reason that passes, as `Persistence` does.

    A put whose answer was lost is repeated too; the inner store recognizes its own object.
    """

    def __init__(
        self,
        inner: Store,
        *,
        patience: Patience | None = None,
        sleep: Callable[[float], None] = clock.sleep,
        monotonic: Callable[[], float] = clock.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._inner = inner
        self._persist = Persistence(patience, sleep, monotonic, uniform)

    @property
    def location(self) -> str:
        """Where the store is, for messages."""
        return self._inner.location

    def stat(self, name: str) -> StoredObject:
        """Return the object's name and size."""
        return self._persist(lambda: self._inner.stat(name))

    def get(self, name: str) -> bytes:
        """Return a whole object."""
        return self._persist(lambda: self._inner.get(name))

    def get_part(self, name: str, offset: int, size: int) -> bytes:
        """Return some bytes of an object."""
        return self._persist(lambda: self._inner.get_part(name, offset, size))

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        """Open an object to be read once, in order; reads that fail are repeated where they were.

        The inner store's readable must carry on after a StoreUnavailableError from `read`.
        """

        def enter() -> tuple[ExitStack, Readable]:
            with ExitStack() as stack:
                readable = stack.enter_context(self._inner.open(name))
                return stack.pop_all(), readable

        stack, readable = self._persist(enter)
        with stack:
            yield _RetryingReadable(self._persist_read, readable)

    def names(self, prefix: str = "") -> Iterator[StoredObject]:
        """List the objects; after a failure the listing starts anew behind the last name given."""
        last = ""
        source: Iterator[StoredObject] | None = None

        def proceed() -> StoredObject | None:
            nonlocal source
            if source is None:
                source = self._inner.names(prefix)
            try:
                return next((item for item in source if item.name > last), None)
            except StoreError:
                source = None
                raise

        while (item := self._persist(proceed)) is not None:
            last = item.name
            yield item

    def put(self, name: str, data: bytes) -> None:
        """Make `data` readable under `name`."""
        self._persist(lambda: self._inner.put(name, data))

    def put_file(self, name: str, path: Path, *, size: int, sha256: str) -> None:
        """Make a file's bytes readable under `name`."""
        self._persist(lambda: self._inner.put_file(name, path, size=size, sha256=sha256))

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects."""
        self._persist(lambda: self._inner.delete(names))

    def probe(self) -> StoreTraits:
        """Probe the inner store; each try uses an object of its own."""
        return self._persist(self._inner.probe)

    def _persist_read(self, read: Callable[[], bytes]) -> bytes:
        return self._persist(read)


class _RetryingReadable:
    """Repeats reads; each read has the whole patience, so progress renews it."""

    def __init__(self, persist: Callable[[Callable[[], bytes]], bytes], inner: Readable) -> None:
        self._persist = persist
        self._inner = inner

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        return self._persist(lambda: self._inner.read(size))
