# SPDX-License-Identifier: Apache-2.0
"""Restores from an archive: what is needed is asked for, with what it costs said before."""

from typing import TYPE_CHECKING, Annotated

import typer

from snapvault.cli.cost_words import money, told_time
from snapvault.cli.session import Session
from snapvault.errors import StoreError
from snapvault.model import price_list, prices
from snapvault.ports.archive import Tier
from snapvault.units import format_count, format_size

if TYPE_CHECKING:
    from snapvault.engine.thaw import Cold
    from snapvault.engine.vault import Held, Vault
    from snapvault.model.point import StreamRecord

DEFAULT_DAYS = 7

TierOption = Annotated[
    Tier | None,
    typer.Option(
        "--tier",
        case_sensitive=False,
        help="How fast volumes are thawed that lie in an archive; Standard if left out. The faster,"
        " the dearer: --dry-run says how much.",
        show_default=False,
    ),
]
DaysOption = Annotated[
    int,
    typer.Option(
        "--thaw-days",
        metavar="DAYS",
        min=1,
        max=365,
        help="How long thawed volumes can be read.",
    ),
]


def is_likely(run: Session, vault: str, tier: Tier | None) -> bool:
    """Tell whether volumes of a vault lie in an archive, as far as it can be known unasked."""
    return tier is not None or run.settings.vaults[vault].volumes_class in prices.ARCHIVES


def thaw(
    run: Session,
    vault: "Vault",
    held: "Held",
    streams: "tuple[StreamRecord, ...]",
    *,
    tier: Tier,
    days: int,
) -> None:
    """See to it that all volumes that streams of a point need can be read: ask, and wait.

    Raises:
        BadParameter: a class has no such tier.
        StoreError: the store refuses.
    """
    from snapvault.engine import fetch
    from snapvault.engine import thaw as thawing
    from snapvault.engine.contents import look_up
    from snapvault.wiring import vaults

    archive = vaults.open_frozen(run.settings.vaults[vault.name], vault)
    if archive is None:
        return
    needed = look_up(vault, held.point, streams).plan().volumes
    cold = thawing.find_cold(archive, [fetch.object_of(each) for each in needed])
    if not cold.all:
        return
    _say(run, vault, cold, tier, days)

    def waiting(left: int) -> None:
        run.console.note(f"{format_count(left, 'volume')} of {len(cold.all)} cannot be read yet")

    thawing.thaw(archive, cold, tier=tier, days=days, on_wait=waiting)
    run.console.note(f"{format_count(len(cold.all), 'volume is', 'volumes are')} thawed")


def in_vain(error: StoreError) -> StoreError:
    """Return the error of a restore to a pipe that found an archived volume half way."""
    return type(error)(
        str(error),
        hint="What was written so far is not the whole stream. Run it again with --tier Standard:"
        " then all volumes are asked for before the first byte is written.",
    )


def _say(run: Session, vault: "Vault", cold: "Cold", tier: Tier, days: int) -> None:
    """Say what is asked for, how long it takes and what it costs; refuse a tier there is not."""
    from snapvault.wiring import costs

    table = costs.table_of(run.settings.vaults[vault.name])
    listed = price_list.listed(None).classes
    for name, objects, size in cold.sums():
        own = table.classes.get(name) if table else None
        price = (own or listed[name]).thaws.get(tier.value) or listed[name].thaws.get(tier.value)
        if price is None:
            tiers = ", ".join(listed[name].thaws)
            raise typer.BadParameter(
                f"volumes lie in {name}, which has no tier {tier.value}; it has: {tiers}",
                param_hint="--tier",
            )
        is_priced = own is not None and bool(own.thaws)
        cost = money(prices.thaw(price, objects, size), table) if is_priced else ""
        run.console.warning(
            f"{format_count(objects, 'volume')} ({format_size(size)}) in {name} must be thawed:"
            f" asking for them at tier {tier.value}, which takes {told_time(price)} and costs"
            f" {cost or 'what the store takes for it'}; they can be read for {days} days then"
        )
    if cold.thawing:
        run.console.warning(
            f"{format_count(len(cold.thawing), 'volume')} were asked for before: waiting for them"
        )
    run.console.note("this can be interrupted: the same command goes on waiting")
