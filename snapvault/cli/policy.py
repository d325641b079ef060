# SPDX-License-Identifier: Apache-2.0
"""`snapvault policy`: check and show what is backed up, when, and for how long it is kept."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapvault.cli.console import one_line
from snapvault.cli.failures import Outcomes, show_problems
from snapvault.cli.session import session
from snapvault.cli.words import table
from snapvault.errors import EXIT_DONE, ConfigError
from snapvault.units import format_count

if TYPE_CHECKING:
    from snapvault.config.problems import Problem
    from snapvault.model.policy import Policy


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


def list_policies(context: typer.Context) -> int:
    """List the policies with their vaults, schedules and sources.

    Those that are wrong are left out, stderr says what is wrong with them, and the exit status
    is 3; it is 10 if none is right.

    Example:
      snapvault policy list
    """
    from snapvault.cli.policy_words import policy_document, schedule_words
    from snapvault.config.policies import read_policies

    run = session(context)
    policies, problems = read_policies(run.settings)
    outcomes = Outcomes(done=len(policies), errors=show_problems(problems))
    if not policies and not run.json:
        if not problems:
            run.console.note(f'folder "{run.settings.policies_dir}" has no policies')
        return outcomes.status
    rows = [
        [
            policy.name,
            policy.vault,
            schedule_words(policy.schedule) if policy.enabled else "disabled",
            ", ".join(source.name for source in policy.sources),
        ]
        for policy in policies
    ]
    run.report(
        [policy_document(policy, run.settings) for policy in policies],
        table(["POLICY", "VAULT", "RUNS", "SOURCES"], rows),
    )
    return outcomes.status


def show(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The policy: its file's name without the ending.")
    ],
) -> None:
    """Show what a policy comes to, in plain words, and when it runs next.

    Times are in the policy's own time zone, in JSON in UTC. Values of environment variables
    are left out. What is wrong with other policies is said on stderr.

    Example:
      snapvault policy show nightly
    """
    from snapvault.cli.policy_words import policy_document, policy_lines
    from snapvault.config.policies import read_policies
    from snapvault.config.problems import ProblemError, nearest_hint, quoted

    run = session(context)
    found, problems = read_policies(run.settings)
    policies = {policy.name: policy for policy in found}
    named = [
        problem
        for problem in problems
        if problem.path.stem == name or problem.path == run.settings.policies_dir
    ]
    if name not in policies and named:
        show_problems(named[:-1])
        raise ProblemError(named[-1])
    show_problems(problems)
    if name not in policies:
        raise ConfigError(
            f"there is no policy {quoted(name)}",
            hint=nearest_hint(name, policies, what="policies"),
        )
    policy = policies[name]
    lines, documents = _next_runs(policy)
    run.report(
        {**policy_document(policy, run.settings), "next_runs": documents},
        policy_lines(policy, run.settings, lines),
    )


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


def _next_runs(policy: "Policy") -> tuple[list[str], list[dict[str, Any]]]:
    """Return when a policy runs next, for people and for JSON."""
    if policy.schedule is None:
        return ["none by itself"], []
    if not policy.enabled:
        return ["none while it is disabled"], []
    from snapvault import clock
    from snapvault.cli.upcoming import upcoming, upcoming_document, upcoming_line
    from snapvault.config.zones import zone_named

    zone = zone_named(policy.schedule.timezone)
    runs = upcoming(policy.schedule, clock.now(), zone=zone)
    lines = [upcoming_line(run, zone) for run in runs] or ["never"]
    return lines, [upcoming_document(run) for run in runs]
