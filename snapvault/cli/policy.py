# SPDX-License-Identifier: Apache-2.0
"""`snapvault policy`: check and show what is backed up, when, and for how long it is kept."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapvault.cli.console import one_line
from snapvault.cli.session import session
from snapvault.cli.words import table
from snapvault.errors import EXIT_DONE, ConfigError
from snapvault.units import format_count, format_duration, format_size

if TYPE_CHECKING:
    from snapvault.config.problems import Problem
    from snapvault.model.policy import Hints, Policy, Retention, Schedule

_RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


def check(context: typer.Context) -> int:
    """Check the settings and every policy, and say all that is wrong with them.

    Each problem is named with file, line and field. No vault and no source is touched;
    "snapvault doctor" looks at those. The exit status is 10 if anything is wrong.

    Example:
      snapvault policy check
    """
    from snapvault.config.policies import read_policies
    from snapvault.config.settings import check_settings

    run = session(context)
    problems = check_settings(run.config)
    policies: tuple[Policy, ...] = ()
    if not problems:
        policies, problems = read_policies(run.settings)
    for problem in problems:
        print(f"snapvault: {one_line(str(problem))}", file=sys.stderr)
        if problem.hint:
            print(f"hint: {problem.hint}", file=sys.stderr)
    sources = sum(len(policy.sources) for policy in policies)
    verdict = (
        f"the settings and {format_count(len(policies), 'policy', 'policies')} with "
        f"{format_count(sources, 'source')} are right"
    )
    run.report([_problem(problem) for problem in problems], [] if problems else [verdict])
    return ConfigError.exit_status if problems else EXIT_DONE


def list_policies(context: typer.Context) -> None:
    """List the policies with their vaults, schedules and sources.

    Example:
      snapvault policy list
    """
    from snapvault.config.policies import load_policies

    run = session(context)
    policies = load_policies(run.settings)
    if not policies and not run.json:
        run.console.note(f'folder "{run.settings.policies_dir}" has no policies')
        return
    rows = [
        [
            policy.name,
            policy.vault,
            _schedule(policy.schedule) if policy.enabled else "disabled",
            ", ".join(source.name for source in policy.sources),
        ]
        for policy in policies
    ]
    run.report(
        [_document(policy) for policy in policies],
        table(["POLICY", "VAULT", "RUNS", "SOURCES"], rows),
    )


def show(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The policy: its file's name without the ending.")
    ],
) -> None:
    """Show what a policy says, in plain words. Values of environment variables are left out.

    Example:
      snapvault policy show nightly
    """
    from snapvault.config.policies import load_policies
    from snapvault.config.problems import nearest_hint, quoted

    run = session(context)
    policies = {policy.name: policy for policy in load_policies(run.settings)}
    if name not in policies:
        raise ConfigError(
            f"there is no policy {quoted(name)}",
            hint=nearest_hint(name, policies, what="policies"),
        )
    run.report(_document(policies[name]), _lines(policies[name]))


def schema(context: typer.Context) -> None:
    """Print the JSON schema of a policy file, for editors that check while you type.

    Example:
      snapvault policy schema > policy.schema.json
    """
    import json

    from snapvault.config.policies import policy_schema

    session(context)
    print(json.dumps(policy_schema(), indent=2))


def _problem(problem: "Problem") -> dict[str, Any]:
    return {
        "file": str(problem.path),
        "line": problem.line,
        "column": problem.column,
        "field": problem.field,
        "message": problem.message,
        "hint": problem.hint,
    }


def _lines(policy: "Policy") -> list[str]:
    from snapvault.cli.kinds import source_lines

    objectives = policy.objectives
    lines = [
        f'policy "{policy.name}" in file "{policy.path}"'
        + ("" if policy.enabled else ", which is disabled"),
        f"  vault         {policy.vault}",
        f"  runs          {_schedule(policy.schedule)}",
        *(f"                {line}" for line in _schedule_details(policy.schedule)),
        f"  keeps         {_retention(policy.retention)}",
        f"  RPO           {_span(objectives.rpo, 'the newest restore point is at most {} old')}",
        f"  RTO           {_span(objectives.rto, 'a restore takes at most {}')}",
        (
            f"  volumes       {format_size(policy.volume_size)} before compression, "
            f"zstd level {policy.compression_level}"
        ),
    ]
    lines += _hints(policy.hints)
    for source in policy.sources:
        lines += source_lines(source)
    return lines


def _span(duration: Any, sentence: str) -> str:
    return "not set" if duration is None else sentence.format(format_duration(duration))


def _schedule(schedule: "Schedule | None") -> str:
    if schedule is None:
        return "only when asked"
    if schedule.every is not None:
        return f"every {format_duration(schedule.every)}"
    return f'cron "{schedule.cron}" ({schedule.timezone or "local time"})'


def _schedule_details(schedule: "Schedule | None") -> list[str]:
    if schedule is None:
        return []
    lines = []
    if schedule.window is not None:
        window = schedule.window
        lines.append(f"starts between {window.start:%H:%M} and {window.end:%H:%M} only")
    if schedule.jitter:
        lines.append(f"starts up to {format_duration(schedule.jitter)} later, by chance")
    if schedule.cron is not None:
        lines.append(
            "makes up once for a missed run" if schedule.catch_up else "skips a missed run"
        )
    return lines


def _retention(retention: "Retention | None") -> str:
    if retention is None:
        return "everything"
    parts = [f"{getattr(retention, rule)} {rule}" for rule in _RULES if getattr(retention, rule)]
    if retention.within is not None:
        parts.append(f"everything of the last {format_duration(retention.within)}")
    return ", ".join(parts)


def _hints(hints: "Hints") -> list[str]:
    again = (
        "never everything again"
        if hints.full_read_every is None
        else f"everything once the last full read is {format_duration(hints.full_read_every)} old"
    )
    return [
        f"  samples       {hints.sample_percent:g}% of what a platform says is unchanged,",
        f"                and {again}",
    ]


def _document(policy: "Policy") -> dict[str, Any]:
    from snapvault.cli.kinds import source_document

    schedule, retention, objectives = policy.schedule, policy.retention, policy.objectives
    return {
        "name": policy.name,
        "file": str(policy.path),
        "vault": policy.vault,
        "enabled": policy.enabled,
        "schedule": None
        if schedule is None
        else {
            "cron": schedule.cron,
            "every_seconds": _seconds(schedule.every),
            "timezone": schedule.timezone,
            "jitter_seconds": _seconds(schedule.jitter),
            "catch_up": schedule.catch_up,
            "window": None
            if schedule.window is None
            else f"{schedule.window.start:%H:%M}-{schedule.window.end:%H:%M}",
        },
        "objectives": {
            "rpo_seconds": _seconds(objectives.rpo),
            "rto_seconds": _seconds(objectives.rto),
        },
        "retention": None
        if retention is None
        else {
            **{rule: getattr(retention, rule) for rule in _RULES},
            "within_seconds": _seconds(retention.within),
        },
        "volume_size_bytes": policy.volume_size,
        "compression_level": policy.compression_level,
        "hints": {
            "sample_percent": policy.hints.sample_percent,
            "full_read_every_seconds": _seconds(policy.hints.full_read_every),
        },
        "sources": [source_document(source) for source in policy.sources],
    }


def _seconds(duration: Any) -> float | None:
    return None if duration is None else float(duration.total_seconds())
