# SPDX-License-Identifier: Apache-2.0
"""Choosing the restore point that somebody asks for."""

from collections.abc import Sequence
from datetime import datetime

from snapvault.errors import NoRestorePointError
from snapvault.model.point import Point


def newest(points: Sequence[Point], source: str) -> Point:
    """Return the last committed point; of two with one number, the one taken later.

    Two have one number when two hosts wrote at the same moment, or when a point that was gone
    is back.

    Raises:
        NoRestorePointError: there is none.
    """
    if not points:
        raise NoRestorePointError(
            f'source "{source}" has no restore point',
            hint='Run "snapvault list" to see what the vault holds.',
        )
    return max(points, key=lambda point: (point.sequence, point.taken_at))


def at(points: Sequence[Point], source: str, moment: datetime) -> Point:
    """Return the newest point taken at or before a moment.

    Raises:
        NoRestorePointError: there is none; the oldest is named.
    """
    newest(points, source)
    before = [point for point in points if point.taken_at <= moment]
    if before:
        return max(before, key=lambda point: (point.taken_at, point.sequence))
    oldest = min(points, key=lambda point: point.taken_at)
    raise NoRestorePointError(
        f'source "{source}" has no restore point at or before {moment:%Y-%m-%d %H:%M:%S} UTC',
        hint=f"The oldest one is {_label(oldest)}.",
    )


def by_id(points: Sequence[Point], wanted: str, source: str | None = None) -> Point:
    """Return the point with an id, or with an id that starts so if only one does.

    Raises:
        NoRestorePointError: there is none, or several; the nearest are named.
    """
    found = [point for point in points if wanted and point.point.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    where = f' of source "{source}"' if source else ""
    if found:
        raise NoRestorePointError(
            f'restore point "{wanted}"{where} is ambiguous',
            hint="It could be " + " or ".join(_label(point) for point in found[:3]) + ".",
        )
    near = sorted(
        points, key=lambda point: (-_common(point.point, wanted), -point.taken_at.timestamp())
    )[:3]
    raise NoRestorePointError(
        f'there is no restore point "{wanted}"{where}',
        hint=f"The nearest {'is' if len(near) == 1 else 'are'} "
        + " and ".join(_label(point) for point in near)
        + "."
        if near
        else 'Run "snapvault list" to see what the vault holds.',
    )


def _common(left: str, right: str) -> int:
    """Count the characters two texts begin with in common."""
    return next(
        (index for index, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
        min(len(left), len(right)),
    )


def _label(point: Point) -> str:
    return f"{point.point} of {point.source} ({point.taken_at:%Y-%m-%d %H:%M:%S} UTC)"
