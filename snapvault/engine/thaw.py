# SPDX-License-Identifier: Apache-2.0
"""Thawing volumes that lie in an archive: ask for all of them at once, then wait.

Nothing is remembered: the store knows what was asked for. Whoever was interrupted asks again, and
waits for what is left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from snapvault import clock
from snapvault.engine.pipeline import ordered, threads
from snapvault.model.point import ObjectRecord
from snapvault.ports.archive import Archive, Frost, Lying, Tier

FIRST_PAUSE: Final = 30.0
LONGEST_PAUSE: Final = 900.0
"""Seconds between two looks: they double from the first to the longest."""

_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Cold:
    """Volumes that cannot be read now: those to be asked for, and those that were."""

    frozen: tuple[tuple[ObjectRecord, str], ...]
    thawing: tuple[tuple[ObjectRecord, str], ...]

    def sums(self) -> list[tuple[str, int, int]]:
        """Return the volumes to be asked for by storage class: (class, objects, bytes)."""
        return [
            (name, len(sizes), sum(sizes))
            for name in sorted({kept_as for _, kept_as in self.frozen})
            for sizes in [[each.size for each, kept_as in self.frozen if kept_as == name]]
        ]

    @property
    def all(self) -> tuple[ObjectRecord, ...]:
        """All of them."""
        return tuple(each for each, _ in (*self.frozen, *self.thawing))


def find_cold(archive: Archive, volumes: Sequence[ObjectRecord]) -> Cold:
    """Look how each volume lies; a request for each.

    Raises:
        StoreError: one is missing, or the store cannot be asked.
    """
    found: dict[Frost, list[tuple[ObjectRecord, str]]] = {each: [] for each in Frost}

    def look(record: ObjectRecord) -> Lying:
        return archive.look(record.name)

    with threads(_AT_ONCE, "archive") as pool:
        lying = ordered(look, volumes, ahead=2 * _AT_ONCE, pool=pool)
        for record, each in zip(volumes, lying, strict=True):
            found[each.frost].append((record, each.storage_class))
    return Cold(tuple(found[Frost.FROZEN]), tuple(found[Frost.THAWING]))


def thaw(
    archive: Archive,
    cold: Cold,
    *,
    tier: Tier,
    days: int,
    on_wait: Callable[[int], None] = lambda _: None,
    sleep: Callable[[float], None] | None = None,
) -> None:
    """Ask for all volumes that are cold, and wait until all can be read.

    `on_wait` is told how many are not readable yet, before each pause. May be interrupted at any
    time; what was asked for stays asked for.

    Raises:
        StoreError: the store refuses, or cannot be asked any more.
    """

    def ask(record: ObjectRecord) -> None:
        archive.thaw(record.name, tier=tier, days=days)

    with threads(_AT_ONCE, "archive") as pool:
        frozen = [each for each, _ in cold.frozen]
        for _ in ordered(ask, frozen, ahead=2 * _AT_ONCE, pool=pool):
            pass
    left, pause = list(cold.all), FIRST_PAUSE
    while left:
        # One after the other, up to the first that is not: they come in about the order asked for.
        lying = archive.look(left[-1].name)
        if lying.frost is Frost.READABLE:
            left.pop()
            continue
        if lying.frost is Frost.FROZEN:
            ask(left[-1])  # its copy was gone before the last came
        on_wait(len(left))
        (sleep or clock.sleep)(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
