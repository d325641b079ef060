# SPDX-License-Identifier: Apache-2.0
"""`snapvault drill list` and `snapvault drill report`: what drills showed."""

import os
import secrets
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from snapvault import clock
from snapvault.cli import drill_words
from snapvault.cli.failures import Outcomes
from snapvault.cli.list import VaultOption
from snapvault.cli.session import Session, session
from snapvault.errors import ConfigError, SnapVaultError
from snapvault.units import format_count

if TYPE_CHECKING:
    from snapvault.engine.drill_reports import HeldReport
    from snapvault.model.drills import StepReport

_MOST_WARNINGS: Final = 10


def list_drills(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(metavar="SOURCE", help="Only the drills of this source."),
    ] = None,
    vault: VaultOption = None,
) -> int:
    """List drills, oldest first, a line for each source that was rehearsed.

    READY is the measured recovery time, AGE how old the restore point was when the drill began.
    Only reports that a trusted host or a recovery key signed are listed; what is
    wrong with others is said on stderr.

    Examples:
      snapvault drill list
      snapvault drill list web01
      snapvault drill list --json
    """
    run = session(context)
    held, _, outcomes = _find(run, vault)
    found = [
        (each, step)
        for each in held
        for step in each.report.steps
        if source in {None, step.key.source}
    ]
    if source is not None and held and not found:
        raise _no_such_source(source, held)
    if found or outcomes.done:
        _report_list(run, found)
    return outcomes.status


def _report_list(run: Session, found: "list[tuple[HeldReport, StepReport]]") -> None:
    if not found and not run.json:
        run.console.note("there are no drills yet")
        return
    several = len(run.settings.vaults) > 1
    documents = [drill_words.list_document(held, step) for held, step in found]
    run.report(documents, drill_words.list_lines(found, several=several))


def report(
    context: typer.Context,
    drill: Annotated[
        str | None,
        typer.Argument(
            metavar="ID",
            help='The drill\'s id, or the beginning of it, as "snapvault drill list" shows it;'
            " without it, the newest.",
            show_default=False,
        ),
    ] = None,
    period: Annotated[
        str | None,
        typer.Option(
            "--period",
            metavar="PERIOD",
            help="Sum up all drills of a time instead: month, quarter or year, which are the"
            " running ones, or one by its name: 2026-10, 2026-Q3, 2026.",
            show_default=False,
        ),
    ] = None,
    html: Annotated[
        str | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Write a page that stands alone into a file, or to stdout with -.",
            show_default=False,
        ),
    ] = None,
    vault: VaultOption = None,
) -> None:
    """Show the report of a drill, or what all drills of a month, quarter or year showed.

    A report is believed when a trusted host or a recovery key signed it. The page holds the
    screenshot and the console, and the commands that repeat the drill by hand; it
    needs nothing else to be shown, kept or printed.

    Examples:
      snapvault drill report
      snapvault drill report 3f2a --html drill.html
      snapvault drill report --period quarter
      snapvault drill report --period 2026-Q3 --html q3.html
    """
    run = session(context)
    if drill is not None and period is not None:
        raise typer.BadParameter("it goes with no drill's id", param_hint="--period")
    if html is not None and run.json:
        raise typer.BadParameter("it does not go with --json", param_hint="--html")
    if period is None:
        _one(run, vault, drill, html)
    else:
        _period(run, vault, period, html)


def _one(run: Session, vault: str | None, drill: str | None, html: str | None) -> None:
    from snapvault.config.zones import local_zone
    from snapvault.formats import drill_report
    from snapvault.wiring import drill_reports

    wanted = drill.lower() if drill is not None else None
    held, problems, outcomes = _find(run, vault, about=wanted)
    chosen = _chosen(held, wanted, problems, outcomes)
    whole = drill_reports.whole_report(run.settings, chosen.report.vault, chosen.name, run.console)
    if html is not None:
        _write(run, html, drill_reports.page_of(whole, local_zone()))
        return
    document = {
        **drill_report.document(whole.report, whole.vault_id),
        "object": whole.name,
        "signer": whole.signer,
    }
    run.report(document, drill_words.report_lines(whole))


