# SPDX-License-Identifier: Apache-2.0
"""The restore points of all sources, as the catalogs had them when they were last read."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from snapvault.errors import SnapVaultError
from snapvault.model.runs import PointSummary, SourceKey
from snapvault.ports.events import Events

_KEPT: Final = 8  # of each source, and as many of the future; objectives look at the last ones

_LONG_AGO: Final = timedelta.max


class Shelf:
    """Reads catalogs when it is told to; what one could not tell stays as it was."""

    def __init__(self, points: Callable[[str], Sequence[PointSummary]], log: Events) -> None:
        self._points = points
        self._log = log
        self._by_key: dict[SourceKey, tuple[PointSummary, ...]] = {}
        self._read_at: dict[str, datetime] = {}

    def read(self, vaults: Iterable[str], now: datetime) -> None:
        """Read the catalogs of these vaults."""
        for vault in sorted(vaults):
            self._read_at[vault] = now
            try:
                points = self._points(vault)
            except SnapVaultError as error:
                self._log.warn("points.unreadable", str(error), vault=vault, hint=error.hint)
                continue
            found: dict[SourceKey, list[PointSummary]] = defaultdict(list)
            for point in points:
                found[point.key].append(point)
            for key in [key for key in self._by_key if key.vault == vault]:
                del self._by_key[key]
            for key, each in found.items():
                past = [point for point in each if point.taken_at <= now]
                self._by_key[key] = (*past[-_KEPT:], *each[len(past) :][-_KEPT:])

    def age(self, vault: str, now: datetime) -> timedelta:
        """Return how long ago a vault's catalog was read."""
        read_at = self._read_at.get(vault)
        return _LONG_AGO if read_at is None else abs(now - read_at)

    def of(self, key: SourceKey) -> tuple[PointSummary, ...]:
        """Return the newest points of a source, oldest first."""
        return self._by_key.get(key, ())

    def newest(self, key: SourceKey, now: datetime) -> datetime | None:
        """Return when the newest point of a source was taken; the future does not count."""
        return max((each.taken_at for each in self.of(key) if each.taken_at <= now), default=None)
