# SPDX-License-Identifier: Apache-2.0
"""What the history of a source means for a scheduler that begins, whatever ended the last one."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from snapvault.model.runs import PointSummary, Run, RunState

_FAILED = (RunState.FAILED, RunState.INTERRUPTED)


class Past(NamedTuple):
    """How far the schedule was followed, by the runs alone, and what nothing made good since.

    `failed` is the last attempt at the last due, if it failed; `missed` what was missed last.
    """

    followed: datetime | None
    failed: Run | None
    missed: Run | None


def look_back(runs: Sequence[Run], points: Sequence[PointSummary], now: datetime) -> Past:
    """Judge the runs of a source. What is due in the future was run by a clock that was ahead."""
    due = [run for run in runs if run.due is not None and run.due <= now]
    followed = max((run.due for run in due if run.due is not None), default=None)
    over = [run for run in due if run.state is not RunState.RUNNING]
    last = max(over, key=_rank, default=None)
    failed = last if last is not None and last.state in _FAILED else None
    missed = max((run for run in over if run.state is RunState.MISSED), key=_rank, default=None)
    return Past(
        followed,
        None if failed is None or _made_good(failed, runs, points, now) else failed,
        None if missed is None or _made_good(missed, runs, points, now) else missed,
    )


def ending(run: Run, points: Sequence[PointSummary], now: datetime) -> Run:
    """Return how a run ended whose process is gone: well, if it left a restore point."""
    ended = max(now, run.started)
    made = next((point for point in points if run.started <= point.taken_at <= ended), None)
    if made is None:
        return replace(run, state=RunState.INTERRUPTED, ended=ended)
    return replace(
        run,
        state=RunState.SUCCEEDED,
        ended=ended,
        point=made.point,
        taken_at=made.taken_at,
        size=made.size,
    )


def _rank(run: Run) -> tuple[datetime, bool, int, datetime]:
    return (run.due or run.started, run.state is not RunState.MISSED, run.attempt, run.started)


def _made_good(
    run: Run, runs: Sequence[Run], points: Sequence[PointSummary], now: datetime
) -> bool:
    """Tell whether a run succeeded after this one, or a restore point was made by anybody."""
    if any(run.started < point.taken_at <= now for point in points):
        return True
    return any(each.state is RunState.SUCCEEDED and each.started >= run.started for each in runs)
