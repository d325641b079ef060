# SPDX-License-Identifier: Apache-2.0
"""`snapvault drill run`: rehearse restores now."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapvault.cli import points
from snapvault.cli.console import one_line
from snapvault.cli.disks import AtOption
from snapvault.cli.failures import show_problems, wrong_of
from snapvault.cli.session import Session, session
from snapvault.cli.words import about, local
from snapvault.errors import EXIT_DONE, EXIT_PARTIAL, ConfigError, ObjectiveMissedError
from snapvault.units import format_duration

if TYPE_CHECKING:
    from pathlib import Path

    from snapvault.config.problems import Problem
    from snapvault.errors import SnapVaultError
    from snapvault.model.drills import DrillReport, StepReport
    from snapvault.model.policy import Policy
    from snapvault.ports.events import Events, Progress

    Planned = tuple[Policy, tuple[str, ...]]


def run(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE|POLICY",
            help="Sources to rehearse, or policies, all of whose steps are; none named: every"
            " policy with a drill, except those that are disabled.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            metavar="NAME",
            help="Only this policy, where several have a source of that name.",
            show_default=False,
        ),
    ] = None,
    point: Annotated[
        str | None,
        typer.Option(
            "--point",
            metavar="ID",
            help="Of one source, the restore point with this id, or the beginning of it.",
            show_default=False,
        ),
    ] = None,
    at: AtOption = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            metavar="NUMBER",
            min=0,
            max=(1 << 63) - 1,
            help="What chance is decided by, as a report shows it: the same points and samples.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Keep what was restored, in clear; remove it yourself."),
    ] = False,
) -> int:
    """Rehearse restores now: bring back what the policies say, see whether it works, and report.

    It goes the way of the real day: as another host, without catalog and caches, with the recovery
    key from where the policy's drill says. Machines are started cut off from every
    network, dumps are loaded into private servers. Nothing is written to backups, but the
    report, and all that was made is removed at the end, also after Ctrl-C.

    A source without a step in its policy's drill is rehearsed too when it is named: dumps of
    database servers are loaded, all else is restored in full and proven.

    Exit status 0 says that every step passed, within the policy's RTO and RPO; 17 that one did not.
    With --point or --at, 16 says that a source has no such restore point: nothing was rehearsed.

    Examples:
      snapvault drill run
      snapvault drill run web01
      snapvault drill run nightly --seed 7
      snapvault drill run shop --at "3 days ago" --keep
    """
    from snapvault.wiring import drill_reports, drills

    session_ = session(context)
    if at is not None and point is not None:
        raise typer.BadParameter("name a time or a point, not both", param_hint="--at/--point")
    moment = points.moment_of(at)
    planned, wrong = _plan(session_, names or (), policy)
    if point is not None and [len(sources) for _, sources in planned] != [1]:
        raise typer.BadParameter("a restore point is of one source: name it", param_hint="--point")
    reports = []
    for chosen, sources in planned:
        wish = drills.Wish(sources, point and point.lower(), moment, seed, keep)
        report = drills.run_drill(session_.settings, chosen, _Telling(session_), wish)
        session_.console.subject = ""
        drill_reports.store_report(session_.settings, report, session_.console)
        reports.append(report)
        if not session_.json:
            session_.report(None, report_lines(report))
    if session_.json:
        session_.report([_document(session_, report) for report in reports], ())
    _require_good(reports)
    return EXIT_PARTIAL if wrong else EXIT_DONE


def _plan(
    run_: Session, names: Sequence[str], policy: str | None
) -> "tuple[list[Planned], Sequence[SnapVaultError]]":
    """Return what to rehearse, and what is wrong with policies that may ask for more.

    That are policies and their sources; none: their steps. What is wrong is said.
    """
    from snapvault.config.policies import read_policies
    from snapvault.config.problems import nearest_hint

    policies, problems = read_policies(run_.settings)
    wrong = show_problems(problems)
    _require_policies(run_.settings.policies_dir, policies, problems)
    by_name = {each.name: each for each in policies}
    if policy is not None and policy not in by_name:
        _require_right([policy], policies, problems)
        hint = nearest_hint(policy, by_name, what="policies")
        raise ConfigError(f'there is no policy "{policy}"', hint=hint)
    among = [each for each in policies if policy in (None, each.name)]
    if names:
        _require_right(names, policies, problems)
        # What may be in a wrong file is told as that, and not as a name that nobody knows.
        wrong = wrong_of([name for name in names if name not in by_name], among, problems)
        return _named(among, names, policy), wrong
    return _all_of(among, policy, wrong), wrong if policy is None else ()


def _require_policies(
    folder: "Path", policies: "Sequence[Policy]", problems: "Sequence[Problem]"
) -> None:
    """Refuse a host without any policy: that vaults know a source does not say what to rehearse."""
    if not policies and all(problem.path == folder for problem in problems):
        raise ConfigError(
            f'there is no policy in folder "{folder}", and a drill rehearses what a policy names',
            hint="Copy the policies of the backup host there; they need no drill in them.",
        )


def _require_right(
    names: Sequence[str], policies: "Sequence[Policy]", problems: "Sequence[Problem]"
) -> None:
    """Refuse a name that is that of a wrong policy, and no source's."""
    sources = {source.name for each in policies for source in each.sources}
    wrong = {problem.path.stem for problem in problems} - {each.name for each in policies}
    for name in names:
        if name in wrong - sources:
            raise ConfigError(f'policy "{name}" is wrong', hint="Mend it; what is wrong is above.")


