# SPDX-License-Identifier: Apache-2.0
"""`snapvault copy`: bring the restore points of a vault to another store."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapvault.cli import boundary
from snapvault.cli.failures import Outcomes
from snapvault.cli.points import no_such_source
from snapvault.cli.session import Session, session
from snapvault.cli.words import local, point_document, table
from snapvault.errors import (
    EXIT_DONE,
    IntegrityError,
    SnapVaultError,
    StoreUnavailableError,
)
from snapvault.units import format_count, format_size

if TYPE_CHECKING:
    from snapvault.engine.copy_plan import Choice
    from snapvault.engine.copying import Copied
    from snapvault.engine.vault import Vault
    from snapvault.model.policy import Policy, SourceSpec

    Job = tuple[Policy, SourceSpec]


def command(
    context: typer.Context,
    vault: Annotated[
        str, typer.Argument(metavar="VAULT", help="The vault to copy, by its name in the settings.")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="VAULT",
            help="The vault that is, or becomes, the copy.",
        ),
    ],
    source: Annotated[
        str | None,
        typer.Option("--source", metavar="NAME", help="Copy only this source.", show_default=False),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(
            "--point",
            metavar="POINT",
            help="Copy only this restore point; can be given several times.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how much would be copied.")
    ] = False,
) -> int:
    """Copy a vault's restore points to another vault of the settings: another bucket or folder.

    What the copy has already is not sent again, and nothing in it is replaced or removed. An
    empty bucket or folder becomes the copy. Objects go as they are, each proven on the way: no
    recovery key is needed. Killed anywhere, the same command goes on with what is missing.

    The copy is a vault like the first one, and stands by itself: "list", "restore", "verify",
    "drill run" and "prune" work on it. What is pruned in one of the two is not touched in the
    other, nor copied again. Backups do not go to it.

    A restore point with an object that is damaged is left out, and the exit status is 13; the
    others are copied.

    Examples:
      snapvault copy offsite --to offsite2
      snapvault copy offsite --to offsite2 --source web01 --dry-run
    """
    from snapvault.wiring.copying import copy_vault, rehearse_copy

    run = session(context)
    name, other = run.vault_names(vault)[0], run.vault_names(to)[0]
    run.console.subject = other
    with run.open(name) as opened:
        choice = _choice(opened, source, point)
        if dry_run:
            done = rehearse_copy(run.settings, opened, other, choice, run.console)
        else:
            done = copy_vault(run.settings, opened, other, choice, run.console)
    complain(name, other, done)
    if run.json:
        run.report(document_of(name, other, done, dry_run=dry_run), ())
    else:
        _tell(name, other, done, dry_run=dry_run)
    return status_of(done)


def status_of(done: "Copied") -> int:
    """Return the exit status of what a copy did."""
    if done.problems or any(each.is_damaged for each in done.left_out):
        return IntegrityError.exit_status
    return StoreUnavailableError.exit_status if done.left_out else EXIT_DONE


def copy_after(run: Session, opened: "Vault", made: "Sequence[Job]", outcomes: Outcomes) -> None:
    """Copy the sources that were backed up to where their policies want copies."""
    targets = dict.fromkeys(to for policy, _ in made for to in policy.copy_to)
    if not targets:
        return
    from snapvault.engine.copy_plan import Choice
    from snapvault.wiring.copying import copy_vault, note_failure

    for to in targets:
        jobs = [(policy, spec) for policy, spec in made if to in policy.copy_to]
        run.console.subject = to
        run.console.note(f'copying vault "{opened.name}" to vault "{to}"')
        try:
            done = copy_vault(
                run.settings,
                opened,
                to,
                Choice({spec.name for _, spec in jobs}),
                run.console,
                limits=jobs[0][0].limits,
            )
        except SnapVaultError as error:
            note_failure(run.settings, to, error)
            outcomes.fail(error, about=f'could not copy to vault "{to}": ')
            continue
        complain(opened.name, to, done)
        if status_of(done) != EXIT_DONE:
            outcomes.errors.append(IntegrityError(f'vault "{to}" lacks restore points'))
        if not run.json:
            print(line_of(opened.name, to, done), flush=True)


def _choice(opened: "Vault", source: str | None, points: list[str] | None) -> "Choice":
    """Return what to copy, once it is known to be there.

    Raises:
        NoRestorePointError: there is no such source or point.
    """
    from snapvault.engine.copy_plan import Choice
    from snapvault.engine.vault import sync
    from snapvault.model import selection

    if source is None and not points:
        return Choice()
    inventory = sync(opened)
    if source is not None and source not in inventory.sources():
        raise no_such_source(source, inventory.sources(), opened.name)
    if not points:
        return Choice({source} if source else None)
    there = [
        held.point
        for held in inventory.held
        if not held.missing and source in {None, held.point.source}
    ]
    return Choice(
        {source} if source else None,
        {selection.by_id(there, each.lower()).point for each in points},
    )


def complain(name: str, to: str, done: "Copied") -> None:
    """Say what was wrong, and what was left out."""
    for told in done.problems:
        boundary.show(IntegrityError(told))
    for each in done.left_out:
        point = each.held.point
        told = (
            f'restore point "{point.point}" of source "{point.source}" was not copied to vault '
            f'"{to}": {each.reason}'
        )
        if each.is_damaged:
            boundary.show(
                IntegrityError(told, hint=f'Run "snapvault verify --level data --vault {name}".')
            )
        else:
            boundary.show(
                StoreUnavailableError(
                    told,
                    hint=f'Run "snapvault prune --vault {to}" once what it dooms is past its '
                    "grace, then copy again.",
                )
            )


def _tell(name: str, to: str, done: "Copied", *, dry_run: bool) -> None:
    rows = [
        [
            each.point.point,
            each.point.source,
            local(each.point.taken_at),
            format_size(each.point.size),
        ]
        for each in done.points
    ]
    for line in table(["POINT", "SOURCE", "TAKEN", "SIZE"], rows) if rows else []:
        print(line)
    print(line_of(name, to, done, dry_run=dry_run))


def line_of(name: str, to: str, done: "Copied", *, dry_run: bool = False) -> str:
    """Say in one line what a copy did."""
    expired = f", {done.expired} had been pruned there" if done.expired else ""
    return (
        f"{'would copy' if dry_run else 'copied'} {format_count(len(done.points), 'restore point')}"
        f" ({format_count(done.objects, 'object')}, {format_size(done.bytes)}) of vault "
        f'"{name}" to vault "{to}"; {done.there} {"was" if done.there == 1 else "were"} there'
        f"{expired}"
    )


def document_of(name: str, to: str, done: "Copied", *, dry_run: bool = False) -> dict[str, Any]:
    """Return what a copy did, for programs."""
    return {
        "vault": name,
        "to": to,
        "dry_run": dry_run,
        "points": [
            {
                key: value
                for key, value in point_document(name, each).items()
                if key in {"id", "source", "taken_at", "size_bytes"}
            }
            for each in done.points
        ],
        "objects": done.objects,
        "bytes": done.bytes,
        "there": done.there,
        "pruned_there": done.expired,
        "left_out": [
            {
                "id": each.held.point.point,
                "source": each.held.point.source,
                "reason": each.reason,
                "damaged": each.is_damaged,
            }
            for each in done.left_out
        ],
        "problems": list(done.problems),
    }
