# SPDX-License-Identifier: Apache-2.0
"""Rehearsing restores: the steps of a drill, one after the other, and what came of each."""

import math
import shlex
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from snapvault import clock
from snapvault.engine import drill_boot, drill_damage, drill_database, drill_files
from snapvault.engine.contents import Contents, look_up
from snapvault.engine.drill_choice import Pick
from snapvault.engine.drill_clock import Meters, PhaseClock
from snapvault.engine.drill_meters import measured
from snapvault.engine.drill_notes import Notes, Tools, failure_of, phase_of
from snapvault.engine.drill_restore import without_key
from snapvault.engine.vault import Held, Vault, sync
from snapvault.errors import (
    DrillError,
    IntegrityError,
    KeyMissingError,
    NoRestorePointError,
    SnapVaultError,
)
from snapvault.model import selection
from snapvault.model.drills import Phase, Result, StepReport, Verdict
from snapvault.model.point import Point
from snapvault.model.policy import Objectives, Policy, SourceSpec
from snapvault.model.rehearsal import (
    KIND_NAMES,
    BootDrill,
    DatabaseDrill,
    DrillStep,
    FilesDrill,
)
from snapvault.model.runs import SourceKey

_NOTHING: Final = "nothing was restored"


@dataclass(frozen=True, slots=True)
class Drill:
    """One drill, ready to run: its steps in order, and how restore points are picked.

    `folder` is a private one that takes all that is made. With `keep`, what was restored stays
    in it.
    """

    vault: Vault
    policy: Policy
    steps: tuple[DrillStep, ...]
    pick: Pick
    tools: Tools
    folder: Path
    keep: bool = False

    def run(self) -> tuple[StepReport, ...]:
        """Rehearse the steps; when one fails, those after it are skipped.

        All that a step made is gone before the next begins, and if this is interrupted.

        Raises:
            NoRestorePointError: somebody asked for a point or a time, and a source has none such.
                That is a mistyped request, which proves nothing about backups: nothing was begun.
        """
        if self.pick.is_by_hand:
            for step in self.steps:
                points = [each.point for each in sync(self.vault, step.source).of(step.source)]
                self.pick.of(points, step.source)
        reports: list[StepReport] = []
        failed: str | None = None
        for number, step in enumerate(self.steps, start=1):
            if failed is not None:
                reports.append(
                    not_begun(self.policy, step, f'step "{failed}" before it failed', self.pick.now)
                )
                continue
            report = self._rehearse(step, self.folder / str(number))
            reports.append(report)
            if report.verdict is Verdict.FAILED:
                failed = step.source
        return tuple(reports)

    def _rehearse(self, step: DrillStep, folder: Path) -> StepReport:
        started = clock.now()
        kind = KIND_NAMES[type(step.kind)]
        tell = self.vault.events.emit
        tell("drill.step", source=step.source, kind=kind)
        meters = Meters()
        notes = Notes(
            vault=measured(self.vault, meters),
            source=_source(self.policy, step.source),
            folder=folder,
            phases=PhaseClock(
                lambda phase: tell("drill.phase", source=step.source, phase=phase.value)
            ),
            meters=meters,
        )
        attempt = _Attempt(notes, step, self.pick)
        try:
            folder.mkdir()
            # The user of a scratch server may have to get through; what is in it is private.
            folder.chmod(0o711)
            attempt.make(self.tools)
        except (SnapVaultError, OSError, tarfile.TarError) as error:
            attempt.failed(error)
        finally:
            cleaned = self._clean_up(notes)
        report = attempt.report(started, cleaned, self.policy.objectives)
        tell("drill.ended", source=step.source, kind=kind, verdict=report.verdict.value)
        return report

    def _clean_up(self, notes: Notes) -> Result:
        """Remove all that a step made, and say so only when it is gone."""
        if self.keep:
            return Result(Verdict.SKIPPED, "what was restored was to be kept")
        with notes.cleaning_up(f'remove folder "{notes.folder}"'):
            if notes.folder.exists():
                shutil.rmtree(notes.folder)
        if notes.leftovers:
            return Result(
                Verdict.FAILED,
                "; ".join(notes.leftovers),
                f'Look at folder "{notes.folder}", and remove it.',
            )
        return Result(Verdict.PASSED, "nothing is left")


