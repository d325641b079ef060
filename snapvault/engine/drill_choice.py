# SPDX-License-Identifier: Apache-2.0
"""Which restore point a drill rehearses, and what chance decides in it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from snapvault.errors import NoRestorePointError
from snapvault.model import selection
from snapvault.model.point import Point
from snapvault.model.rehearsal import Choice
from snapvault.units import format_duration


@dataclass(frozen=True, slots=True)
class Pick:
    """How a restore point is picked: by id, by time, or else as the policy says.

    `seed` decides what `RANDOM` comes to, among the points of the last `within` before `now`.
    """

    choice: Choice
    now: datetime
    seed: int
    within: timedelta | None = None
    point: str | None = None
    moment: datetime | None = None

    @property
    def name(self) -> str:
        """What was asked for, in one word: for reports."""
        if self.point is not None:
            return "point"
        return "time" if self.moment is not None else self.choice.value

    @property
    def is_by_hand(self) -> bool:
        """Whether somebody named a point or a time."""
        return self.point is not None or self.moment is not None

    @property
    def is_latest(self) -> bool:
        """Whether the newest point is meant, whichever that is."""
        return self.name == Choice.LATEST.value

    def of(self, points: Sequence[Point], source: str) -> Point:
        """Return the point to rehearse; the same for the same points and seed, in any order.

        Raises:
            NoRestorePointError: there is none, or none that answers.
        """
        newest = selection.newest(points, source)
        if self.point is not None:
            return selection.by_id(points, self.point, source)
        if self.moment is not None:
            return selection.at(points, source, self.moment)
        if self.choice is Choice.LATEST:
            return newest
        by_age = sorted(points, key=lambda point: (point.sequence, point.taken_at, point.point))
        if self.choice is Choice.OLDEST:
            return by_age[0]
        if self.within is not None:
            by_age = [point for point in by_age if point.taken_at >= self.now - self.within]
            if not by_age:
                raise NoRestorePointError(
                    f'source "{source}" has no restore point of the last '
                    f"{format_duration(self.within)}",
                    hint=f"The newest one is of {newest.taken_at:%Y-%m-%d %H:%M:%S} UTC.",
                )
        return chance(self.seed, source).choice(by_age)


def chance(seed: int, purpose: str) -> random.Random:
    """Return what decides by chance, the same for the same seed and purpose."""
    return random.Random(f"{seed}/{purpose}")  # noqa: S311 - nobody gains by guessing it
