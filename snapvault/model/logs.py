# SPDX-License-Identifier: Apache-2.0
"""Logs of maps and signatures: when one goes on, and when it begins anew with a checkpoint."""

from collections.abc import Collection, Iterable
from typing import Final

from snapvault.model.point import LogEntry, Point

LONGEST: Final = 64
"""Entries of a log, at most."""

_WASTE: Final = 2
"""A log begins anew once what it alone keeps is at least one part in so many of a full entry."""


def extend_log(
    log: tuple[LogEntry, ...],
    point: str,
    *,
    changes: int,
    full: int,
    deserted: Collection[str] = (),
) -> tuple[tuple[LogEntry, ...], bool]:
    """Return a log with one more entry, and whether that entry is a full one (a checkpoint).

    Sizes are in bytes. A checkpoint is written once it is no larger than the changes that
    readers would have to fetch instead, or the log is long; or once it is worth it for the space
    that comes back: the entry that the log begins with is `deserted` (its point has expired, and
    no other log needs it), and so are changes of half a full one's size. Sooner it is not: a
    checkpoint each time that its first point expires would be written more often than it saves.
    """
    kept_alone = sum(each.size for each in log[1:] if each.point in deserted)
    is_kept_alone = bool(log) and log[0].point in deserted and kept_alone * _WASTE >= full
    is_short = len(log) < LONGEST and sum(each.size for each in log[1:]) + changes < full
    if log and is_short and not is_kept_alone:
        return (*log, LogEntry(point, changes)), False
    return (LogEntry(point, full),), True


def deserted(base: Point, present: Iterable[Point]) -> frozenset[str]:
    """Return the names of a point's metadata objects that wait for it alone to expire.

    Those are of points that are not `present` any more, and that no other present point names.
    """
    others = [each for each in present if each.source == base.source]
    there = {each.point for each in others} | {base.point}
    needed = {record.name for each in others if each.point != base.point for record in each.objects}
    return frozenset(
        record.name
        for record in base.objects
        if record.name not in needed
        and record.name.rpartition("/")[2].partition(".")[0] not in there
    )
