# SPDX-License-Identifier: Apache-2.0
"""Counting requests where they arrive: at the store.

A run through the proxy is never one whose CPU seconds are reported.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from tests.support.fault_proxy import FaultProxy


@dataclass(frozen=True, slots=True)
class Requests:
    """What was asked of the store, as "METHOD /path?query", in order."""

    lines: Sequence[str]

    def by_kind(self) -> dict[str, int]:
        """Return how many requests of each method concerned each kind of object."""
        found = Counter(f"{method} {kind}" for method, kind, _ in self._parts())
        return dict(sorted(found.items()))

    def volume_fetches(self) -> Counter[str]:
        """Return how often each volume was fetched, by name."""
        return Counter(
            name for method, kind, name in self._parts() if method == "GET" and kind == "volumes"
        )

    def _parts(self) -> Iterator[tuple[str, str, str]]:
        for line in self.lines:
            method, _, target = line.partition(" ")
            # Path-style addresses: /bucket/vault/kind/…
            name = unquote(urlsplit(target).path)
            parts = name.strip("/").split("/")
            kind = parts[2] if len(parts) > 2 else "listing"
            yield method, kind, name


@contextmanager
def counted(port: int) -> Iterator[FaultProxy]:
    """Run a proxy in front of a server; it passes everything on unchanged."""
    with FaultProxy(port) as proxy:
        yield proxy


def requests_of(proxy: FaultProxy) -> Requests:
    """Return what passed so far."""
    return Requests(tuple(proxy.requests))
