# SPDX-License-Identifier: Apache-2.0
"""Whether this host's clock can be right, as far as a vault shows it.

Restore points carry the time at which they were taken, and are signed: one of the future tells
that the clock of this host is behind, or that of the host that made it was ahead. A store that
looks at clocks itself, as AWS does, refuses every request of a host that is a quarter of an hour
off, and that is told as what it is.
"""

from collections.abc import Iterable
from datetime import datetime

from snapvault.cli.findings import Finding, ok, warn
from snapvault.cli.words import local
from snapvault.model.objectives import CLOCK_TOLERANCE
from snapvault.model.point import Point
from snapvault.units import format_duration

_REMEDY = (
    'Look at the clocks of both hosts with "timedatectl", and let a time service keep them'
    ' right: "timedatectl set-ntp true".'
)


def look_at_clock(made: datetime, points: Iterable[Point], now: datetime) -> Finding:
    """Compare this host's clock with when a vault was made, and its restore points were taken."""
    latest, what = made, "the vault was made"
    for point in points:
        if point.taken_at > latest:
            latest = point.taken_at
            what = f'restore point "{point.point}" of source "{point.source}" was taken'
            what += f' on host "{point.host}"' if point.host else ""
    if latest <= now + CLOCK_TOLERANCE:
        return ok(f"it is {local(now)}, and nothing in the vault is later")
    ahead = format_duration(round((latest - now).total_seconds()))
    return warn(f"it is {local(now)} here, but {what} {ahead} later, {local(latest)}", _REMEDY)
