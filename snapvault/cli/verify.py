# SPDX-License-Identifier: Apache-2.0
"""`snapvault verify`: prove that what the vault holds is whole."""

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapvault import clock
from snapvault.cli import boundary, points
from snapvault.cli.failures import Outcomes
from snapvault.cli.list import VaultOption
from snapvault.cli.session import Session, session
from snapvault.errors import (
    EXIT_DONE,
    FormatVersionError,
    IntegrityError,
    KeyMissingError,
    SnapVaultError,
)
from snapvault.units import format_count, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from snapvault.engine.vault import Vault
    from snapvault.engine.verify import Report, Verification


class LevelName(StrEnum):
    """How deep to look; the engine's levels by their names."""

    OBJECTS = "objects"
    DATA = "data"
    FULL = "full"


_MEANING = {
    "objects": "every object is there with its size",
    "data": "every stored byte fits its SHA-256",
    "full": "every stream comes back with its content digest",
}


def command(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE", help="Only the restore points of this source.", show_default=False
        ),
    ] = None,
    level: Annotated[
        LevelName,
        typer.Option(
            "--level",
            help="objects: all are there, with their sizes. data: every stored byte fits the"
            " SHA-256 in the signed manifest. full: every stream is decrypted and rebuilt, and its"
            " digest compared; needs a recovery key.",
        ),
    ] = LevelName.OBJECTS,
    sample: Annotated[
        float | None,
        typer.Option(
            "--sample",
            metavar="PERCENT",
            help="Read only this share of the volumes (data) or restore points (full), chosen at"
            " random; the newest point of each source is always among those rebuilt.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what it would ask of the store, and its cost."),
    ] = False,
    vault: VaultOption = None,
) -> int:
    """Verify that what the vault holds is whole; exit with status 13 if it is not.

    The levels "objects" and "data" need no private key and so work on the backup host.
    Everything is compared with the signed manifests, never with what the store says of itself.

    What is missing or damaged is remembered on this host: the next backups store again what the
    sources still have of it. "snapvault repair" says what is lost.

    What came of it is shown by "snapvault status". A finding is an alarm there until a later
    verify of at least that level, without a sample, finds nothing.

    Examples:
      snapvault verify
      snapvault verify web01 --level data --sample 10
      snapvault verify --level full
      snapvault verify --level data --dry-run
    """
    run = session(context)
    share = _share(sample, level)
    outcomes = Outcomes()
    documents: list[dict[str, Any]] = []
    for name in run.vault_names(vault):
        try:
            if dry_run:
                foreseen = _foresee(run, name, source, level, share)
                documents += [foreseen] if foreseen else []
                outcomes.done += 1
                continue
            report, seconds = _verify(run, name, source, level, share)
        except SnapVaultError as error:
            if not isinstance(error, KeyMissingError) and len(run.vault_names(vault)) > 1:
                outcomes.fail(error)
                continue
            raise
        if report is None:
            continue
        outcomes.done += 1
        documents.append(_document(name, report, seconds))
        _tell(run, name, report, seconds)
    if source is not None and not documents and not outcomes.errors:
        names = run.vault_names(vault)
        known = {each: None for name in names for each in points.inventory_of(run, name).sources()}
        raise points.no_such_source(source, known, ", ".join(names))
    if run.json:
        run.report(documents, ())
    if any(document.get("findings") for document in documents):
        return IntegrityError.exit_status
    return outcomes.status if outcomes.errors else EXIT_DONE


def _share(sample: float | None, level: LevelName) -> float:
    if sample is None:
        return 100.0
    if level is LevelName.OBJECTS:
        raise typer.BadParameter(
            'the level "objects" reads nothing that a sample could be taken of: use it with'
            " --level data or full",
            param_hint="--sample",
        )
    if not 0 < sample <= 100:
        raise typer.BadParameter(
            f"expected a percentage over 0 and at most 100, found {sample:g}",
            param_hint="--sample",
        )
    return sample


