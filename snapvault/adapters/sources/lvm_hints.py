# SPDX-License-Identifier: Apache-2.0
"""What a thin pool tells of new snapshots: holes, and changes since the ones that were kept."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from snapvault.adapters.sources import lvm_mapper, lvm_thin
from snapvault.adapters.sources.lvm_commands import Volume
from snapvault.adapters.sources.lvm_plan import Plan
from snapvault.adapters.sources.lvm_thin import Pool
from snapvault.adapters.sources.thin_ranges import Ranges
from snapvault.errors import SourceError
from snapvault.ports.events import Events
from snapvault.ports.source import Changes, Trust

LOST = "hint.lost"  # the event for a stream that is read as a whole, and should not be


@dataclass(frozen=True, slots=True)
class Hint:
    """What is known of a stream; None: nothing, it is read as a whole.

    `can_mark`: the next run may ask for changes since this snapshot.
    """

    mapped: Ranges | None = None
    changes: Changes | None = None
    can_mark: bool = False


@dataclass(frozen=True, slots=True)
class _Question:
    """A new snapshot, by its number in its pool, and the older one to compare it with, if any."""

    plan: Plan
    pool: Pool
    thin_id: int
    older: int | None


def find_hints(
    plans: Sequence[Plan],
    snapshots: Mapping[str, Volume],
    kept: Mapping[str, Volume],
    marks: Mapping[str, str],
    events: Events,
) -> dict[str, Hint]:
    """Ask every pool once about all its new snapshots; what it cannot answer is warned of.

    `snapshots` are active. Only streams with a hint are in the result.
    """
    thin = [plan for plan in plans if plan.is_thin]
    if not thin:
        return {}
    try:
        lvm_thin.require_tool()
    except SourceError as error:
        for plan in thin:
            _warn(events, plan, error)
        return {}
    hints: dict[str, Hint] = {}
    questions: dict[str, list[_Question]] = defaultdict(list)
    for plan in thin:
        try:
            snapshot = snapshots[plan.stream]
            question = _question(plan, snapshot, comparable(plan, kept, marks, events))
        except SourceError as error:
            _warn(events, plan, error)
        else:
            # Also if the pool does not answer today: it may tomorrow.
            hints[plan.stream] = Hint(can_mark=True)
            questions[question.pool.volume.uuid].append(question)
    for asked in questions.values():
        hints |= _ask(asked, events)
    return hints


def _ask(questions: Sequence[_Question], events: Events) -> dict[str, Hint]:
    """Put all questions to one pool."""
    answers: dict[str, Hint] = {}
    try:
        with lvm_thin.reserved(questions[0].pool):
            for question in questions:
                try:
                    answers[question.plan.stream] = _answer(question)
                except SourceError as error:
                    _warn(events, question.plan, error)
    except SourceError as error:
        for question in questions:
            _warn(events, question.plan, error)
    return answers


def _answer(question: _Question) -> Hint:
    older = question.thin_id if question.older is None else question.older
    size = question.plan.origin.size
    delta = lvm_thin.read_delta(question.pool, older, question.thin_id, size)
    changes = None
    if question.older is not None:
        grain = question.pool.volume.chunk_size
        changes = Changes(delta.changed, grain, Trust.COMPARED, lvm_thin.TOOL)
    return Hint(delta.mapped, changes, can_mark=True)


def _question(plan: Plan, snapshot: Volume, older: Volume | None) -> _Question:
    if snapshot.device is None or plan.pool is None or plan.metadata is None:
        raise SourceError("its snapshot is not active")
    thin = lvm_mapper.read_thin(snapshot.device)
    if thin.has_external_origin:
        raise SourceError("it has an external origin, and what it does not hold may be in that")
    pool = Pool(plan.pool, thin.pool, plan.metadata.path)
    return _Question(plan, pool, thin.thin_id, None if older is None else older.thin_id)


def comparable(
    plan: Plan, kept: Mapping[str, Volume], marks: Mapping[str, str], events: Events
) -> Volume | None:
    """Return the kept snapshot if what is new can be compared with it; else say why not."""
    if plan.stream not in marks:
        return None
    older = kept.get(plan.stream)
    if older is None:
        _warn(events, plan, SourceError("the snapshot of the last restore point is gone"))
    elif older.pool != plan.origin.pool:
        _warn(
            events, plan, SourceError("the snapshot of the last restore point is in another pool")
        )
    elif older.size != plan.origin.size:
        _warn(events, plan, SourceError("it was resized since the last restore point"))
    else:
        return older
    return None


def _warn(events: Events, plan: Plan, reason: SourceError) -> None:
    message = f'logical volume "{plan.origin.full_name}" is read as a whole: {reason}'
    if reason.hint:
        message += f"; {reason.hint}"
    events.warn(LOST, message, stream=plan.stream, volume=plan.origin.full_name)