def _all_of(
    among: "Sequence[Policy]", policy: str | None, wrong: "Sequence[SnapVaultError]"
) -> "list[Planned]":
    planned: list[Planned] = [
        (each, ()) for each in among if each.drill and (each.enabled or policy is not None)
    ]
    if not planned and policy is not None:
        raise _without_drill(policy)
    if not planned and wrong:
        raise ConfigError(
            "no policy that can be read has a drill, so there is nothing to rehearse",
            hint="Mend those that are wrong; what is wrong is above.",
        )
    if not planned:
        raise ConfigError(
            "no policy has a drill, so there is nothing to rehearse",
            hint='Write one, as docs/policies.md shows, or name a source: "snapvault drill run'
            ' SOURCE".',
        )
    return planned


def _without_drill(policy: str) -> ConfigError:
    return ConfigError(
        f'policy "{policy}" has no drill',
        hint="Write one, as docs/policies.md shows, or name its sources.",
    )


def _named(among: "Sequence[Policy]", names: Sequence[str], policy: str | None) -> "list[Planned]":
    from snapvault.config.policies import select_sources
    from snapvault.config.problems import nearest_hint

    by_name = {each.name: each for each in among}
    sources = {source.name for each in among for source in each.sources}
    wanted: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(names):
        if name not in sources and name in by_name:
            if by_name[name].drill is None:
                raise _without_drill(name)
            wanted[name] = ()
            continue
        if name not in sources and policy is not None:
            hint = nearest_hint(name, sorted(sources), what="sources")
            raise ConfigError(f'policy "{policy}" has no source "{name}"', hint=hint)
        if name not in sources:
            known = [*sorted(sources), *by_name]
            hint = nearest_hint(name, known, what="sources and policies")
            raise ConfigError(f'there is no source and no policy "{name}"', hint=hint)
        for owner, source in select_sources(among, [name]):
            wanted[owner.name] = (*wanted.get(owner.name, ()), source.name)
    return [(by_name[name], chosen) for name, chosen in wanted.items()]