def _verify(
    run: Session, name: str, source: str | None, level: LevelName, share: float
) -> "tuple[Report | None, float]":
    """Verify one vault and remember how it ended; None if it has nothing of the source."""
    from snapvault.engine.verify import Finding
    from snapvault.wiring import history, runs

    started = clock.monotonic()
    run.console.subject = name
    with run.open(name) as vault:

        def remember(found: "Sequence[Finding]", points: int, archived: float = 0.0) -> None:
            # Whoever could not read all has looked at a sample at the most.
            looked_at = min(share, max(0.1, 99.9 * (1 - archived))) if archived else share
            summary = history.new_verify(name, source, level.value, round(looked_at, 1))
            usage = runs.usage_of(vault)
            summary = replace(
                summary,
                seconds=clock.monotonic() - started,
                points=points,
                findings=len(found),
                message=" ".join(found[0].message.split()) if found else None,
                requests=usage.requests,
                usage=usage,
            )
            history.record_verify(run.settings, summary, run.console)

        try:
            report = _verified(run, vault, source, level, share)
        except FormatVersionError:
            raise  # nothing is wrong with the vault
        except IntegrityError as error:
            # What keeps a verify from looking any further is its finding.
            remember([Finding(str(error), ())], 0)
            raise
        if report is not None:
            of = report.objects if level is LevelName.DATA else report.points
            remember(report.findings, report.points, report.archived / max(1, of))
    return report, clock.monotonic() - started


def _verified(
    run: Session, vault: "Vault", source: str | None, level: LevelName, share: float
) -> "Report | None":
    work = _work(vault, source, level, share)
    if work is None:
        return None
    run.console.note(f'verifying vault "{vault.name}": {_MEANING[level.value]}')
    try:
        return work.run(source)
    except KeyMissingError as error:
        raise _without_key(vault, error) from error


def _work(
    vault: "Vault", source: str | None, level: LevelName, share: float
) -> "Verification | None":
    """Return the verification; None if the vault has nothing of the source."""
    import random

    from snapvault.engine import vault as vaults
    from snapvault.engine.verify import Level, Verification

    inventory = vaults.sync(vault, source)
    if source is not None and not inventory.of(source) and not inventory.problems:
        return None
    return Verification(
        vault,
        inventory,
        Level(level.value),
        share,
        vault.state / "spool",
        random.Random(),  # noqa: S311 - a sample, not a secret
    )


def _foresee(
    run: Session, name: str, source: str | None, level: LevelName, share: float
) -> dict[str, Any] | None:
    """Tell what a verify would take; None if the vault has nothing of the source."""
    from snapvault.cli import foreseen
    from snapvault.wiring import runs

    run.console.subject = name
    with (
        run.open(name) as vault,
        runs.counting_requests(run.settings, vault, run.console, verb="cost"),
    ):
        opening = runs.usage_of(vault)
        work = _work(vault, source, level, share)
        if work is None:
            return None
        try:
            return foreseen.verify(run, vault, work, source, opening)
        except KeyMissingError as error:
            raise _without_key(vault, error) from error


def _without_key(vault: "Vault", error: KeyMissingError) -> KeyMissingError:
    return KeyMissingError(
        f'cannot rebuild what vault "{vault.name}" holds on this machine: {error}',
        hint='The level "full" needs the secret half of a recovery key here. On the backup '
        'host use "--level data", which needs none.',
    )


def _tell(run: Session, name: str, report: "Report", seconds: float) -> None:
    for finding in report.findings:
        hurt = ", ".join(finding.points)
        about = f"; it hurts restore point {hurt}" if hurt else ""
        boundary.show(IntegrityError(f"{finding.message}{about}"))
    if run.json:
        return
    verdict = (
        format_count(len(report.findings), "finding") if report.findings else "nothing is wrong"
    )
    if report.archived:
        what = "volume" if report.level.value == LevelName.DATA else "restore point"
        verdict += (
            f" as far as could be read; {format_count(report.archived, what)} could not be: what"
            " lies in an archive has to be thawed first"
        )
    read = f", {format_size(report.read_bytes)} read" if report.read_bytes else ""
    print(
        f'verified vault "{name}" at level {report.level.value}: '
        f"{format_count(report.points, 'restore point')}, "
        f"{format_count(report.objects, 'object')}{read}, "
        f"in {format_duration(seconds)}: {verdict}"
    )


def _document(name: str, report: "Report", seconds: float) -> dict[str, Any]:
    return {
        "vault": name,
        "level": report.level.value,
        "points": report.points,
        "objects": report.objects,
        "read_bytes": report.read_bytes,
        "archived": report.archived,
        "seconds": round(seconds, 3),
        "findings": [
            {"message": finding.message, "points": list(finding.points)}
            for finding in report.findings
        ],
    }
