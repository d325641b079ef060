# SPDX-License-Identifier: Apache-2.0
"""`snapvault prune`: remove the restore points that no rule keeps, and what only they needed."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapvault import clock
from snapvault.cli import boundary
from snapvault.cli.cost_words import money
from snapvault.cli.failures import Outcomes, show_problems
from snapvault.cli.list import VaultOption
from snapvault.cli.prune_words import verdicts
from snapvault.cli.session import Session, session
from snapvault.cli.words import local, point_document
from snapvault.errors import IntegrityError, SnapVaultError
from snapvault.units import GIB, format_count, format_size, parse_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from snapvault.engine.prune import Pruned
    from snapvault.model.policy import Policy
    from snapvault.model.prices import PriceTable


def command(
    context: typer.Context,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what would go and what stays, and why."),
    ] = False,
    show_all: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Show each restore point. Else, of more than 50, those that follow each other"
            " and fare alike are one line.",
        ),
    ] = False,
    grace: Annotated[
        str | None,
        typer.Option(
            "--grace",
            metavar="DURATION",
            help="How long what no point needs any more stays, instead of the vault's prune_grace."
            " Less than 1d, down to 0s, only while no backup of any host runs.",
            show_default=False,
        ),
    ] = None,
    accept_gone: Annotated[
        list[str] | None,
        typer.Option(
            "--accept-gone",
            metavar="POINT",
            help="First note that this restore point, which is gone, was meant to go. Its whole"
            " id; can be repeated.",
            show_default=False,
        ),
    ] = None,
    vault: VaultOption = None,
) -> int:
    """Remove the restore points that no rule of their policy keeps, and say why the others stay.

    A point that expires goes at once. The objects that only it needed go by a later prune, once
    the grace is over: so have it run regularly, as the daemon does. Orphans, which backups that
    were killed have left, stay for 30 days to be resumed. No private recovery key is needed.

    The newest point of a source always stays, and so do points that are held, that are dated in
    the future, whose source no policy here names, or whose policy has no retention. Where
    something is wrong with a manifest or a point is gone, nothing is removed, and the exit status
    is 13: stderr says what it is.

    Examples:
      snapvault prune --dry-run
      snapvault prune
      snapvault prune --vault offsite --json
    """
    from snapvault.config.policies import read_policies

    run = session(context)
    wanted = _grace(grace)
    if accept_gone and len(run.vault_names(vault)) > 1:
        raise typer.BadParameter("name the vault with --vault", param_hint="--accept-gone")
    policies, problems = read_policies(run.settings)
    outcomes = Outcomes()
    # Their sources are named by no policy that can be read, so all of their points stay.
    outcomes.errors += show_problems(problems)
    documents: list[dict[str, Any]] = []
    is_wrong = False
    for name in run.vault_names(vault):
        try:
            done = _prune(run, name, policies, wanted, accept_gone or (), dry_run=dry_run)
        except SnapVaultError as error:
            outcomes.fail(error)
            continue
        outcomes.done += 1
        is_wrong |= bool(done.refusal or done.doubt)
        documents.append(_document(name, done, _month(run, name, done)[1], dry_run=dry_run))
        _tell(run, name, done, dry_run=dry_run, is_whole=show_all)
    if run.json and documents:
        run.report(documents, ())
    return IntegrityError.exit_status if is_wrong else outcomes.status


def _grace(text: str | None) -> timedelta | None:
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--grace") from error


def _prune(
    run: Session,
    name: str,
    policies: "Sequence[Policy]",
    grace: timedelta | None,
    gone: "Sequence[str]",
    *,
    dry_run: bool,
) -> "Pruned":
    from snapvault.wiring.pruning import prune_recorded, prune_vault

    run.console.subject = name
    if not dry_run:
        return prune_recorded(run.settings, name, policies, run.console, grace=grace, gone=gone)
    with run.open(name) as opened:
        return prune_vault(
            run.settings, opened, policies, run.console, grace=grace, is_rehearsal=True
        )


def _tell(run: Session, name: str, done: "Pruned", *, dry_run: bool, is_whole: bool) -> None:
    for told in (*done.refusal, *done.doubt):
        boundary.show(IntegrityError(told), about=f'vault "{name}": ')
    if done.refusal:
        boundary.show(
            IntegrityError(
                f'nothing was removed from vault "{name}": it cannot be trusted as it is',
                hint='Run "snapvault verify"; docs/retention.md says what to do.',
            )
        )
    elif done.doubt:
        boundary.show(
            IntegrityError(
                f'no object was removed from vault "{name}": restore points that stay lack some',
                hint='Run "snapvault verify"; docs/retention.md says what to do.',
            )
        )
    if run.json or done.refusal:
        return
    went = {each.held.manifest.name for each in done.removed}
    for line in verdicts(done.judged, went, dry_run=dry_run, is_whole=is_whole):
        print(line)
    would, will = ("would remove", "would go") if dry_run else ("removed", "go")
    count, size = done.deleted
    print(
        f"{would} {format_count(len(done.removed), 'restore point')} and "
        f"{format_count(count, 'object')} ({format_size(size)}) "
        f'from vault "{name}"; {format_count(len(done.judged) - len(done.removed), "point")} '
        f"{'stays' if len(done.judged) - len(done.removed) == 1 else 'stay'}"
    )
    count, size = done.waiting
    if count:
        print(f"{format_count(count, 'object')} ({format_size(size)}) {will} after the grace")
    count, size = done.paid
    if count and done.paid_until is not None:
        print(
            f"{format_count(count, 'object')} ({format_size(size)}) of these stay longer, as their "
            f"storage class is paid for until {local(done.paid_until)} at the latest"
        )
    prices, month = _month(run, name, done)
    if month:
        print(f"together {'they cost' if dry_run else 'these cost'} {money(month, prices)} a month")
    count, size = done.locked
    if count:
        first = f", the first until {local(done.unlocked_at)}" if done.unlocked_at else ""
        print(f"{format_count(count, 'object')} ({format_size(size)}) still locked{first}")
    count, size = done.orphans
    if count:
        print(
            f"{format_count(count, 'object')} ({format_size(size)}) of no restore point: "
            "of a backup at work, or kept 30 days to be resumed"
        )


def _month(run: Session, name: str, done: "Pruned") -> "tuple[PriceTable | None, float | None]":
    """Return what the objects that went, or will, cost a month; None: nobody knows."""
    from snapvault.wiring import costs

    table = costs.table_of(run.settings.vaults[name])
    classes = table.classes if table else {}
    if not done.sizes or not all(kind in classes for kind in done.sizes):
        return table, None
    return table, sum(classes[kind].storage * size / GIB for kind, size in done.sizes.items())


def _document(name: str, done: "Pruned", month: float | None, *, dry_run: bool) -> dict[str, Any]:
    went = {each.held.manifest.name for each in done.removed}

    def amount(pair: tuple[int, int]) -> dict[str, int]:
        return {"objects": pair[0], "bytes": pair[1]}

    return {
        "vault": name,
        "dry_run": dry_run,
        "points": [
            {
                **{
                    key: value
                    for key, value in point_document(name, each.held).items()
                    if key in {"id", "source", "taken_at", "size_bytes", "stored_bytes"}
                },
                "verdict": "goes" if each.held.manifest.name in went else "stays",
                "reasons": list(each.verdict.reasons),
                "locked_until": clock.to_text(each.locked_until) if each.locked_until else None,
                "suspicion": each.suspicion,
            }
            for each in done.judged
        ],
        "removed_points": len(done.removed),
        "deleted": amount(done.deleted),
        "waiting": amount(done.waiting),
        "month": month,
        "orphans": amount(done.orphans),
        "paid": {
            **amount(done.paid),
            "until": None if done.paid_until is None else clock.to_text(done.paid_until),
        },
        "locked": amount(done.locked),
        "unlocked_at": clock.to_text(done.unlocked_at) if done.unlocked_at else None,
        "problems": [*done.refusal, *done.doubt],
    }
