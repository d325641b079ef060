# SPDX-License-Identifier: Apache-2.0
"""Runs and the status as programs read them; the keys are the same everywhere."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from snapvault import clock

if TYPE_CHECKING:
    from snapvault.model.copies import CopyStatus
    from snapvault.model.drills import DrillSummary
    from snapvault.model.notices import NotifierStanding
    from snapvault.model.prunes import PruneSummary
    from snapvault.model.runs import Alarm, PointSummary, Run
    from snapvault.model.status import SourceStatus, Status
    from snapvault.model.usage import Usage
    from snapvault.model.verifies import VerifySummary


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
                "requests": vault.requests,
                "usage": {verb: usage_document(usage) for verb, usage in vault.usage.items()},
                "verifies": [_verify(verify) for verify in vault.verifies],
                "pruned_at": _time(vault.pruned_at),
                "last_prune": vault.prune and _prune(vault.prune),
                "copy": vault.copy and _copy(vault.copy),
                "problem": vault.problem,
            }
            for vault in status.vaults
        ],
        "runs": [run_document(run) for run in status.runs],
        "failures": [run_document(run) for run in status.failures],
        "drills": [_drill(drill) for drill in status.drills],
        "notifiers": [_notifier(each) for each in status.notifiers],
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
        "reason": run.reason,
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


def usage_document(usage: "Usage") -> dict[str, int]:
    """Return what was asked of a store; the keys are those of a run's counters."""
    return usage.counters()


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
        "rto_seconds": source.rto.total_seconds() if source.rto else None,
        "last_drill": source.drill and _drill(source.drill),
        "last_good_drill": source.good_drill and _drill(source.good_drill),
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


def _verify(verify: "VerifySummary") -> dict[str, Any]:
    return {
        "id": verify.id,
        "source": verify.source,
        "level": verify.level,
        "sample_percent": verify.share,
        "ended": _time(verify.ended),
        "seconds": round(verify.seconds, 3),
        "points": verify.points,
        "findings": verify.findings,
        "message": verify.message,
        "requests": verify.requests,
        "usage": usage_document(verify.usage),
    }


def _copy(copy: "CopyStatus") -> dict[str, Any]:
    note = copy.note
    return {
        "of": copy.of,
        "behind_points": copy.behind.points,
        "behind_since": _time(copy.behind.since),
        "copied_at": _time(note.copied_at if note else None),
        "failures": note.failures if note else 0,
        "message": note.message if note else None,
    }


def _prune(prune: "PruneSummary") -> dict[str, Any]:
    return {
        "id": prune.id,
        "ended": _time(prune.ended),
        "seconds": round(prune.seconds, 3),
        "state": prune.state.value,
        "removed_points": prune.removed,
        "deleted": {"objects": prune.deleted, "bytes": prune.deleted_bytes},
        "waiting": {"objects": prune.waiting, "bytes": prune.waiting_bytes},
        "orphans": {"objects": prune.orphans, "bytes": prune.orphan_bytes},
        "reasons": list(prune.reasons),
        "hint": prune.hint,
    }


def _drill(drill: "DrillSummary") -> dict[str, Any]:
    return {
        "id": drill.id,
        "vault": drill.key.vault,
        "source": drill.key.source,
        "kind": drill.kind,
        "point": drill.point,
        "ended": _time(drill.ended),
        "verdict": drill.verdict.value,
        "ready_seconds": drill.seconds_to_ready,
        "age_seconds": drill.age,
        "reason": drill.reason,
    }


def _notifier(standing: "NotifierStanding") -> dict[str, Any]:
    return {
        "name": standing.name,
        "up": standing.is_up,
        "delivered_at": _time(standing.delivered_at),
        "failed_at": _time(standing.failed_at),
        "problem": standing.problem,
        "delivered": standing.delivered,
        "failures": standing.failures,
        "lost": standing.lost,
        "dropped": standing.dropped,
        "waiting": standing.waiting,
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
