# SPDX-License-Identifier: Apache-2.0
"""`snapvault cost`: what a vault costs, and what is foreseen of more."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapvault import clock
from snapvault.cli.cost_words import (
    bill_document,
    expected_document,
    money,
    prices_document,
    told,
    told_prices,
)
from snapvault.cli.failures import Outcomes
from snapvault.cli.session import Session, session
from snapvault.cli.words import table as table_of
from snapvault.errors import SnapVaultError
from snapvault.units import format_size, parse_size

if TYPE_CHECKING:
    from snapvault.wiring.costs import Costs


def command(
    context: typer.Context,
    vault: Annotated[
        str | None,
        typer.Argument(metavar="VAULT", help="This vault only; left out: all.", show_default=False),
    ] = None,
    backup: Annotated[
        str | None,
        typer.Option(
            "--backup",
            metavar="SIZE",
            help="Foresee a first backup of this much, too; at most: as if nothing could be"
            " compressed.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Show what a vault costs: what is stored a month, what was used, what more would take.

    Stored is what the store lists now, by storage class. Used is what this host counted in the
    last 30 days: requests that were tried again count once, and what other hosts did is not
    there. Foreseen are verifies of all, and a restore of each source's newest point, from its
    manifest and lists; of archived volumes what each way of thawing them takes. For one restore or
    verify, with its options, ask the command itself with --dry-run.

    Prices are list prices without discounts, tiers and free allowances, or those of "prices" in the
    settings. Finding all this out lists the vault, and takes a few requests.

    Examples:
      snapvault cost
      snapvault cost offsite --backup 500GiB
      snapvault cost --json
    """
    run = session(context)
    size = _size(backup)
    outcomes = Outcomes()
    documents: list[dict[str, Any]] = []
    for name in run.vault_names(vault):
        try:
            found = _costs(run, name, size)
        except SnapVaultError as error:
            outcomes.fail(error)
            continue
        outcomes.done += 1
        documents.append(_document(found))
        if not run.json:
            print("\n".join(["", *_lines(found)] if outcomes.done > 1 else _lines(found)))
    if run.json and documents:
        run.report(documents, ())
    return outcomes.status


def _size(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        size = parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--backup") from error
    if size < 1:
        raise typer.BadParameter("expected more than nothing", param_hint="--backup")
    return size


def _costs(run: Session, name: str, size: int | None) -> "Costs":
    from snapvault.wiring import costs, runs

    run.console.subject = name
    with (
        run.open(name) as opened,
        runs.counting_requests(run.settings, opened, run.console, verb="cost"),
    ):
        return costs.of_vault(run.settings, opened, run.console, first_backup=size)


def _lines(found: "Costs") -> list[str]:
    prices = found.table
    lines = [f'vault "{found.vault}" at {found.store}', told_prices(prices), "", "stored:"]
    rows = [
        [
            name,
            f"{what.objects:,}",
            format_size(what.size),
            format_size(what.billed + what.index),
            money(found.months[name], prices),
        ]
        for name, what in sorted(found.stored.items())
    ]
    header = ["CLASS", "OBJECTS", "SIZE", "PAID-FOR", "A-MONTH"]
    lines += [f"  {line}" for line in table_of(header, rows, right=" ".join(header[1:]))]
    lines += ["", f"used since {clock.to_text(found.since)[:10]}, as counted on this host:"]
    if found.asked:
        header = ["VERB", "PUT+LIST", "GET", "DELETE", "SENT", "FETCHED", "COST"]
        rows = [
            [
                verb,
                f"{usage.puts:,}",
                f"{usage.gets:,}",
                f"{usage.deletes:,}",
                format_size(usage.bytes_up),
                format_size(usage.bytes_down),
                money(bill.total if bill else None, prices),
            ]
            for verb, (usage, bill) in sorted(found.asked.items())
        ]
        lines += [f"  {line}" for line in table_of(header, rows, right=" ".join(header[1:]))]
    else:
        lines.append("  nothing")
    lines += ["", "foreseen:"]
    for each in found.expected:
        first, *more = told(each, prices)
        lines += [f"  {each.what}: {first}", *(f"    {line}" for line in more)]
        if each.what == "first backup":
            lines += [f"    {line}" for line in _after_first(found, each.usage.bytes_up)]
    return lines


def _after_first(found: "Costs", size: int) -> list[str]:
    """Say what a first backup costs from then on, and how much smaller others were."""
    prices = found.table.classes.get(found.volumes_class) if found.table else None
    month = prices.storage * size / (1 << 30) if prices else None
    lines = [f"then {money(month, found.table)} a month in {found.volumes_class}, at most"]
    if found.stored_share is not None:
        lines.append(
            f"first backups in this vault stored {found.stored_share:.0%} of the sizes of their"
            " sources"
        )
    return lines


def _document(found: "Costs") -> dict[str, Any]:
    return {
        "vault": found.vault,
        "store": found.store,
        "prices": prices_document(found.table),
        "stored": [
            {
                "storage_class": name,
                "objects": what.objects,
                "bytes": what.size,
                "billed_bytes": what.billed + what.index,
                "month": found.months[name],
            }
            for name, what in sorted(found.stored.items())
        ],
        "since": clock.to_text(found.since),
        "used": {
            verb: {"usage": usage.counters(), "cost": bill_document(bill)}
            for verb, (usage, bill) in sorted(found.asked.items())
        },
        "foreseen": [expected_document(each, found.table) for each in found.expected],
        "first_backup_share": found.stored_share,
    }
