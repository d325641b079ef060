# SPDX-License-Identifier: Apache-2.0
"""`snapvault repair`: mend what is damaged in a vault, as far as it can be mended."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapvault.cli import boundary
from snapvault.cli.failures import Outcomes
from snapvault.cli.session import Session, session
from snapvault.errors import IntegrityError, SnapVaultError
from snapvault.formats import names
from snapvault.units import format_count

if TYPE_CHECKING:
    from snapvault.engine.repair import Outcome, Step

_SHOWN = 20


def command(
    context: typer.Context,
    vault: Annotated[
        str | None,
        typer.Argument(
            metavar="VAULT", help="Repair this vault only; left out: all.", show_default=False
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
) -> int:
    """Mend what is damaged in a vault, as far as it can be mended, and say what cannot.

    Objects that were removed or replaced in a bucket that keeps versions are brought back from
    underneath: the delete marker is removed or, where these credentials may not, the right version
    is copied on top. What comes back is what a signed manifest names, or is itself signed. Points
    that a prune took away stay away.

    Public keys, "restore.py" and "RESTORE.md" are written again where they are missing. Volumes
    and metadata that are missing, or that a verify found damaged, are noted on this host: the next
    backup of each source that needs them stores again what the source still has, so that its
    new point is whole. What older points have lost is told, by stream and range.

    Run "snapvault verify --level data" afterwards. The exit status is 13 if something stays
    damaged.

    Examples:
      snapvault repair --dry-run
      snapvault repair offsite
    """
    run = session(context)
    outcomes = Outcomes()
    documents: list[dict[str, Any]] = []
    is_left = False
    for name in run.vault_names(vault):
        try:
            done, found = _repair(run, name, dry_run=dry_run)
        except SnapVaultError as error:
            outcomes.fail(error)
            continue
        outcomes.done += 1
        is_left |= any(outcome.left for _, outcome in found)
        documents.append(_document(name, done, found, dry_run=dry_run))
        _tell(run, name, done, found, dry_run=dry_run)
    if run.json and documents:
        run.report(documents, ())
    return IntegrityError.exit_status if is_left else outcomes.status


def _repair(
    run: Session, name: str, *, dry_run: bool
) -> "tuple[str | None, tuple[tuple[Step, Outcome], ...]]":
    from snapvault.engine.repair import repair
    from snapvault.wiring import repairing

    run.console.subject = name
    settings = run.settings.vaults[name]
    record = repairing.uncover_record(settings, is_rehearsal=dry_run)
    if record is not None and dry_run:
        return record, ()  # nobody can look any further before it is back
    with run.open(name) as vault:
        return record, repair(vault, repairing.steps_for(run.settings, vault), is_rehearsal=dry_run)


def _tell(
    run: Session,
    name: str,
    record: str | None,
    found: "tuple[tuple[Step, Outcome], ...]",
    *,
    dry_run: bool,
) -> None:
    for _, outcome in found:
        for left in outcome.left:
            hurt = ", ".join(left.points)
            about = f"; it hurts restore point {hurt}" if hurt else ""
            boundary.show(IntegrityError(f"{left.message}{about}"), about=f'vault "{name}": ')
    if run.json:
        return
    if record is not None:
        print(f"{names.VAULT}: {record}")
        if dry_run:
            print("what else would be done is known once it is back")
            return
    for step, outcome in found:
        for mended in outcome.mended[:_SHOWN]:
            print(f"{mended.name}: {mended.how}")
        more = len(outcome.mended) - _SHOWN
        if more > 0:
            print(f"... and {format_count(more, 'more object')}")
        points = {point for mended in outcome.mended for point in mended.points}
        helped = f", for {format_count(len(points), 'restore point')}" if points else ""
        would = "would mend" if dry_run else "mended"
        done = f"{would} {format_count(len(outcome.mended), 'object')}{helped}"
        if not outcome.mended and not outcome.left:
            done = "nothing to mend"
        lost = f"; {len(outcome.left)} cannot be mended" if outcome.left else ""
        print(f'vault "{name}", {step.name}: {done}{lost}')


def _document(
    name: str,
    record: str | None,
    found: "tuple[tuple[Step, Outcome], ...]",
    *,
    dry_run: bool,
) -> dict[str, Any]:
    return {
        "vault": name,
        "dry_run": dry_run,
        "vault_record": record,
        "steps": [
            {
                "step": step.name,
                "mended": [
                    {"object": each.name, "how": each.how, "points": list(each.points)}
                    for each in outcome.mended
                ],
                "left": [
                    {"message": each.message, "points": list(each.points)} for each in outcome.left
                ],
            }
            for step, outcome in found
        ],
    }
