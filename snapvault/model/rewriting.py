# SPDX-License-Identifier: Apache-2.0
"""Which live blocks to store again tonight, and which blocks to keep apart from each other.

A vault's volumes cannot be packed anew: the host cannot read them. So the blocks that are still
needed of a mostly dead volume are stored again from the source, and the volume goes with the
points that still use it. And blocks that are likely to die together are stored together, which
saves most of that work. docs/adr/0011-old-volumes-are-emptied-from-the-source.md
has the figures.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Final

ENOUGH: Final = 1.5
"""Times the bytes it needs that a restore may fetch before anything is stored again."""

MOST_CREDIT: Final = 0.05
"""Share of a point's bytes that nights without need may leave to be stored again later."""

OLD: Final = timedelta(days=35)
"""From this age on volumes are all the same."""

ZONE: Final = 16 << 20
"""Bytes of a dump that are stored again together: so few that one busy table does not cost the
whole dump, so many that they fill volumes of their own, which die together one day."""

_MOST_EXTENTS: Final = 1 << 20
_BYTES_AN_EXTENT: Final = 4096

_YOUNG_COUNTS: Final = 3.0
_SHORT: Final = timedelta(days=7)
_MONTH: Final = timedelta(days=29)


class Lifetime(IntEnum):
    """How long a stored block is expected to live. Each has volumes of its own."""

    LONG = 0
    MONTH = 1
    SHORT = 2
    PROVEN = 3
    """Stored again: it outlived those that it was stored with."""


@dataclass(frozen=True, slots=True)
class VolumeState:
    """What is known of a volume at the newest point.

    `raw` bytes it holds at least, `live` ones of them the point needs, and `cost` are to be
    stored to do without it. `age` is that of the oldest point there is that needs it, counted
    back from the newest.
    """

    volume: str
    raw: int
    live: int
    cost: int
    age: timedelta

    @property
    def dead(self) -> int:
        """Bytes that a restore fetches for nothing."""
        return max(0, self.raw - self.live)

    @property
    def worth(self) -> float:
        """Dead bytes a byte to be stored; those of a young volume count more.

        No point that is kept for long needs a young volume yet: its space comes back soon.
        """
        counts = _YOUNG_COUNTS if self.age < OLD else 1.0
        return self.dead * counts / max(1, self.cost)


def choose(volumes: Iterable[VolumeState], budget: int) -> frozenset[str]:
    """Choose the volumes whose live bytes are to be stored again, at a cost of `budget` at most.

    The best worth comes first, until a restore would fetch no more than ENOUGH times what it
    needs. A volume that the rest of the budget does not pay for is passed over, so what is left of
    it afterwards buys nothing more.
    """
    states = [state for state in volumes if state.live > 0]
    fetched = sum(max(state.raw, state.live) for state in states)
    enough = ENOUGH * sum(state.live for state in states)
    chosen = set()
    for state in sorted(states, key=lambda state: (-state.worth, state.volume)):
        if fetched <= enough or not state.dead:
            break
        if state.cost <= budget:
            budget -= state.cost
            fetched -= state.dead
            chosen.add(state.volume)
    return frozenset(chosen)


def most_extents(size: int) -> int:
    """Return how many extents the map of a dump of `size` bytes is to have at the most.

    A map takes memory, and every extent time of a restore, however few bytes it has.
    """
    return max(_MOST_EXTENTS, size // _BYTES_AN_EXTENT)


def crowded(extents: Sequence[int], most: int) -> list[int]:
    """Choose the zones of a dump to be stored again, so that its map has no more than `most`.

    `extents` says how many each zone has. Those with the most come first: what was stored again
    last has the fewest, so that all of a dump which changes everywhere has its turn.
    """
    excess = sum(extents) - most
    chosen = []
    for zone in sorted(range(len(extents)), key=lambda zone: (-extents[zone], zone)):
        if excess <= 0:
            break
        chosen.append(zone)
        excess -= extents[zone]
    return sorted(chosen)


def credit_after(
    credit: int, *, share: float, changed: int, rewritten: int, point_bytes: int
) -> int:
    """Return what the next nights may store again, in bytes.

    A night earns a share of what changed, and pays for what it stored again. So all that is ever
    stored again is at most that share of all that changed before.
    """
    earned = credit - rewritten + int(changed * share)
    return max(0, min(earned, int(point_bytes * MOST_CREDIT)))


def expected_lifetime(age: timedelta | None) -> Lifetime:
    """Tell how long a block will live, by the age of what it replaces; None: nobody knows it."""
    if age is None or age >= _MONTH:
        return Lifetime.LONG
    return Lifetime.MONTH if age >= _SHORT else Lifetime.SHORT
