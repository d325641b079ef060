# SPDX-License-Identifier: Apache-2.0
"""Drills as entries of a history."""

import json
import sqlite3
from typing import Final

from snapvault import clock
from snapvault.adapters.database import UntrustedError
from snapvault.adapters.histories import entries
from snapvault.adapters.histories.entries import Entry
from snapvault.model.drills import DrillSummary, Verdict
from snapvault.model.runs import SourceKey

KIND: Final = "drill"

_WORST_FIRST: Final = (Verdict.FAILED, Verdict.SKIPPED, Verdict.PASSED)


def add(database: sqlite3.Connection, summary: DrillSummary) -> None:
    """Remember a drill, unless a worse one of its id and source is."""
    name = f"{summary.id} {summary.key}"
    known = entries.get(database, KIND, name)
    if known is not None and _rank(read(known)) < _rank(summary):
        return
    entries.put(
        database,
        Entry(KIND, name, str(summary.key), summary.verdict.value, summary.ended, written(summary)),
    )


def written(summary: DrillSummary) -> str:
    """Write a drill; equal drills give equal texts."""
    document = {
        "id": summary.id,
        "vault": summary.key.vault,
        "source": summary.key.source,
        "kind": summary.kind,
        "point": summary.point,
        "ended": clock.to_text(summary.ended),
        "verdict": summary.verdict.value,
        "seconds_to_ready": summary.seconds_to_ready,
        "age": summary.age,
        "reason": summary.reason,
    }
    return json.dumps(document, sort_keys=True)


def read(text: str) -> DrillSummary:
    """Read a drill that `written` wrote.

    Raises:
        UntrustedError: the text is anything else.
    """
    try:
        document = json.loads(text)
        return DrillSummary(
            id=document["id"],
            key=SourceKey(document["vault"], document["source"]),
            kind=document["kind"],
            point=document["point"],
            ended=clock.from_text(document["ended"]),
            verdict=Verdict(document["verdict"]),
            seconds_to_ready=document["seconds_to_ready"],
            age=document["age"],
            reason=document["reason"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UntrustedError(f"not a drill: {error}") from error


def _rank(summary: DrillSummary) -> int:
    return _WORST_FIRST.index(summary.verdict)