@dataclass(slots=True)
class _Attempt:
    """One step at work."""

    notes: Notes
    step: DrillStep
    pick: Pick
    held: tuple[Held, ...] = ()
    point: Point | None = None
    is_newest: bool = False
    validated: Result | None = None

    def make(self, tools: Tools) -> None:
        """Choose a point, restore and validate it."""
        notes, kind = self.notes, self.step.kind
        with notes.phases.at(Phase.LOCATE):
            contents = self._contents()
        match kind:
            case BootDrill():
                drill_boot.rehearse(notes, tools, kind, contents)
            case DatabaseDrill():
                drill_database.rehearse(notes, tools, kind, contents)
            case FilesDrill():
                drill_files.rehearse(notes, tools, kind, contents, self.pick.seed)
        self.validated = notes.validated()

    def failed(self, error: SnapVaultError | OSError | tarfile.TarError) -> None:
        """Note what ended the step before its end."""
        notes = self.notes
        if isinstance(error, tarfile.TarError):
            error = DrillError(f"could not read an archive: {error}")
        notes.facts["failed_in"] = phase_of(error, notes.phases.last).value
        result = failure_of(error)
        if isinstance(error, IntegrityError):
            notes.refusal = error
        if notes.restored is None and not isinstance(error, DrillError):
            notes.restored = result
        else:
            self.validated = result

    def report(self, started: datetime, cleaned: Result, objectives: Objectives) -> StepReport:
        """Return what came of the step."""
        notes, point = self.notes, self.point
        restored = notes.restored or Result(Verdict.SKIPPED, _NOTHING)
        validated = self.validated or Result(Verdict.SKIPPED, _NOTHING)
        phases = notes.phases.phases()
        report = StepReport(
            key=SourceKey(notes.vault.name, self.step.source),
            kind=KIND_NAMES[type(self.step.kind)],
            point=point.point if point else None,
            taken_at=point.taken_at if point else None,
            size=point.size if point else None,
            started=started,
            seconds=math.fsum(phases.values()),
            phases=phases,
            restored=restored,
            validated=validated,
            cleaned=cleaned,
            checks=tuple(notes.checks),
            age=(self.pick.now - point.taken_at).total_seconds() if point else None,
            rto=objectives.rto.total_seconds() if objectives.rto else None,
            rpo=objectives.rpo.total_seconds() if objectives.rpo and self.is_newest else None,
            counters={**notes.meters.counters(), **notes.counters},
            facts=notes.facts,
            hits=self._hits(),
            commands=self._commands(),
            console=notes.console,
            screenshot=notes.screenshot,
        )
        is_good = report.verdict is Verdict.PASSED
        return replace(report, seconds_to_ready=notes.ready if is_good else None)

    def _contents(self) -> Contents:
        notes, source = self.notes, self.step.source
        inventory = sync(notes.vault, source)
        self.held = inventory.of(source)
        if self.pick.is_latest and inventory.problems:
            raise IntegrityError(
                f'cannot tell which restore point of source "{source}" is the newest: '
                f"{inventory.problems[0]}",
                hint=f'Look at "snapvault list {source}", then rehearse one with --point.',
            )
        points = [each.point for each in self.held]
        if not points:
            problem = f": {inventory.problems[0]}" if inventory.problems else ""
            raise NoRestorePointError(
                f'source "{source}" has no restore point in vault "{notes.vault.name}"{problem}',
                hint=None if problem else f'Make one first: "snapvault backup {source}".',
            )
        self.point = self.pick.of(points, source)
        self.is_newest = self.point is selection.newest(points, source)
        notes.vault.events.emit(
            "drill.point",
            source=source,
            point=self.point.point,
            taken_at=clock.to_text(self.point.taken_at),
        )
        streams = self.point.streams
        if isinstance(self.step.kind, BootDrill):
            streams = tuple(stream for stream in streams if stream.engine == "blocks")
        elif isinstance(self.step.kind, DatabaseDrill):
            streams = drill_database.dumps_of(notes, streams)
        try:
            return look_up(notes.vault, self.point, streams)
        except KeyMissingError as error:
            raise without_key(notes, error) from error

    def _hits(self) -> tuple[str, ...]:
        refusal = self.notes.refusal
        if self.point is None or not isinstance(refusal, IntegrityError):
            return ()
        return tuple(drill_damage.hits(self.notes.vault, refusal, self.point, self.held))

    def _commands(self) -> tuple[str, ...]:
        """Return command lines that do the same by hand, on a machine with the recovery key."""
        if self.point is None:
            return ()
        source, point = self.step.source, self.point.point
        restore = ["snapvault", "restore", source, "--point", point, "--to", f"/srv/{source}"]
        again = ["snapvault", "drill", "run", source, "--point", point]
        lines = [restore, [*again, "--seed", str(self.pick.seed)]]
        if isinstance(self.step.kind, BootDrill):
            lines.insert(1, ["snapvault", "run", point])
        return tuple(shlex.join(words) for words in lines)


def not_begun(
    policy: Policy, step: DrillStep, reason: str, at: datetime, *, failure: Result | None = None
) -> StepReport:
    """Return the report of a step that was skipped, or that a failure kept from being begun."""
    skipped = Result(Verdict.SKIPPED, reason)
    return StepReport(
        key=SourceKey(policy.vault, step.source),
        kind=KIND_NAMES[type(step.kind)],
        point=None,
        taken_at=None,
        size=None,
        started=at,
        seconds=0.0,
        phases={},
        restored=failure or skipped,
        validated=skipped,
        cleaned=Result(Verdict.PASSED, "nothing was made"),
        rto=policy.objectives.rto.total_seconds() if policy.objectives.rto else None,
    )


def _source(policy: Policy, name: str) -> SourceSpec:
    return next(source for source in policy.sources if source.name == name)


def steps_for(policy: Policy, sources: Sequence[str]) -> tuple[DrillStep, ...]:
    """Return a policy's steps of some sources (none named: all of its steps), in its order.

    A source that the policy does not rehearse is rehearsed by what it is.
    """
    planned = policy.drill.steps if policy.drill else ()
    if not sources:
        return planned
    steps = [step for step in planned if step.source in sources]
    there = {step.source for step in steps}
    return (
        *steps,
        *(
            DrillStep(source.name, default_kind(source))
            for source in policy.sources
            if source.name in sources and source.name not in there
        ),
    )


def default_kind(source: SourceSpec) -> DatabaseDrill | FilesDrill:
    """Return how a source is rehearsed of which the policy does not say: dumps are loaded.

    What makes a machine's start a good one only its owner knows: disks are restored and proven.
    """
    return DatabaseDrill() if drill_database.is_dump_of_server(source) else FilesDrill()
