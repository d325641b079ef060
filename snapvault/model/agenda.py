# SPDX-License-Identifier: Apache-2.0
"""What is to be done about a source now: start it, wait, or report what nothing ran at.

A schedule asks for runs at its dues. Each has a start, later by the jitter, and inside the
window. Dues that wait for the same opening of the window are one with the last of them: an
hourly schedule with a window of the night asks for one run when it opens, however many dues
the day had. So are dues whose jitter puts them behind a later one. What is left are slots. A
slot has come when its start has; of those that have come and were not followed, the last is
run, and the others are missed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from itertools import islice
from typing import Final, NamedTuple

from snapvault.errors import LockHeldError
from snapvault.model.policy import Retry, Schedule
from snapvault.model.runs import Run, RunState, Trigger
from snapvault.model.schedule import dues, may_start, next_due, starts_at, window_end

GRACE: Final = timedelta(minutes=2)
"""How late a start may be noticed, and still be in time."""

COUNTED: Final = 1000
"""No more dues than these are counted when a clock jumps by years."""

_NO_JITTER: Final = timedelta(0)
_FIRST_LOOK_BACK: Final = timedelta(hours=1)
_USUAL_RPO: Final = timedelta(days=1)  # to compare a source that has none with those that do
_MOST_DOUBLINGS: Final = 20


class Slot(NamedTuple):
    """One run that a schedule asks for: the due, and the earliest start."""

    due: datetime
    start: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """A failed run that is tried again: not before `at`, as attempt `number` at `due`."""

    due: datetime
    number: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Timing:
    """A schedule with what belongs to it: its zone, and the salt of its jitter."""

    schedule: Schedule
    zone: tzinfo
    salt: str

    @property
    def asks(self) -> str:
        """What the dues and the window follow from; two with the same ask for the same runs."""
        each = self.schedule
        window = each.window and f"{each.window.start}-{each.window.end}"
        return f"{each.cron or each.every} {each.timezone} {window}"

    def start(self, due: datetime) -> datetime:
        """Return the earliest start of what is due then."""
        return starts_at(self.schedule, due, zone=self.zone, salt=self.salt)

    def opening(self, due: datetime) -> datetime:
        """Return the due itself, or the opening of the window that it waits for."""
        if self.schedule.window is None:
            return due
        sharp = replace(self.schedule, jitter=_NO_JITTER)
        return starts_at(sharp, due, zone=self.zone, salt=self.salt)

    def due_after(self, after: datetime) -> datetime | None:
        """Return the first due later than `after`."""
        return next_due(self.schedule, after, zone=self.zone)

    def is_open(self, now: datetime) -> bool:
        """Tell whether the window is."""
        return may_start(self.schedule, now, zone=self.zone)

    def closes(self, now: datetime) -> datetime | None:
        """Return when the window that is open closes; None: never."""
        return window_end(self.schedule, now, zone=self.zone)


@dataclass(frozen=True, slots=True)
class Missed:
    """Slots that nothing ran at: how many, and the due of the last. Not `exact`: at least."""

    count: int
    exact: bool
    last: datetime


@dataclass(frozen=True, slots=True)
class Start:
    """What may be started now."""

    due: datetime
    trigger: Trigger
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about a source.

    Report `missed` first, then start `start` when it is its turn. `wake` is when to plan again
    even if nothing happens, `following` the start of the next slot; None: never.
    `given_up`: the attempt that was waiting is dropped.
    """

    start: Start | None = None
    missed: Missed | None = None
    given_up: bool = False
    wake: datetime | None = None
    following: datetime | None = None


def plan(
    timing: Timing,
    now: datetime,
    *,
    handled: datetime,
    attended: datetime,
    again: Attempt | None = None,
    grace: timedelta = GRACE,
) -> Plan:
    """Plan for a source that nothing is running for.

    `handled` is up to when its schedule was followed, `attended` since when somebody has been
    looking without a gap: what should have started before that is late. `again` is a
    failed run that waits to be tried again; a slot that has come takes its place.
    """
    come = _come(timing, handled, now)
    following = next_slot(timing, come.last.due if come.last else handled)
    next_start = following.start if following else None
    if come.last is None:
        return _plan_again(timing, now, again, next_start)
    last = come.last
    late = last.start < attended - grace
    if not late and timing.is_open(now):
        decided, start, wake = False, Start(last.due, Trigger.SCHEDULE), timing.closes(now)
    elif not timing.schedule.catch_up:
        decided, start, wake = True, None, None
    elif timing.is_open(now):
        decided, start, wake = False, Start(last.due, Trigger.CATCH_UP), timing.closes(now)
    else:
        # It waits for the window, unless the next one starts then, or before.
        opening = timing.opening(now)
        decided = next_start is not None and next_start <= opening
        start, wake = None, None if decided else opening
    return Plan(
        start=start,
        missed=_missed(come, with_last=decided),
        given_up=again is not None,
        wake=_earliest(wake, next_start),
        following=next_start,
    )


