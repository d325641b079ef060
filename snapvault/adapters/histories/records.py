# SPDX-License-Identifier: Apache-2.0
"""Runs as JSON texts."""

import json
from datetime import datetime
from typing import Any

from snapvault import clock
from snapvault.model.runs import Failure, Run, RunState, SourceKey, Trigger


def encode(run: Run) -> str:
    """Write a run; equal runs give equal texts."""
    failure = run.failure
    document = {
        "id": run.id,
        "vault": run.key.vault,
        "source": run.key.source,
        "policy": run.policy,
        "state": run.state.value,
        "trigger": run.trigger.value,
        "started": clock.to_text(run.started),
        "due": _written(run.due),
        "ended": _written(run.ended),
        "attempt": run.attempt,
        "missed": run.missed,
        "reason": run.reason,
        "pid": run.pid,
        "born": run.born,
        "stopped": run.stopped,
        "point": run.point,
        "taken_at": _written(run.taken_at),
        "size": run.size,
        "counters": dict(run.counters),
        "failure": failure
        and {
            "message": failure.message,
            "hint": failure.hint,
            "exit_status": failure.exit_status,
            "retryable": failure.retryable,
        },
    }
    return json.dumps(document, sort_keys=True)


def decode(text: str) -> Run:
    """Read a run that `encode` wrote.

    Raises:
        ValueError: the text is anything else.
    """
    try:
        document = json.loads(text)
        failure = document["failure"]
        return Run(
            id=document["id"],
            key=SourceKey(document["vault"], document["source"]),
            policy=document["policy"],
            state=RunState(document["state"]),
            trigger=Trigger(document["trigger"]),
            started=clock.from_text(document["started"]),
            due=_read(document["due"]),
            ended=_read(document["ended"]),
            attempt=document["attempt"],
            missed=document["missed"],
            reason=document.get("reason"),  # what earlier releases wrote has none of these three
            pid=document["pid"],
            born=document.get("born"),
            stopped=document.get("stopped", False),
            point=document["point"],
            taken_at=_read(document["taken_at"]),
            size=document["size"],
            counters=document["counters"],
            failure=failure and Failure(**failure),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a run: {error}") from error


def _written(moment: datetime | None) -> str | None:
    return None if moment is None else clock.to_text(moment)


def _read(text: Any) -> datetime | None:
    return None if text is None else clock.from_text(text)
