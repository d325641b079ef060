# SPDX-License-Identifier: Apache-2.0
"""Reports of drills as text for a terminal."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from snapvault import clock
from snapvault.cli.console import one_line
from snapvault.cli.words import local, size_in_full, table
from snapvault.units import format_count, format_duration

if TYPE_CHECKING:
    from snapvault.engine.drill_reports import HeldReport
    from snapvault.model.drill_audit import Audit, SourceAudit
    from snapvault.model.drills import Result, StepReport

_CONSOLE_LINES: Final = 12
_BAR: Final = 30


def list_lines(found: "Iterable[tuple[HeldReport, StepReport]]", *, several: bool) -> list[str]:
    """Return the table of `drill list`; with a column of vaults if there are several."""
    header = ["DRILL", "SOURCE", "KIND", "STARTED", "RESULT", "READY", "RTO", "AGE", "RPO", "POINT"]
    rows = [
        [
            held.report.id,
            step.key.source,
            step.kind,
            local(step.started),
            step.verdict.value,
            span(step.seconds_to_ready),
            span(step.rto),
            span(step.age),
            span(step.rpo),
            step.point or "-",
            *([step.key.vault] if several else []),
        ]
        for held, step in found
    ]
    return table([*header, *(["VAULT"] if several else [])], rows, right="READY RTO AGE RPO")


def list_document(held: "HeldReport", step: "StepReport") -> dict[str, Any]:
    """Return a row of `drill list` as programs read it."""
    from snapvault.model import drill_audit

    return {
        "drill": held.report.id,
        "vault": step.key.vault,
        "source": step.key.source,
        "policy": held.report.policy,
        "kind": step.kind,
        "point": step.point,
        "started_at": clock.to_text(step.started),
        "seconds": step.seconds,
        "verdict": step.verdict.value,
        "reason": drill_audit.reason_of(step),
        "seconds_to_ready": step.seconds_to_ready,
        "rto_seconds": step.rto,
        "age_seconds": step.age,
        "rpo_seconds": step.rpo,
        "host": held.report.host,
        "signer": held.signer,
    }


def report_lines(held: "HeldReport") -> list[str]:
    """Return one drill in full, but for its pictures and all but the end of its consoles."""
    report = held.report
    took = format_duration((report.ended - report.started).total_seconds())
    lines = [
        f"drill {report.id} of policy {report.policy} {report.verdict.value}",
        f"  started        {local(report.started)}, took {took} ({report.trigger})",
        f"  vault          {report.vault}",
        f"  on host        {report.host}, with {report.version}",
        f"  points         {report.choice}" + (f", seed {report.seed}" if report.seed else ""),
        f"  signed by      {held.signer}",
        f"  object         {held.name}",
    ]
    if report.problem:
        lines.append(f"  problem        {report.problem}")
    for step in report.steps:
        lines += ["", *_step_lines(step)]
    return [one_line(line) for line in lines]


def _step_lines(step: "StepReport") -> list[str]:
    taken = f", taken {local(step.taken_at)}" if step.taken_at else ""
    lines = [
        f"source {step.key.source} ({step.kind}) {step.verdict.value}",
        f"  recovery time  {_against(step.seconds_to_ready, step.rto, 'RTO', 'never ready')}",
        f"  recovery point {_against(step.age, step.rpo, 'RPO', 'unknown')}",
        f"  restore point  {step.point or 'none was found'}{taken}",
    ]
    if step.size is not None:
        lines.append(f"  size           {size_in_full(step.size)}")
    for title, result in (
        ("restored", step.restored),
        ("validated", step.validated),
        ("cleaned up", step.cleaned),
    ):
        lines += _result_lines(title, result)
    if step.hits:
        lines.append(f"  also damaged   {', '.join(step.hits)}")
    if step.phases:
        lines += ["", *_phase_lines(step)]
    if step.checks:
        rows = [[e.name, e.verdict.value, f"{e.seconds:.1f}s", e.reason] for e in step.checks]
        lines += ["", *_indented(table(["CHECK", "RESULT", "TOOK", "WHY"], rows, right="TOOK"))]
    facts = [*((n, f"{v:,}") for n, v in step.counters.items()), *step.facts.items()]
    if facts:
        lines += ["", *_indented(table(["FACT", "VALUE"], facts))]
    if step.console:
        lines += ["", "  the end of the console:", *_console_lines(step.console)]
    if step.commands:
        lines += ["", "  the same by hand:"]
        lines += [f"    {line}" for each in step.commands for line in each.split("\n")]
    return lines


def _result_lines(title: str, result: "Result") -> list[str]:
    lines = [f"  {title:<14} {result.verdict.value}: {result.reason}"]
    if result.hint:
        lines.append(f"  {'hint':<14} {result.hint}")
    return lines


def _phase_lines(step: "StepReport") -> list[str]:
    """Draw the phases one after the other; each begins where the one before ends."""
    from snapvault.model.drills import Phase

    whole = max(sum(step.phases.values()), step.seconds) or 1.0
    lines = []
    begun = 0.0
    for phase in Phase:
        length = step.phases.get(phase, 0.0)
        if length:
            left, right = (round(_BAR * at / whole) for at in (begun, begun + length))
            bar = " " * left + "#" * max(1, right - left)
            lines.append(f"  {phase.value:<14} {length:>8.1f}s  |{bar:<{_BAR}}|")
        begun += length
    return [*lines, f"  {'all of it':<14} {step.seconds:>8.1f}s"]


def _console_lines(console: str) -> list[str]:
    from snapvault.adapters.reports import words

    lines = words.console(console).split("\n")
    left_out = len(lines) - _CONSOLE_LINES
    more = [f"    ({format_count(left_out, 'line')} before; --html and --json have them)"]
    return [*(more if left_out > 0 else []), *(f"    {e}" for e in lines[-_CONSOLE_LINES:])]


def _against(value: float | None, limit: float | None, name: str, otherwise: str) -> str:
    said = otherwise if value is None else format_duration(value)
    if limit is None:
        return f"{said} (the policy names no {name})"
    if value is None:
        return f"{said}, {name} {format_duration(limit)}"
    return f"{said}, {name} {format_duration(limit)} {'met' if value <= limit else 'missed'}"


def audit_lines(audit: "Audit", period: str) -> list[str]:
    """Return what drills showed in a period."""
    lines = [
        f"drills of {period}: {local(audit.start)} to {local(audit.until)}",
        "",
    ]
    if audit.sources:
        header = "SOURCE POLICY PASSED FAILED SKIPPED MEDIAN WORST RTO MISSED POINTS INTERVAL KEPT"
        lines += table(
            header.split(),
            [_audit_row(each) for each in audit.sources],
            right="PASSED FAILED SKIPPED MEDIAN WORST RTO MISSED POINTS",
        )
    else:
        lines.append("no policy names a source, and none was rehearsed")
    for each in audit.never:
        lines.append(f'source "{each.key.source}" was never rehearsed in this time')
    if audit.reports:
        rows = [
            [each.report.id, local(each.report.started), each.report.verdict.value, each.signer]
            for each in audit.reports
        ]
        lines += ["", *table(["DRILL", "STARTED", "RESULT", "SIGNED BY"], rows)]
    return [one_line(line) for line in lines]


def _audit_row(source: "SourceAudit") -> list[str]:
    from snapvault.model.drills import Verdict

    promise = source.promise
    counts = source.counts
    interval = promise.interval if promise else None
    kept = {True: "yes", False: f"no: {span(source.longest_gap)}", None: "too early"}[source.kept]
    return [
        source.key.source,
        promise.policy if promise else "-",
        *(str(counts.get(verdict, 0)) for verdict in Verdict),
        span(source.median),
        span(source.worst),
        span(promise.rto.total_seconds() if promise and promise.rto else None),
        str(source.missed),
        str(len(source.points)),
        format_duration(interval) if interval else "-",
        kept if interval else "-",
    ]


def audit_document(audit: "Audit", period: str, problems: Sequence[str]) -> dict[str, Any]:
    """Return what drills showed in a period as programs read it."""
    return {
        "period": period,
        "start": clock.to_text(audit.start),
        "until": clock.to_text(audit.until),
        "sources": [_audit_source(each) for each in audit.sources],
        "never_rehearsed": [f"{each.key}" for each in audit.never],
        "drills": [
            {
                "drill": each.report.id,
                "vault": each.report.vault,
                "started_at": clock.to_text(each.report.started),
                "verdict": each.report.verdict.value,
                "sources": [step.key.source for step in each.report.steps],
                "signer": each.signer,
            }
            for each in audit.reports
        ],
        "signers": dict(audit.signers),
        "problems": list(problems),
    }


def _audit_source(source: "SourceAudit") -> dict[str, Any]:
    promise = source.promise
    counts = source.counts
    rto, rpo, interval = (
        each.total_seconds() if each else None
        for each in (
            (promise.rto, promise.rpo, promise.interval) if promise else (None, None, None)
        )
    )
    from snapvault.model.drills import Verdict

    return {
        "vault": source.key.vault,
        "source": source.key.source,
        "policy": promise.policy if promise else None,
        **{verdict.value: counts.get(verdict, 0) for verdict in Verdict},
        "median_seconds": source.median,
        "worst_seconds": source.worst,
        "rto_seconds": rto,
        "rto_missed": source.missed,
        "rpo_seconds": rpo,
        "points": list(source.points),
        "interval_seconds": interval,
        "interval_kept": source.kept,
        "longest_gap_seconds": source.longest_gap,
        "last_good_at": clock.to_text(source.last_good) if source.last_good else None,
        "drills": [each.drill for each in source.rehearsals],
    }


def span(seconds: float | None) -> str:
    """Write a duration, or that there is none."""
    return "-" if seconds is None else format_duration(seconds)


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]
