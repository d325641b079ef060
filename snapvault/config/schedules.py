# SPDX-License-Identifier: Apache-2.0
"""When something runs: of backups and of drills."""

from datetime import timedelta
from typing import Self

from pydantic import model_validator

from snapvault.config.strict import Shape
from snapvault.config.values import Cron, DayWindow, Interval, UpToAWeek, ZoneName


class ScheduleShape(Shape):
    """When to run: `cron` or `every`."""

    cron: Cron | None = None
    """Minute, hour, day of month, month, day of week."""
    every: Interval | None = None
    """The time from one run to the next."""
    timezone: ZoneName | None = None
    """An IANA time zone; left out: the host's own."""
    jitter: UpToAWeek = timedelta(0)
    """The longest random delay before a run."""
    catch_up: bool = True
    """Whether a missed run is made up for."""
    window: DayWindow | None = None
    """The span of the day in which runs may start."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.cron is None) == (self.every is None):
            names = "none" if self.cron is None else "both"
            raise ValueError(f'expected exactly one of "cron" and "every", found {names}')
        return self