class _Telling:
    """The console, with a line for each thing that a drill does."""

    def __init__(self, run_: Session) -> None:
        self._console = run_.console
        self._inner: Events = run_.console
        self._phase: object = None

    def emit(self, event: str, /, **fields: str | int | float | bool | None) -> None:
        """Report that something happened."""
        source = fields.get("source")
        match event:
            case "drill.step":
                self._console.subject = str(source)
                self._phase = None
                self._console.note(f'rehearsing source "{source}": {fields["kind"]}')
            case "drill.point":
                self._console.note(f"{source}: restore point {fields['point']}")
            case "drill.phase" if fields["phase"] != self._phase:
                self._phase = fields["phase"]
                self._console.note(f"{source}: {fields['phase']}")
            case "drill.check":
                said = f"{fields['verdict']}: {fields['check']}: {fields['reason']}"
                self._console.note(f"{source}: {said}")
        self._inner.emit(event, **fields)

    def warn(self, event: str, message: str, /, **fields: str | int | float | bool | None) -> None:
        """Report what an operator should read."""
        self._inner.warn(event, message, **fields)

    def progress(self, label: str, *, total: int | None) -> "Progress":
        """Start a progress display."""
        return self._inner.progress(label, total=total)


def report_lines(report: "DrillReport") -> list[str]:
    """Say what came of a drill; `snapvault drill report` has all of it."""
    took = format_duration((report.ended - report.started).total_seconds())
    title = f'drill {report.id} of policy "{report.policy}" {report.verdict.value} in {took}'
    lines = [f"{title} (points: {report.choice}, seed {report.seed})"]
    if report.problem:
        lines.append(f"  problem        {report.problem}")
    for step in report.steps:
        lines += _step_lines(step)
    # Some words are those of a guest, or of a dump.
    return [one_line(line) for line in lines]


def _step_lines(step: "StepReport") -> list[str]:
    lines = [f'  source "{step.key.source}" ({step.kind}) {step.verdict.value}']
    if step.point and step.taken_at:
        age = format_duration(round(step.age or 0.0))
        lines.append(f"    point        {step.point}, taken {local(step.taken_at)}, {age} old")
    for title, result in (
        ("restored", step.restored),
        ("validated", step.validated),
        ("cleaned up", step.cleaned),
    ):
        lines.append(f"    {title:<12} {result.verdict.value}: {result.reason}")
        if result.hint:
            lines.append(f"    {'hint':<12} {result.hint}")
    lines += [f"    {each.verdict.value:<12} {each.name}: {each.reason}" for each in step.checks]
    if step.hits:
        lines.append(f"    hit too      {', '.join(step.hits)}")
    if step.phases:
        spent = ", ".join(f"{phase.value} {took:.1f}s" for phase, took in step.phases.items())
        lines.append(f"    phases       {spent}; in all {step.seconds:.1f}s")
    if step.seconds_to_ready is not None:
        lines.append(f"    ready after  {step.seconds_to_ready:.1f}s")
    lines += [f"    missed       {finding}" for finding in step.findings]
    return lines


def _document(run_: Session, report: "DrillReport") -> dict[str, Any]:
    from snapvault.formats import drill_report
    from snapvault.wiring.catalogs import known_vaults

    place = known_vaults(run_.settings).find(run_.settings.vaults[report.vault])
    vault = place and place.partition("-")[0]
    document = drill_report.document(report, vault or "0" * 32)
    findings = [[*step.findings] for step in report.steps]
    return {
        **document,
        "vault": vault,
        "verdict": report.verdict.value,
        "findings": [finding for each in findings for finding in each],
    }


def _require_good(reports: "Sequence[DrillReport]") -> None:
    """Fail for the first thing that is not as it should be.

    Raises:
        ObjectiveMissedError: a drill failed, proved nothing, or missed an objective.
    """
    from snapvault.model.drills import Verdict

    for report in reports:
        for step in report.steps:
            named = f'source "{step.key.source}"'
            if step.verdict is not Verdict.PASSED:
                result = (
                    step.restored if step.restored.verdict is Verdict.FAILED else step.validated
                )
                raise ObjectiveMissedError(
                    f"drill {report.id} {report.verdict.value}: {about(named, result.reason)}",
                    hint=result.hint,
                )
            if step.findings:
                raise ObjectiveMissedError(
                    f"drill {report.id} passed, but {about(named, step.findings[0])}"
                )
        if report.verdict is not Verdict.PASSED:
            raise ObjectiveMissedError(
                f"drill {report.id} {report.verdict.value}: {report.problem or 'it has no step'}"
            )
