# SPDX-License-Identifier: Apache-2.0
"""A policy in plain words, and as values for JSON."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Final

from snapvault.cli.kinds import source_document, source_lines
from snapvault.cli.rehearsal_words import drill_document, drill_lines
from snapvault.model.notices import Wish
from snapvault.model.policy import (
    Hints,
    Limits,
    Objectives,
    Policy,
    Retention,
    Retry,
    Rewriting,
    Schedule,
)
from snapvault.model.settings import HostLimits, NotifierSettings, PingSettings, Settings
from snapvault.units import format_count, format_duration, format_size

_RULES: Final = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_WIDTH: Final = 14


def policy_lines(policy: Policy, settings: Settings, next_runs: Sequence[str]) -> list[str]:
    """Say what a policy comes to; `next_runs` says when it runs, a line each."""
    lines = [
        f'policy "{policy.name}" in file "{policy.path}"'
        + ("" if policy.enabled else ", which is disabled")
    ]
    for label, said in (
        ("vault", [policy.vault]),
        ("runs", [schedule_words(policy.schedule), *_schedule_details(policy)]),
        ("next runs", next_runs),
        ("keeps", [_retention(policy.retention)]),
        ("copies", _copies(policy)),
        ("RPO", [_span(policy.objectives.rpo, "the newest restore point is at most {} old")]),
        ("RTO", [_span(policy.objectives.rto, "a restore takes at most {}")]),
        ("drills", [_span(policy.objectives.drill, "the newest that went well is at most {} old")]),
        ("rehearses", _drill(policy)),
        ("suspicious", [_suspicious(policy.objectives)]),
        ("retries", [_retry(policy)]),
        ("limits", [*_limits(policy.limits, settings.limits), *_together(settings.limits)]),
        ("tells", list(_told(policy, settings)) or ["nobody"]),
        ("volumes", [_volumes(policy)]),
        ("samples", list(_hints(policy.hints))),
        ("rewrites", [_rewriting(policy.rewriting)]),
    ):
        lines += [
            f"  {(label if position == 0 else ''):<{_WIDTH}}{text}"
            for position, text in enumerate(said)
        ]
    for source in policy.sources:
        lines += source_lines(source)
    return lines


def policy_document(policy: Policy, settings: Settings) -> dict[str, Any]:
    """Return a policy as programs read it; of environment variables the names alone."""
    schedule, retention, objectives = policy.schedule, policy.retention, policy.objectives
    return {
        "name": policy.name,
        "file": str(policy.path),
        "vault": policy.vault,
        "enabled": policy.enabled,
        "schedule": _schedule_document(schedule),
        "objectives": {
            "rpo_seconds": _seconds(objectives.rpo),
            "rto_seconds": _seconds(objectives.rto),
            "drill_seconds": _seconds(objectives.drill),
            "min_size_bytes": objectives.min_size,
            "min_size_percent": objectives.min_size_percent,
        },
        "retention": _retention_document(retention),
        "copy_to": list(policy.copy_to),
        "copy_retention": _retention_document(policy.copy_retention),
        "max_jobs": policy.max_jobs,
        "retry": {
            "attempts": policy.retry.attempts,
            "delay_seconds": _seconds(policy.retry.delay),
            "max_delay_seconds": _seconds(policy.retry.max_delay),
        },
        "limits": {
            "upload_bytes_per_second": policy.limits.upload,
            "read_bytes_per_second": policy.limits.read,
            "nice": _nice(policy.limits, settings.limits),
            "io": _io(policy.limits, settings.limits),
        },
        "notify": [notifier.name for notifier in _notifiers(policy, settings)],
        "volume_size_bytes": policy.volume_size,
        "compression_level": policy.compression_level,
        "fine_hashes_bytes": policy.fine_hashes,
        "hints": {
            "sample_percent": policy.hints.sample_percent,
            "full_read_every_seconds": _seconds(policy.hints.full_read_every),
        },
        "rewriting": {"budget_percent": policy.rewriting.budget_percent},
        "sources": [source_document(source) for source in policy.sources],
        "drill": None
        if policy.drill is None
        else {
            "schedule": _schedule_document(policy.drill.schedule),
            **drill_document(policy.drill),
        },
    }


def _schedule_document(schedule: Schedule | None) -> dict[str, Any] | None:
    if schedule is None:
        return None
    return {
        "cron": schedule.cron,
        "every_seconds": _seconds(schedule.every),
        "timezone": schedule.timezone,
        "jitter_seconds": _seconds(schedule.jitter),
        "catch_up": schedule.catch_up,
        "window": None
        if schedule.window is None
        else f"{schedule.window.start:%H:%M}-{schedule.window.end:%H:%M}",
    }


def schedule_words(schedule: Schedule | None) -> str:
    """Say on one line when a policy runs."""
    if schedule is None:
        return "only when asked"
    if schedule.every is not None:
        return f"every {format_duration(schedule.every)}"
    return f'cron "{schedule.cron}" ({schedule.timezone or "local time"})'


def rate_words(rate: int) -> str:
    """Write a rate in bytes per second, in the unit that needs the fewest digits."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if factor <= rate < 1000 * factor and rate % (factor // 10) == 0:
            return f"{rate / factor:g} {unit}/s"
    return f"{format_size(rate)}/s"


