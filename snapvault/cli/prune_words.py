# SPDX-License-Identifier: Apache-2.0
"""The verdicts of a prune as lines: each point, or those that follow each other in one."""

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from snapvault.cli.words import local, table
from snapvault.units import format_count

if TYPE_CHECKING:
    from snapvault.engine.prune_plan import Judged

MOST_LINES: Final = 50
"""Points that are shown one by one unless all are asked for."""

_GOES: Final = "no rule wants it"
_HEADER: Final = ("POINT", "SOURCE", "TAKEN", "VERDICT", "WHY")


def verdicts(
    judged: "Sequence[Judged]", went: Collection[str], *, dry_run: bool, is_whole: bool
) -> list[str]:
    """Return a table of points with their verdicts; `went` are names of manifests that go.

    Where there are many and not all are asked for, points of a source that follow each other
    and have the same verdict for the same kinds of reasons are one line.
    """
    if not judged:
        return []
    goes = "would go" if dry_run else "gone"

    def verdict(each: "Judged") -> str:
        return goes if each.held.manifest.name in went else "stays"

    def kind(each: "Judged") -> tuple[object, ...]:
        rules = tuple(_rule(reason) for reason in each.verdict.reasons)
        return (
            each.held.point.source,
            verdict(each),
            rules,
            each.locked_until is None,
            each.suspicion,
        )

    if is_whole or len(judged) <= MOST_LINES:
        groups = [[each] for each in judged]
    else:
        groups = [list(group) for _, group in groupby(judged, key=kind)]
    rows = []
    for some in groups:
        first, last = some[0], some[-1]
        point = first.held.point
        if len(some) == 1:
            told, taken, why = point.point, local(point.taken_at), _why(first)
        else:
            told = format_count(len(some), "point")
            taken = f"{local(point.taken_at)} to {local(last.held.point.taken_at)}"
            why = _why(first, is_group=True)
        rows.append([told, point.source, taken, verdict(first), why])
    return table(_HEADER, rows)


def _why(each: "Judged", *, is_group: bool = False) -> str:
    reasons = [_rule(reason) if is_group else reason for reason in each.verdict.reasons]
    told = ", ".join(reasons) or _GOES
    if each.locked_until is not None:
        until = "" if is_group else f" until {local(each.locked_until)}"
        told = f"{_GOES}; locked{until}"
    return f"{told} ({each.suspicion})" if each.suspicion else told


def _rule(reason: str) -> str:
    """Return a reason without the place that a point has: of `daily 2 of 7` it is `daily`."""
    name, _, rest = reason.partition(" ")
    return name if rest[:1].isdigit() else reason
