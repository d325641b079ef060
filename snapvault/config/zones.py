# SPDX-License-Identifier: Apache-2.0
"""Time zones by name, and the one this host lives in."""

import difflib
import os
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from snapvault import clock

_LOCAL_TIME: Final = Path("/etc/localtime")


def is_zone(name: str) -> bool:
    """Tell whether this host's time zone database has a zone of that name."""
    return _named(name) is not None


def nearest_zone(name: str) -> str | None:
    """Return the zone that a wrong name may be meant for; None: none is near."""
    by_lower = {zone.lower(): zone for zone in available_timezones()}
    near = difflib.get_close_matches(name.lower().replace(" ", "_"), by_lower, n=1, cutoff=0.8)
    return by_lower[near[0]] if near else None


def zone_named(name: str | None) -> tzinfo:
    """Return the zone of a policy: by its name, or for None the host's own.

    Raises:
        ValueError: this host's time zone database has no such zone.
    """
    if name is None:
        return local_zone()
    zone = _named(name)
    if zone is None:
        raise ValueError(f'there is no time zone "{name}"')
    return zone


def local_zone() -> tzinfo:
    """Return the zone of the person at this host: `TZ` if it names one, else the host's own.

    Where neither is known, the offset from UTC that counts now.
    """
    wanted = os.environ.get("TZ", "").removeprefix(":")
    if wanted and (zone := _named(wanted)) is not None:
        return zone
    if not wanted:
        try:
            with _LOCAL_TIME.open("rb") as file:
                return ZoneInfo.from_file(file)
        except (OSError, ValueError):
            pass
    return clock.now().astimezone().tzinfo or UTC


def _named(name: str) -> ZoneInfo | None:
    if name == "UTC":
        name = "Etc/UTC"
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
