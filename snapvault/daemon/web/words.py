# SPDX-License-Identifier: Apache-2.0
"""Moments, sizes and states in the words of the status page."""

from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo
from typing import Final

from snapvault import clock
from snapvault.model import drills, objectives
from snapvault.model.prunes import PruneState, PruneSummary
from snapvault.model.runs import Run, RunState, Trigger
from snapvault.model.verifies import VerifySummary
from snapvault.units import format_count, format_duration, format_size

# What an alarm is about: as the title of a group, and next to a source's name.
_ALARMS: Final[Mapping[str, tuple[str, str]]] = {
    objectives.RPO: ("Restore point too old", "restore point too old"),
    objectives.NEVER: ("Never backed up", "never backed up"),
    objectives.SMALL: ("Suspiciously small", "suspiciously small"),
    objectives.DRILL: ("Drill overdue", "drill overdue"),
    objectives.DRILL_FAILED: ("Drill failed", "drill failed"),
    objectives.RTO: ("Recovery too slow", "recovery too slow"),
    objectives.FUTURE: ("Dated in the future", "dated in the future"),
    objectives.FAILED: ("Failing", "failing"),
    objectives.MISSED: ("Missed", "missed"),
    objectives.DAMAGED: ("Damage found by a verify", "damaged"),
    objectives.UNPRUNED: ("Not pruned", "not pruned"),
    objectives.UNCOPIED: ("Copy behind", "copy behind"),
    objectives.TROUBLED: ("Vault not as it was left", "not as it was left"),
    objectives.POLICY: ("Broken policy", "broken policy"),
    objectives.EMPTY: ("Policy without sources", "without sources"),
    objectives.DAEMON: ("Daemon", "daemon"),
}
RUN_STATES: Final[Mapping[RunState, str]] = {
    RunState.RUNNING: "running",
    RunState.SUCCEEDED: "succeeded",
    RunState.FAILED: "failed",
    RunState.INTERRUPTED: "was interrupted",
    RunState.MISSED: "was missed",
}
TRIGGERS: Final[Mapping[Trigger, str]] = {
    Trigger.SCHEDULE: "its schedule",
    Trigger.CATCH_UP: "catching up on a missed run",
    Trigger.RETRY: "trying again after a failure",
    Trigger.MANUAL: "a person",
}
CONSISTENCY: Final[Mapping[str, str]] = {
    "none": "may have changed while it was read",
    "crash": "crash-consistent",
    "file-system": "file systems frozen",
    "application": "application-consistent",
}
VERDICTS: Final[Mapping[drills.Verdict, str]] = {
    drills.Verdict.PASSED: "passed",
    drills.Verdict.FAILED: "failed",
    drills.Verdict.SKIPPED: "was skipped",
}
_COUNTERS: Final[Mapping[str, str]] = {
    "read_bytes": "Read",
    "changed_bytes": "Changed",
    "deduplicated_bytes": "Already there",
    "stored_bytes": "Stored",
    "sampled_bytes": "Sampled",
    "new_volumes": "New volumes",
}


def alarm_title(kind: str) -> str:
    """Return what a group of alarms is called."""
    return _ALARMS[kind][0] if kind in _ALARMS else _plain(kind).capitalize()


def alarm_word(kind: str) -> str:
    """Return what is said of a source with such an alarm."""
    return _ALARMS[kind][1] if kind in _ALARMS else _plain(kind)


def counter_title(name: str) -> str:
    """Return what a counter of a run is called."""
    if name in _COUNTERS:
        return _COUNTERS[name]
    return _plain(name.removesuffix("_bytes")).capitalize()


def run_state(run: Run) -> str:
    """Return what became of a run: `failed`, `was missed 3 times`."""
    word = RUN_STATES[run.state]
    return f"{word} {run.missed} times" if run.missed > 1 else word


def verify_result(verify: VerifySummary) -> str:
    """Return what a verify came to: `nothing is wrong, in a sample of 10 %`."""
    said = format_count(verify.findings, "finding") if verify.findings else "nothing is wrong"
    sample = f", in a sample of {verify.share:g} %" if verify.share < 100 else ""
    part = f", source {verify.source} alone" if verify.source is not None else ""
    return f"{said}{sample}{part}"


def prune_result(prune: PruneSummary) -> str:
    """Return what a prune came to: `removed 1 restore point and 12 objects (1.5 GiB)`."""
    first = f": {prune.reasons[0]}" if prune.reasons else ""
    if prune.state is not PruneState.DONE:
        return f"{prune.state.value}{first}"
    points = format_count(prune.removed, "restore point")
    objects = format_count(prune.deleted, "object")
    return f"removed {points} and {objects} ({format_size(prune.deleted_bytes)})"


def measured(seconds: float | None, promised: timedelta | None) -> str | None:
    """Write what a drill measured beside its objective: `4m 10s of 30m`; None: nothing was."""
    if seconds is None:
        return None
    said = format_duration(max(seconds, 0))
    return said if promised is None else f"{said} of {format_duration(promised)}"


def _plain(name: str) -> str:
    return name.replace("-", " ").replace("_", " ")


class Times:
    """Moments as told to somebody who looks at `now`, in a zone."""

    def __init__(self, now: datetime, zone: tzinfo) -> None:
        self.now = now
        self.zone = zone

    def ago(self, moment: datetime) -> str:
        """Write how long ago a moment was, or how far away it is."""
        seconds = (self.now - moment).total_seconds()
        if seconds < 0:
            return self.until(moment)
        return "just now" if seconds < 60 else f"{_coarse(seconds)} ago"

    def until(self, moment: datetime) -> str:
        """Write how far away a moment is; one that has come is due now."""
        seconds = (moment - self.now).total_seconds()
        return "due now" if seconds < 30 else f"in {_coarse(seconds)}"

    def since(self, moment: datetime) -> str:
        """Write how long something has lasted."""
        return format_duration(max(self.now - moment, timedelta(0)))

    def full(self, moment: datetime) -> str:
        """Write a moment to the second: `2026-11-20 03:00:10 CET`."""
        return f"{clock.in_zone(moment, self.zone):%Y-%m-%d %H:%M:%S %Z}"

    def short(self, moment: datetime) -> str:
        """Write a moment for a list: `today 03:00`, `Fri 03:00`, `20 Oct 03:00`."""
        local = clock.in_zone(moment, self.zone)
        days = (local.date() - clock.in_zone(self.now, self.zone).date()).days
        named = {-1: "yesterday", 0: "today", 1: "tomorrow"}
        if days in named:
            return f"{named[days]} {local:%H:%M}"
        if 0 < days < 7:
            return f"{local:%a %H:%M}"
        return f"{local.day} {local:%b %H:%M}" if abs(days) < 300 else f"{local:%Y-%m-%d}"

    def second(self, moment: datetime) -> str:
        """Write a time of day to the second, for a log."""
        return f"{clock.in_zone(moment, self.zone):%H:%M:%S}"


def _coarse(seconds: float) -> str:
    """Write a duration without seconds, and past a week without hours."""
    if seconds >= 7 * 86400:
        return f"{round(seconds / 86400)}d"
    return format_duration(max(60, round(seconds / 60) * 60))
