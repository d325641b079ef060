# SPDX-License-Identifier: Apache-2.0
"""Runs and the status as programs read them; the keys are the same everywhere."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from snapvault import clock

if TYPE_CHECKING:
    from snapvault.model.runs import Alarm, PointSummary, Run
    from snapvault.model.status import SourceStatus, Status


def status_document(status: "Status") -> dict[str, Any]:
    """Return a status; times are UTC, sizes bytes."""
    return {
        "at": clock.to_text(status.at),
        "host": status.host,
        "version": status.version,
        "days": status.days,
        "daemon": None
        if status.daemon_pid is None
        else {"pid": status.daemon_pid, "since": _time(status.daemon_since)},
        "sources": [_source(source) for source in status.sources],
        "vaults": [
            {
                "name": vault.name,
                "store": vault.store,
                "points": vault.points,
                "stored_bytes": vault.stored,
                "problem": vault.problem,
            }
            for vault in status.vaults
        ],
        "runs": [run_document(run) for run in status.runs],
        "failures": [run_document(run) for run in status.failures],
        "alarms": [_alarm(alarm) for alarm in status.alarms],
        "problems": list(status.problems),
    }


def run_document(run: "Run") -> dict[str, Any]:
    """Return a run."""
    failure = run.failure
    return {
        "id": run.id,
        "vault": run.key.vault,
        "source": run.key.source,
        "policy": run.policy,
        "state": run.state.value,
        "trigger": run.trigger.value,
        "due": _time(run.due),
        "started": _time(run.started),
        "ended": _time(run.ended),
        "seconds": run.seconds,
        "attempt": run.attempt,
        "missed": run.missed,
        "point": run.point,
        "taken_at": _time(run.taken_at),
        "size_bytes": run.size,
        "counters": dict(run.counters),
        "error": failure
        and {
            "message": failure.message,
            "hint": failure.hint,
            "exit_status": failure.exit_status,
            "retryable": failure.retryable,
        },
    }


def _source(source: "SourceStatus") -> dict[str, Any]:
    verdict, progress = source.verdict, source.progress
    return {
        "vault": source.key.vault,
        "source": source.key.source,
        "policy": source.policy,
        "kinds": list(source.kinds),
        "enabled": source.enabled,
        "rpo": {
            "state": verdict.rpo.value,
            "seconds": source.rpo.total_seconds() if source.rpo else None,
            "age_seconds": verdict.age,
            "breach_at": _time(verdict.breach_at),
        },
        "newest": source.newest and _point(source.newest),
        "points": [_point(point) for point in source.points],
        "last_run": source.last and run_document(source.last),
        "last_success": source.success and run_document(source.success),
        "running": source.running and run_document(source.running),
        "progress": progress
        and {
            "label": progress.label,
            "done_bytes": progress.done,
            "total_bytes": progress.total,
            "at": _time(progress.at),
        },
        "retry_at": _time(source.retry_at),
        "next_start": _time(source.next_start),
        "alarms": [_alarm(alarm) for alarm in source.alarms],
    }


def _point(point: "PointSummary") -> dict[str, Any]:
    return {
        "id": point.point,
        "taken_at": _time(point.taken_at),
        "size_bytes": point.size,
        "stored_bytes": point.stored,
        "consistency": point.consistency,
    }


def _alarm(alarm: "Alarm") -> dict[str, Any]:
    return {
        "subject": alarm.subject,
        "kind": alarm.kind,
        "message": alarm.message,
        "hint": alarm.hint,
        "raised": _time(alarm.raised),
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else clock.to_text(moment)
