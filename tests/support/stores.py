# SPDX-License-Identifier: Apache-2.0
"""Stores that fail on purpose, and one that remembers: wrappers around a real store."""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal, Protocol, get_args

from snapvault.errors import ObjectMissingError
from snapvault.ports.store import Readable, Store, StoredObject, StoreTraits

Verb = Literal["stat", "get", "part", "open", "names", "put", "delete", "probe"]


class PowerCut(BaseException):
    """The machine lost its power; a BaseException, so that no handler under test swallows it."""


class ForwardingStore(Store, Protocol):
    """Passes every call on to `_inner`; the stores below change what they need to.

    `_gate` sees each call first; deleting several objects is several calls.
    """

    _inner: Store

    def _gate(self, verb: Verb, name: str) -> None:
        """Let the call through, or raise."""
        return

    def _done(self, verb: Verb, name: str) -> None:
        """Hear that a call succeeded, or raise all the same."""
        return

    @property
    def location(self) -> str:
        return self._inner.location

    def stat(self, name: str) -> StoredObject:
        self._gate("stat", name)
        return self._inner.stat(name)

    def get(self, name: str) -> bytes:
        self._gate("get", name)
        return self._inner.get(name)

    def get_part(self, name: str, offset: int, size: int) -> bytes:
        self._gate("part", name)
        return self._inner.get_part(name, offset, size)

    def open(self, name: str) -> AbstractContextManager[Readable]:
        self._gate("open", name)
        return self._inner.open(name)

    def names(self, prefix: str = "") -> Iterator[StoredObject]:
        self._gate("names", prefix)
        return self._inner.names(prefix)

    def put(self, name: str, data: bytes) -> None:
        self._gate("put", name)
        self._inner.put(name, data)
        self._done("put", name)

    def put_file(self, name: str, path: Path, *, size: int, sha256: str) -> None:
        self._gate("put", name)
        self._inner.put_file(name, path, size=size, sha256=sha256)
        self._done("put", name)

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            self._gate("delete", name)
            self._inner.delete([name])
            self._done("delete", name)

    def probe(self) -> StoreTraits:
        self._gate("probe", "")
        return self._inner.probe()


class CrashingStore(ForwardingStore):
    """Lets `writes_before_crash` puts and deletes through, then cuts the power.

    With `when="before"` the next write never reaches the store; with `when="after"` it
    does, and its caller never hears of it. Once cut, every call raises, from any thread.
    """

    def __init__(
        self,
        inner: Store,
        *,
        writes_before_crash: int,
        when: Literal["before", "after"] = "before",
    ) -> None:
        self._inner = inner
        self._writes_left = writes_before_crash
        self._when = when
        self._dying = False
        self._dead = False
        self._lock = threading.Lock()

    @property
    def crashed(self) -> bool:
        """Whether the power was cut."""
        return self._dead

    def _gate(self, verb: Verb, name: str) -> None:
        with self._lock:
            if self._dead or self._dying:
                raise PowerCut
            if verb not in ("put", "delete"):
                return
            if self._writes_left > 0:
                self._writes_left -= 1
            elif self._when == "before":
                self._dead = True
                raise PowerCut
            else:
                self._dying = True

    def _done(self, verb: Verb, name: str) -> None:
        with self._lock:
            if self._dying or self._dead:
                self._dead = True
                raise PowerCut


class FailingStore(ForwardingStore):
    """Raises `error()` for the calls in `verbs` whose name `matches`, `times` times, then works.

    `after` calls that match succeed first; `times=None` never gets better.
    """

    def __init__(
        self,
        inner: Store,
        error: Callable[[], BaseException],
        *,
        verbs: Collection[Verb] = get_args(Verb),
        matches: Callable[[str], bool] = lambda name: True,
        times: int | None = None,
        after: int = 0,
    ) -> None:
        self._inner = inner
        self._error = error
        self._verbs = frozenset(verbs)
        self._matches = matches
        self._times_left = times
        self._after_left = after
        self._lock = threading.Lock()

    def _gate(self, verb: Verb, name: str) -> None:
        with self._lock:
            if verb not in self._verbs or not self._matches(name):
                return
            if self._after_left > 0:
                self._after_left -= 1
                return
            if self._times_left == 0:
                return
            if self._times_left is not None:
                self._times_left -= 1
        raise self._error()


class FlippingStore(ForwardingStore):
    """Flips one bit of one object whenever it is read; a negative `bit` counts from the end."""

    def __init__(self, inner: Store, name: str, *, bit: int = 0) -> None:
        self._inner = inner
        self._name = name
        self._bit = bit

    def get(self, name: str) -> bytes:
        data = self._inner.get(name)
        return self._flip(data, 0, len(data)) if name == self._name else data

    def get_part(self, name: str, offset: int, size: int) -> bytes:
        data = self._inner.get_part(name, offset, size)
        if name != self._name:
            return data
        return self._flip(data, offset, self._inner.stat(name).size)

    @contextmanager
    def _open(self, name: str) -> Iterator[Readable]:
        size = self._inner.stat(name).size
        with self._inner.open(name) as readable:
            yield _Mapped(readable, lambda data, offset: self._flip(data, offset, size))

    def open(self, name: str) -> AbstractContextManager[Readable]:
        return self._open(name) if name == self._name else self._inner.open(name)

    def _flip(self, data: bytes, offset: int, size: int) -> bytes:
        bit = self._bit % (8 * size) - 8 * offset
        if not 0 <= bit < 8 * len(data):
            return data
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        return bytes(flipped)


class HidingStore(ForwardingStore):
    """Denies that some objects exist; writing is not affected."""

    def __init__(self, inner: Store, hides: Callable[[str], bool]) -> None:
        self._inner = inner
        self._hides = hides

    def names(self, prefix: str = "") -> Iterator[StoredObject]:
        return (item for item in self._inner.names(prefix) if not self._hides(item.name))

    def _gate(self, verb: Verb, name: str) -> None:
        if verb in ("stat", "get", "part", "open") and self._hides(name):
            raise ObjectMissingError(f'object "{name}" is not in "{self.location}"')


class RecordingStore(ForwardingStore):
    """Remembers every call as (verb, name), in order; `probe` has no name, `names` its prefix."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self.calls: list[tuple[Verb, str]] = []

    def called(self, *verbs: Verb) -> list[str]:
        """Return the names given to these verbs, in order, with repetitions."""
        return [name for verb, name in self.calls if verb in verbs]

    def _gate(self, verb: Verb, name: str) -> None:
        with self._lock:
            self.calls.append((verb, name))


class _Mapped:
    """Changes what is read; the function gets each piece and its offset."""

    def __init__(self, inner: Readable, change: Callable[[bytes, int], bytes]) -> None:
        self._inner = inner
        self._change = change
        self._offset = 0

    def read(self, size: int, /) -> bytes:
        data = self._inner.read(size)
        offset = self._offset
        self._offset += len(data)
        return self._change(data, offset)


class BeforeCall(ForwardingStore):
    """Does something once, before the first call that `is_it` picks."""

    def __init__(
        self, inner: Store, is_it: Callable[[Verb, str], bool], what: Callable[[], object]
    ) -> None:
        self._inner = inner
        self._is_it = is_it
        self._what: Callable[[], object] | None = what

    def _gate(self, verb: Verb, name: str) -> None:
        if self._what is not None and self._is_it(verb, name):
            what, self._what = self._what, None
            what()
