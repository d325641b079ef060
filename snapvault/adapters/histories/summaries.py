# SPDX-License-Identifier: Apache-2.0
"""Drills, verifies, prunes and what a daemon leaves behind, as entries of a history."""

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from snapvault.adapters.histories import entries, plain, totals, usages
from snapvault.adapters.histories.entries import Entry
from snapvault.model.drills import DrillSummary, Verdict
from snapvault.model.notices import NotifierStanding
from snapvault.model.policy import Objectives
from snapvault.model.prunes import PruneState, PruneSummary
from snapvault.model.runs import SourceKey
from snapvault.model.status import Following, Watched
from snapvault.model.usage import NOTHING, Usage
from snapvault.model.verifies import VerifySummary

DRILL: Final = "drill"
VERIFY: Final = "verify"
PRUNE: Final = "prune"

_NOTIFIER: Final = "notifier"
_FOLLOWING: Final = "following"
_EXPIRY: Final = "expiry"
_ONE: Final = "daemon"
_NO_TIME: Final = datetime.min.replace(year=1970, tzinfo=UTC)
_WORST_FIRST: Final = (Verdict.FAILED, Verdict.SKIPPED, Verdict.PASSED)
_FOUND, _CLEAN, _SAMPLED = "findings", "clean", "sampled"


# --- drills ---------------------------------------------------------------------------------


def add_drill(database: sqlite3.Connection, summary: DrillSummary) -> None:
    """Remember a drill, unless a worse one of its id and source is."""
    name = f"{summary.id} {summary.key}"
    known = entries.get(database, DRILL, name)
    if known is not None and _rank(_drill(known)) < _rank(summary):
        return
    text = plain.written(summary)
    subject, state = str(summary.key), summary.verdict.value
    entries.put(database, Entry(DRILL, name, subject, state, summary.ended, text))


def drills(
    database: sqlite3.Connection, key: SourceKey | None, *, limit: int
) -> list[DrillSummary]:
    """Return drills, newest end first."""
    subject = None if key is None else str(key)
    return [_drill(text) for text in entries.listed(database, DRILL, subject=subject, limit=limit)]


def last_drills(
    database: sqlite3.Connection, verdict: Verdict | None
) -> Mapping[SourceKey, DrillSummary]:
    """Return each source's newest drill, or the newest that ended so."""
    state = None if verdict is None else verdict.value
    found = [_drill(text) for text in entries.newest(database, DRILL, state=state)]
    return {each.key: each for each in found}


def _drill(text: str) -> DrillSummary:
    return plain.read(text, DrillSummary, verdict=Verdict)


def _rank(summary: DrillSummary) -> int:
    return _WORST_FIRST.index(summary.verdict)


# --- verifies -------------------------------------------------------------------------------


def add_verify(database: sqlite3.Connection, summary: VerifySummary) -> None:
    """Remember a verify, and count its requests if it was not known."""
    known = entries.get(database, VERIFY, summary.id)
    before = None if known is None else _verify(known)
    totals.add(database, summary.vault, summary.requests - (before.requests if before else 0))
    usage = summary.usage - (before.usage if before else NOTHING)
    usages.add(database, summary.vault, VERIFY, usage, summary.ended)
    state = _FOUND if summary.findings else _CLEAN if summary.is_clean else _SAMPLED
    subject = f"{summary.vault}/{summary.level}/{summary.source or ''}"
    text = plain.written(summary)
    entries.put(database, Entry(VERIFY, summary.id, subject, state, summary.ended, text))


def verifies(database: sqlite3.Connection) -> list[VerifySummary]:
    """Return the newest verifies of each vault, level, choice of sources and end."""
    found = [
        _verify(text)
        for state in (_FOUND, _CLEAN, _SAMPLED)
        for text in entries.newest(database, VERIFY, state=state)
    ]
    return sorted(found, key=lambda each: (each.ended, each.id), reverse=True)


def _verify(text: str) -> VerifySummary:
    return plain.read(text, VerifySummary, usage=_usage)


def _usage(document: Mapping[str, Any]) -> Usage:
    return plain.build(document, Usage)


# --- prunes ---------------------------------------------------------------------------------


def add_prune(database: sqlite3.Connection, summary: PruneSummary) -> None:
    """Remember a prune."""
    text = plain.written(summary)
    state = summary.state.value
    entries.put(database, Entry(PRUNE, summary.id, summary.vault, state, summary.ended, text))


def prunes(database: sqlite3.Connection) -> list[PruneSummary]:
    """Return the newest prunes of each vault and end."""
    found = [
        plain.read(text, PruneSummary, state=PruneState, reasons=tuple)
        for state in PruneState
        for text in entries.newest(database, PRUNE, state=state.value)
    ]
    return sorted(found, key=lambda each: (each.ended, each.id), reverse=True)


# --- what a daemon leaves for others --------------------------------------------------------


def set_notifiers(database: sqlite3.Connection, standings: Sequence[NotifierStanding]) -> None:
    """Remember how notifiers stand, and no others."""
    entries.clear(database, _NOTIFIER)
    for each in standings:
        text = plain.written(each)
        entries.put(database, Entry(_NOTIFIER, each.name, each.name, "", _NO_TIME, text))


def notifiers(database: sqlite3.Connection) -> list[NotifierStanding]:
    """Return how notifiers stand, by name."""
    texts = entries.listed(database, _NOTIFIER)
    return sorted(
        (plain.read(text, NotifierStanding) for text in texts), key=lambda each: each.name
    )


def set_following(database: sqlite3.Connection, following: Following | None) -> None:
    """Remember what a scheduler goes by, or forget it."""
    entries.clear(database, _FOLLOWING)
    if following is not None:
        text = plain.written(following)
        entries.put(database, Entry(_FOLLOWING, _ONE, _ONE, "", _NO_TIME, text))


def following(database: sqlite3.Connection) -> Following | None:
    """Return what a scheduler goes by."""
    text = entries.get(database, _FOLLOWING, _ONE)
    return None if text is None else plain.read(text, Following, sources=_sources)


def _sources(documents: Sequence[Mapping[str, Any]]) -> tuple[Watched, ...]:
    return tuple(plain.build(each, Watched, objectives=_objectives) for each in documents)


def _objectives(document: Mapping[str, Any]) -> Objectives:
    return plain.build(document, Objectives)


# --- forgetting -----------------------------------------------------------------------------


def expire(database: sqlite3.Connection, before: str, now: datetime) -> None:
    """Forget what is from before a time and not the newest that ended so, and remember when."""
    for kind in (DRILL, VERIFY, PRUNE):
        entries.expire(database, kind, before)
    entries.put(database, Entry(_EXPIRY, _ONE, _ONE, "", now, plain.written(now)))


def expired(database: sqlite3.Connection) -> datetime | None:
    """Return when `expire` was called last."""
    text = entries.get(database, _EXPIRY, _ONE)
    return None if text is None else plain.moment(text)