def next_slot(timing: Timing, after: datetime) -> Slot | None:
    """Return the first slot whose due is later than `after`; None: there is none."""
    best: Slot | None = None
    waits_for: datetime | None = None
    due = after
    for _ in range(COUNTED):
        following = timing.due_after(due)
        if following is None or (best is not None and following >= best.start):
            break
        due = following
        slot, opening = Slot(due, timing.start(due)), timing.opening(due)
        # Of those that wait for one opening, and of two that start together, the last counts.
        if best is None or opening == waits_for or slot.start <= best.start:
            best, waits_for = slot, opening
    return best


def anchor(timing: Timing, handled: datetime, now: datetime) -> datetime:
    """Return from where to follow a schedule when `handled` may lie in the future.

    It does when the clock was ahead. What is due next is not run again if it already was; but
    a source is not left alone until a clock that was years ahead is right.
    """
    if handled <= now:
        return handled
    following = timing.due_after(now)
    return handled if following is None or handled <= following else now


def can_retry(run: Run) -> bool:
    """Tell whether trying again can help: the failure says so, or the run was cut off."""
    if run.stopped or run.state is RunState.INTERRUPTED or run.failure is None:
        return True
    # 128+n is what a process ends with that a signal ended.
    return run.failure.retryable or run.failure.exit_status > 128 or run.failure.exit_status < 0


def is_held(run: Run) -> bool:
    """Tell whether a run failed because another one works on its source."""
    return run.failure is not None and run.failure.exit_status == LockHeldError.exit_status


def next_attempt(timing: Timing, retry: Retry, run: Run, now: datetime) -> Attempt | None:
    """Return when a run that failed is tried again; None: it is not.

    One that found its source held by another run has not used up its attempt, nor has one that was
    stopped with the daemon: that goes on at once.
    """
    is_free = is_held(run) or run.stopped
    if run.due is None or not can_retry(run) or (run.attempt >= retry.attempts and not is_free):
        return None
    doublings = min(run.attempt - 1, _MOST_DOUBLINGS)
    pause = min(retry.delay * 2**doublings, retry.max_delay)
    at = now if run.stopped else min(run.ended or now, now) + pause
    following = next_slot(timing, run.due)
    if not timing.is_open(at) or (following is not None and at >= following.start):
        return None
    return Attempt(run.due, run.attempt if is_free else run.attempt + 1, at)


def urgency(
    now: datetime, *, due: datetime, newest: datetime | None, rpo: timedelta | None, name: str
) -> tuple[bool, float, datetime, str]:
    """Return a key that sorts first what is furthest behind its objective.

    What has never been backed up comes before everything. A source without an RPO is
    compared as if it had one of a day.
    """
    if newest is None:
        return (False, 0.0, due, name)
    return (True, -((now - newest) / (rpo or _USUAL_RPO)), due, name)


# --- what has come --------------------------------------------------------------------------


class _Come(NamedTuple):
    """The slots that have come: how many, whether that is all, the last two."""

    number: int
    exact: bool
    before: Slot | None
    last: Slot | None


def _come(timing: Timing, handled: datetime, now: datetime) -> _Come:
    first = list(islice(dues(timing.schedule, handled, now, zone=timing.zone), COUNTED + 1))
    if len(first) <= COUNTED:
        return _last_two(_fold(timing, first, now), exact=True)
    at_least = len(_fold(timing, first, now))
    back = _FIRST_LOOK_BACK
    while True:
        since = max(now - back, handled)
        slots = _fold(timing, dues(timing.schedule, since, now, zone=timing.zone), now)
        if len(slots) >= 2 or since == handled:
            found = _last_two(slots, exact=False)
            return found._replace(number=max(found.number, at_least))
        back *= 2


def _last_two(slots: list[Slot], *, exact: bool) -> _Come:
    before = slots[-2] if len(slots) > 1 else None
    return _Come(len(slots), exact, before, slots[-1] if slots else None)


def _fold(timing: Timing, moments: Iterable[datetime], now: datetime) -> list[Slot]:
    """Return the slots of these dues that have come, their starts rising."""
    last_by_opening = {timing.opening(due): due for due in moments}
    slots: list[Slot] = []
    for opening, due in last_by_opening.items():
        if opening > now or (start := timing.start(due)) > now:
            continue
        while slots and slots[-1].start >= start:
            slots.pop()
        slots.append(Slot(due, start))
    return slots


def _missed(come: _Come, *, with_last: bool) -> Missed | None:
    count = come.number if with_last else come.number - 1
    last = come.last if with_last else come.before
    return Missed(count, come.exact, last.due) if last is not None and count > 0 else None


def _plan_again(
    timing: Timing, now: datetime, again: Attempt | None, next_start: datetime | None
) -> Plan:
    if again is None:
        return Plan(wake=next_start, following=next_start)
    if again.at > now:
        return Plan(wake=_earliest(again.at, next_start), following=next_start)
    if not timing.is_open(now):
        return Plan(given_up=True, wake=next_start, following=next_start)
    return Plan(
        start=Start(again.due, Trigger.RETRY, again.number),
        wake=_earliest(timing.closes(now), next_start),
        following=next_start,
    )


def _earliest(*moments: datetime | None) -> datetime | None:
    return min((moment for moment in moments if moment is not None), default=None)