def _drill(policy: Policy) -> list[str]:
    if policy.drill is None:
        return []
    return [schedule_words(policy.drill.schedule), *drill_lines(policy.drill)]


def _span(duration: timedelta | None, sentence: str) -> str:
    return "not set" if duration is None else sentence.format(format_duration(duration))


def _schedule_details(policy: Policy) -> Iterator[str]:
    schedule = policy.schedule
    if schedule is not None:
        if schedule.window is not None:
            window = schedule.window
            yield f"starts between {window.start:%H:%M} and {window.end:%H:%M} only"
        if schedule.jitter:
            yield f"starts up to {format_duration(schedule.jitter)} later, by chance"
        yield "makes up once for a missed run" if schedule.catch_up else "skips a missed run"
    if policy.max_jobs is not None:
        yield f"backs up at most {format_count(policy.max_jobs, 'source')} at one time"


def _retention_document(retention: Retention | None) -> dict[str, Any] | None:
    if retention is None:
        return None
    return {
        **{rule: getattr(retention, rule) for rule in _RULES},
        "within_seconds": _seconds(retention.within),
    }


def _copies(policy: Policy) -> list[str]:
    if not policy.copy_to:
        return []
    kept = policy.copy_retention
    rules = "by the same rules" if kept is None else f"to keep {_retention(kept)}"
    return [f"to {', '.join(policy.copy_to)}, {rules}"]


def _retention(retention: Retention | None) -> str:
    if retention is None:
        return "everything"
    parts = [f"{getattr(retention, rule)} {rule}" for rule in _RULES if getattr(retention, rule)]
    if retention.within is not None:
        parts.append(f"everything of the last {format_duration(retention.within)}")
    return ", ".join(parts)


def _suspicious(objectives: Objectives) -> str:
    if objectives.min_size is not None:
        return f"a restore point of less than {format_size(objectives.min_size)}"
    if objectives.min_size_percent is not None:
        return f"a restore point of less than {objectives.min_size_percent:g}% of the one before"
    return "not set"


def _retry(policy: Policy) -> str:
    retry: Retry = policy.retry
    if policy.schedule is None or retry.attempts == 1:
        return "none"
    pauses = f"after {format_duration(retry.delay)}"
    if retry.attempts > 2 and retry.max_delay > retry.delay:
        pauses += f", then twice as long each time, up to {format_duration(retry.max_delay)}"
    inside = "" if policy.schedule.window is None else ", inside the window"
    times = "once" if retry.attempts == 2 else f"up to {retry.attempts - 1} times"
    return f"{times}, {pauses}{inside}"


def _limits(own: Limits, host: HostLimits) -> Iterator[str]:
    rates = [
        f"{verb} at most {rate_words(rate)}"
        for verb, rate in (("uploads", own.upload), ("reads", own.read))
        if rate is not None
    ]
    nice, io = _nice(own, host), _io(own, host)
    manners = [] if nice is None else [f"nice value {nice}"]
    manners += [] if io is None else [f"disk priority {io}"]
    said = [*rates, *([f"has {' and '.join(manners)}"] if manners else [])]
    yield f"each run {', '.join(said)}" if said else "none of its own"


def _together(host: HostLimits) -> Iterator[str]:
    if host.upload is not None:
        yield f"all runs of this host together upload at most {rate_words(host.upload)}"
    for span in host.uploads:
        rate = "without limit" if span.upload is None else f"at most {rate_words(span.upload)}"
        window = span.window
        yield (
            f"from {window.start:%H:%M} to {window.end:%H:%M} all runs of this host together"
            f" upload {rate}"
        )
    if host.read is not None:
        yield f"all runs of this host together read at most {rate_words(host.read)}"


def _nice(own: Limits, host: HostLimits) -> int | None:
    return host.each.nice if own.nice is None else own.nice


def _io(own: Limits, host: HostLimits) -> str | None:
    limits = host.each if own.io_class is None else own
    if limits.io_class is None or limits.io_level is None:
        return limits.io_class
    return f"{limits.io_class}:{limits.io_level}"


def _notifiers(policy: Policy, settings: Settings) -> list[NotifierSettings]:
    return [
        notifier
        for name, notifier in settings.notify.items()
        if policy.notify is None or name in policy.notify
    ]


def _told(policy: Policy, settings: Settings) -> Iterator[str]:
    for notifier in _notifiers(policy, settings):
        if isinstance(notifier.to, PingSettings):
            what = "every run"
        elif Wish.ALWAYS in notifier.on:
            what = "everything"
        else:
            what = ", ".join(wish for wish in Wish if wish in notifier.on)
        yield f"{notifier.name} of {what}"


def _volumes(policy: Policy) -> str:
    size = format_size(policy.volume_size)
    return f"{size} before compression, zstd level {policy.compression_level}"


def _hints(hints: Hints) -> Iterator[str]:
    again = (
        "never everything again"
        if hints.full_read_every is None
        else f"everything once the last full read is {format_duration(hints.full_read_every)} old"
    )
    yield f"{hints.sample_percent:g}% of what a platform says is unchanged,"
    yield f"and {again}"


def _rewriting(rewriting: Rewriting) -> str:
    if not rewriting.budget_percent:
        return "nothing: what is still needed of old volumes stays where it is"
    return f"at most {rewriting.budget_percent:g}% on top of what changes, so that old volumes go"


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else float(duration.total_seconds())
