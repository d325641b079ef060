# SPDX-License-Identifier: Apache-2.0
"""`snapvault status`: how every source stands, and what needs a hand."""

import shutil
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import typer

from snapvault.cli.session import Session, session
from snapvault.cli.words import local, table
from snapvault.errors import EXIT_DONE, ObjectiveMissedError
from snapvault.model.usage import NOTHING
from snapvault.units import format_count, format_duration, format_size

if TYPE_CHECKING:
    from snapvault.daemon.web.views import Row
    from snapvault.daemon.web.words import Times
    from snapvault.model.runs import Run
    from snapvault.model.status import SourceStatus, Status

_NONE = "-"


def command(context: typer.Context) -> int:
    """Show how each source stands against its objectives, and what needs attention.

    The same as on the daemon's status page: restore points and their age, what runs and what
    runs next, the last verifies and drills, alarms and the last failures with what to do. Asks no
    vault: what is shown is what this host knows of its restore points.

    The exit status is 17 if an operator must act: an alarm is up, a policy is wrong, somebody
    cannot be told, or the catalog of a vault cannot be read. With --json the report has all that
    is shown.

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
    deaf = [each for each in status.notifiers if not each.is_up]
    needs_attention = status.alarms or status.problems or vault_problems or deaf
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
    lines += _verifies(status, times)
    lines += _copies(status, times)
    lines += _drills(status, times)
    lines += _notifiers(status, times)
    lines += _alarms(status, times)
    lines += _failures(status, times)
    run.report(None, lines)
    for problem in status.problems:
        run.console.warning(problem)
    for vault in status.vaults:
        if vault.problem:
            run.console.warning(f'vault "{vault.name}": {vault.problem}')


def _sources(rows: "list[Row]", times: "Times", *, with_vault: bool) -> list[str]:
    """Return the table of sources, without the columns that a narrow terminal has no room for."""
    columns: dict[str, Callable[[Row], str]] = {
        "SOURCE": lambda row: str(row.source.key) if with_vault else row.source.key.source,
        "POLICY": lambda row: row.source.policy,
        "STATE": lambda row: _state(row.source, row.word),
        "NEWEST POINT": lambda row: (
            times.short(row.source.newest.taken_at) if row.source.newest else _NONE
        ),
        "AGE": lambda row: _span(row.source.verdict.age),
        "RPO": lambda row: _span(row.source.rpo.total_seconds() if row.source.rpo else None),
        "LAST RUN": lambda row: _last(row.source.last, times),
        "NEXT RUN": lambda row: _next(row.source, times),
    }
    lines: list[str] = []
    for left_out in (None, "LAST RUN", "POLICY", "NEWEST POINT"):
        columns.pop(left_out or "", None)
        cells = [[text(row) for text in columns.values()] for row in rows]
        lines = table(list(columns), cells, right="AGE RPO")
        if max(map(len, lines)) <= _width():
            break
    return lines


def _width() -> int:
    """Return how long a line may be: as wide as the terminal is, and any length elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


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
        ["VAULT", "STORE", "POINTS", "STORED", "SENT", "FETCHED", "REQUESTS"],
        [
            [
                vault.name,
                vault.store,
                f"{vault.points:,}",
                format_size(vault.stored),
                format_size(usage.bytes_up) if usage else _NONE,
                format_size(usage.bytes_down) if usage else _NONE,
                f"{vault.requests:,}",
            ]
            for vault in status.vaults
            for usage in [sum(vault.usage.values(), NOTHING) if vault.usage else None]
        ],
        right="POINTS STORED SENT FETCHED REQUESTS",
    )


def _verifies(status: "Status", times: "Times") -> Iterator[str]:
    from snapvault.daemon.web.words import prune_result, verify_result

    if any(vault.verifies or vault.pruned_at or vault.prune for vault in status.vaults):
        yield from ("", "last verifies and prunes:")
    for vault in status.vaults:
        for verify in vault.verifies:
            said = verify_result(verify)
            yield f"  {vault.name}, {verify.level}, {times.short(verify.ended)}: {said}"
        if vault.prune:
            said = prune_result(vault.prune)
            yield f"  {vault.name}, prune, {times.short(vault.prune.ended)}: {said}"
        elif vault.pruned_at:
            yield f"  {vault.name}, pruned {times.short(vault.pruned_at)}"


def _copies(status: "Status", times: "Times") -> Iterator[str]:
    """Yield how each copy stands that policies ask for."""
    copies = [(vault.name, vault.copy) for vault in status.vaults if vault.copy]
    if copies:
        yield from ("", "copies:")
    for name, copy in copies:
        note, lacking = copy.note, copy.behind
        at = f", copied {times.short(note.copied_at)}" if note and note.copied_at else ""
        if lacking.since is None:
            yield f"  {name} has all that {copy.of} has{at}"
        else:
            count = format_count(lacking.points, "restore point")
            told = f": {note.message}" if note and note.message else ""
            since = f"from {times.short(lacking.since)} on"
            yield f"  {name} lacks {count} of {copy.of}, {since}{at}{told}"


def _drills(status: "Status", times: "Times") -> Iterator[str]:
    """Yield each source's last drill, those that did not pass first."""
    from snapvault.daemon.web import views
    from snapvault.daemon.web.words import VERDICTS, measured

    found = [views.drill_row(one.drill, one) for one in status.sources if one.drill is not None]
    if found:
        yield from ("", "last drills:")
    for row in sorted(found, key=lambda each: (each.lamp is views.Lamp.GOOD, each.drill.key)):
        drill = row.drill
        about = f"  {drill.key}, {times.short(drill.ended)}"
        yield f"{about}: {drill.kind} {VERDICTS[drill.verdict]}: {drill.reason}"
        ready = measured(drill.seconds_to_ready, row.rto)
        age = measured(drill.age, row.rpo)
        facts = [
            f"recovery time {ready}{' RTO' if row.rto else ''}" if ready else "",
            "longer than promised" if row.is_slow else "",
            f"recovery point {age}{' RPO' if row.rpo else ''}" if age else "",
            "older than promised" if row.is_old else "",
        ]
        if any(facts):
            yield f"    {', '.join(fact for fact in facts if fact)}"
        yield f"    report: {row.command}"


def _notifiers(status: "Status", times: "Times") -> Iterator[str]:
    if status.notifiers:
        yield from ("", "notifiers:")
    for each in status.notifiers:
        word = "can be told" if each.is_up else "cannot be told"
        if each.is_up and each.delivered_at is None:
            word = "nothing told yet"
        delivered = f"delivered {times.ago(each.delivered_at)}" if each.delivered_at else ""
        waiting = f"{format_count(each.waiting, 'notice')} waiting" if each.waiting else ""
        lost = each.lost + each.dropped
        gone = f"{format_count(lost, 'notice')} lost" if lost else ""
        parts = [f"{each.name}: {word}", delivered, waiting, gone]
        yield f"  {', '.join(part for part in parts if part)}"
        if each.failed_at:
            yield f"    last failure {times.ago(each.failed_at)}: {each.problem}"


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
            reason = f": {run.reason}" if run.reason else ""
            yield f"{about}: {run.state} {count}{reason}"
            continue
        yield f"{about}: {run.failure.message}"
        if run.failure.hint:
            yield f"    hint: {run.failure.hint}"
        yield f"    run: {run.id}"
