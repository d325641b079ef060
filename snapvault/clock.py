# SPDX-License-Identifier: Apache-2.0
"""The one place that reads the time, and the one way times are written."""

import time
from datetime import UTC, datetime, tzinfo


def now() -> datetime:
    """Return the current time, in UTC."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Return seconds on a clock that never jumps; only differences mean anything."""
    return time.monotonic()


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


def to_text(moment: datetime) -> str:
    """Write a time as ISO 8601 in UTC with microseconds: `2026-11-20T01:30:00.000000Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_text(text: str) -> datetime:
    """Read a time that `to_text` wrote.

    Raises:
        ValueError: the text is anything else.
    """
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def to_name(moment: datetime) -> str:
    """Write a time for an object name, to the second: `20261120T013000Z`."""
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def in_zone(moment: datetime, zone: tzinfo) -> datetime:
    """Return a moment in a zone; where the calendar ends before the zone's day does, in UTC.

    What a vault says of a time can be anything from year 1 to 9999.
    """
    try:
        return moment.astimezone(zone)
    except OverflowError:
        return moment.astimezone(UTC)
