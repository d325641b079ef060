# SPDX-License-Identifier: Apache-2.0
"""`snapvault status`: how every source stands, and what needs a hand."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from snapvault.cli.session import Session, session
from snapvault.cli.words import local, table
from snapvault.errors import EXIT_DONE, ObjectiveMissedError
from snapvault.units import format_duration, format_size

if TYPE_CHECKING:
    from snapvault.daemon.web.views import Row
    from snapvault.daemon.web.words import Times
    from snapvault.model.runs import Run
    from snapvault.model.status import SourceStatus, Status

_NONE = "-"


def command(context: typer.Context) -> int:
    """Show how each source stands against its objectives, and what needs attention.

    The same as on the daemon's status page: restore points and their age, what runs and what
    runs next, alarms and the last failures with what to do. Asks no vault: what is
    shown is what this host knows of its restore points.

    The exit status is 17 if an operator must act: an alarm is up, a policy is wrong,
    or the catalog of a vault cannot be read. With --json the report has all that is shown.

    Examples:
      snapvault status
      snapvault status --json | jq '.alarms'
    """
    from snapvault.cli.status_document import status_document
    from snapvault.config.policies import read_policies
    from snapvault.wiring import status as statuses

    run = session(context)
    policies, problems = read_policies(run.settings)
    status = statuses.of_host(run.settings, policies, [str(problem) for problem in problems])
    if run.json:
        run.report(status_document(status), ())
    else:
        _print(run, status)
    vault_problems = [vault for vault in status.vaults if vault.problem]
    needs_attention = status.alarms or status.problems or vault_problems
    return ObjectiveMissedError.exit_status if needs_attention else EXIT_DONE


def _print(run: Session, status: "Status") -> None:
    from snapvault.config.zones import local_zone
    from snapvault.daemon.web import views
    from snapvault.daemon.web.words import Times

    times = Times(status.at, local_zone())
    rows = [views.row(source) for source in status.sources]
    headline = views.headline(status, rows).text if rows else "No policy names a source"
    lines = [f"{headline[0].lower()}{headline[1:]} on {status.host}, {local(status.at)}"]
    if status.daemon_pid is None:
        lines.append("no daemon is at work")
    else:
        since = f", since {local(status.daemon_since)}" if status.daemon_since else ""
        lines.append(f"the daemon is process {status.daemon_pid}{since}")
    if rows:
        several = len(status.vaults) > 1
        lines += ["", *_sources(rows, times, with_vault=several)]
    lines += ["", *_vaults(status)]
    lines += _alarms(status, times)
    lines += _failures(status, times)
    run.report(None, lines)
    for problem in status.problems:
        run.console.warning(problem)
    for vault in status.vaults:
        if vault.problem:
            run.console.warning(f'vault "{vault.name}": {vault.problem}')


def _sources(rows: "list[Row]", times: "Times", *, with_vault: bool) -> list[str]:
    return table(
        ["SOURCE", "POLICY", "STATE", "NEWEST POINT", "AGE", "RPO", "LAST RUN", "NEXT RUN"],
        [
            [
                str(row.source.key) if with_vault else row.source.key.source,
                row.source.policy,
                _state(row.source, row.word),
                times.short(row.source.newest.taken_at) if row.source.newest else _NONE,
                _span(row.source.verdict.age),
                _span(row.source.rpo.total_seconds() if row.source.rpo else None),
                _last(row.source.last, times),
                _next(row.source, times),
            ]
            for row in rows
        ],
        right="AGE RPO",
    )


def _state(source: "SourceStatus", word: str) -> str:
    """Return how a source stands, and how far a run is that is at work."""
    if source.running is None:
        return word
    progress = source.progress
    done = ""
    if progress is not None and progress.total:
        done = f" {min(100, progress.done * 100 // progress.total)} %"
    elif progress is not None:
        done = f" {format_size(progress.done)}"
    return f"{word}, running{done}"


def _span(seconds: float | None) -> str:
    return _NONE if seconds is None else format_duration(seconds)


def _last(run: "Run | None", times: "Times") -> str:
    if run is None:
        return _NONE
    took = f", took {format_duration(run.seconds)}" if run.seconds is not None else ""
    return f"{run.state} {times.ago(run.started)}{took}"


def _next(source: "SourceStatus", times: "Times") -> str:
    moments = [each for each in (source.next_start, source.retry_at) if each is not None]
    if not moments:
        return "by hand"
    first = min(moments)
    again = ", again" if first == source.retry_at else ""
    return f"{times.short(first)}{again}"


def _vaults(status: "Status") -> list[str]:
    return table(
        ["VAULT", "STORE", "POINTS", "STORED"],
        [
            [vault.name, vault.store, f"{vault.points:,}", format_size(vault.stored)]
            for vault in status.vaults
        ],
        right="POINTS STORED",
    )


def _alarms(status: "Status", times: "Times") -> Iterator[str]:
    if status.alarms:
        yield from ("", "alarms:")
    for alarm in status.alarms:
        yield f"  {alarm.subject}: {alarm.message}, since {times.short(alarm.raised)}"
        if alarm.hint:
            yield f"    hint: {alarm.hint}"


def _failures(status: "Status", times: "Times") -> Iterator[str]:
    if status.failures:
        yield from ("", "last failures:")
    for run in status.failures[:5]:
        about = f"  {run.key}, {times.short(run.started)}"
        if run.failure is None:
            count = f"{run.missed} times" if run.missed > 1 else "once"
            yield f"{about}: {run.state} {count}"
            continue
        yield f"{about}: {run.failure.message}"
        if run.failure.hint:
            yield f"    hint: {run.failure.hint}"
        yield f"    run: {run.id}"