def _chosen(
    held: "Sequence[HeldReport]",
    wanted: str | None,
    problems: Sequence[SnapVaultError],
    outcomes: Outcomes,
) -> "HeldReport":
    """Return the report of that id, or the newest.

    Raises:
        IntegrityError: there is one, and it cannot be believed.
        ConfigError: there is none, or there are several.
    """
    fitting = [e for e in held if wanted is None or e.report.id.lower().startswith(wanted)]
    exact = [each for each in fitting if each.report.id.lower() == wanted]
    if wanted is None and fitting:
        return max(fitting, key=lambda each: (each.report.started, each.name))
    if len(fitting) == 1 or len(exact) == 1:
        return (exact or fitting)[0]
    if fitting:
        ids = ", ".join(each.report.id for each in fitting[:5])
        raise ConfigError(
            f'"{wanted}" is the beginning of {len(fitting)} drills\' ids: {ids}',
            hint="Type more of it.",
        )
    about = [each for each in problems if wanted is None or f"-{wanted}" in str(each).lower()]
    for error in (*about, *outcomes.errors):
        raise error
    if wanted is None:
        raise ConfigError("there is no drill report yet", hint='"snapvault drill run" makes one.')
    raise ConfigError(
        f'there is no report of a drill "{wanted}"', hint='"snapvault drill list" shows all.'
    )


def _period(run: Session, vault: str | None, period: str, html: str | None) -> None:
    from snapvault.config.zones import local_zone
    from snapvault.model.drill_audit import SignedReport, audit
    from snapvault.model.periods import parse_period
    from snapvault.wiring import drill_reports

    zone = local_zone()
    now = clock.now()
    try:
        span = parse_period(period, now=now, zone=zone)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--period") from error
    held, problems, outcomes = _find(run, vault)
    if not outcomes.done:
        raise outcomes.errors[0]
    said = [str(each) for each in (*problems, *outcomes.errors)]
    promised, unknown = drill_reports.promises(run.settings, run.vault_names(vault))
    for each in unknown:
        few = "all that" if promised else "what"
        said.append(f"{few} policies promise is not known here: {each}")
        run.console.warning(said[-1])
    found = audit(
        [SignedReport(each.report, each.signer) for each in held],
        promised,
        start=span.start,
        end=span.end,
        now=now,
    )
    if html is not None:
        _write(run, html, drill_reports.page_of_period(found, span.name, zone, said))
        return
    document = drill_words.audit_document(found, span.name, said)
    run.report(document, drill_words.audit_lines(found, span.name))


def _find(
    run: Session, vault: str | None, *, about: str | None = None
) -> "tuple[list[HeldReport], list[SnapVaultError], Outcomes]":
    """Return the reports of vaults, what is wrong with others, and how it went.

    What is wrong is said, unless it is not about the drill whose id begins so.
    """
    from snapvault.wiring import drill_reports

    held: list[HeldReport] = []
    problems: list[SnapVaultError] = []
    outcomes = Outcomes()
    for name in run.vault_names(vault):
        try:
            found = drill_reports.all_reports(run.settings, name, run.console)
        except SnapVaultError as error:
            outcomes.fail(error)
            continue
        outcomes.done += 1
        held += found.held
        problems += found.problems
    if about is None:
        for problem in problems[:_MOST_WARNINGS]:
            run.console.warning(str(problem))
        if (more := len(problems) - _MOST_WARNINGS) > 0:
            run.console.warning(f"{format_count(more, 'more report')} cannot be believed or read")
    held.sort(key=lambda each: (each.report.started, each.name))
    return held, problems, outcomes


def _no_such_source(source: str, held: "Sequence[HeldReport]") -> ConfigError:
    from snapvault.config.problems import nearest_hint, quoted

    known = {step.key.source: None for each in held for step in each.report.steps}
    return ConfigError(
        f"there is no drill of source {quoted(source)}",
        hint=nearest_hint(source, known, what="sources with drills"),
    )


def _write(run: Session, to: str, page: str) -> None:
    """Write a page, for this user alone: it tells what a machine said."""
    if to == "-":
        sys.stdout.write(page)
        return
    path = Path(to)
    part = path.with_name(f".{path.name}.snapvault-{secrets.token_hex(4)}")
    try:
        with open(part, "x", encoding="utf-8", opener=_private) as file:
            file.write(page)
        part.replace(path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if not isinstance(error, OSError):
            raise
        raise ConfigError(
            f'could not write "{path}": {(error.strerror or str(error)).lower()}',
            hint="Name a file in a folder that is there and that you may write.",
        ) from error
    run.console.note(f'wrote "{path}"')


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, mode=0o600)
