# SPDX-License-Identifier: Apache-2.0
"""`--dry-run` of restores and verifies: what they would ask of the store, and what that costs."""

from typing import TYPE_CHECKING, Any

from snapvault.cli.cost_words import expected_document, prices_document, told, told_prices
from snapvault.cli.session import Session
from snapvault.cli.words import local, point_document

if TYPE_CHECKING:
    from snapvault.engine.vault import Held, Vault
    from snapvault.engine.verify import Verification
    from snapvault.model.point import StreamRecord
    from snapvault.model.usage import Usage
    from snapvault.wiring.costs import Expected


def restore(
    run: Session,
    vault: "Vault",
    held: "Held",
    streams: "tuple[StreamRecord, ...]",
    *,
    is_bound: bool,
) -> None:
    """Tell what a restore would take; `is_bound`: it may take less.

    Raises:
        IntegrityError: an object is missing or damaged.
        KeyMissingError: no key here opens the maps.
    """
    from snapvault.engine import forecast
    from snapvault.wiring import costs
    from snapvault.wiring.runs import usage_of

    found = forecast.of_restore(vault, held, streams, lambda: usage_of(vault))
    settings = run.settings.vaults[vault.name]
    what = f"restore {held.point.source}"
    expected = costs.of_reads(settings, vault, found.usage, found.volumes, what, is_bound=is_bound)
    prices = costs.table_of(settings)
    first, *more = told(expected, prices)
    about = (
        f'would restore source "{held.point.source}" from restore point {held.point.point}, '
        f"taken {local(held.point.taken_at)}"
    )
    document = {
        **point_document(vault.name, held),
        "dry_run": True,
        "prices": prices_document(prices),
        "foreseen": expected_document(expected, prices),
    }
    run.report(document, [about, first, *more, told_prices(prices)])


def verify(
    run: Session,
    vault: "Vault",
    work: "Verification",
    source: str | None,
    opening: "Usage",
) -> dict[str, Any]:
    """Tell what a verify would take, and return it as a document; `opening` opened the vault.

    Raises:
        IntegrityError: an object is missing or damaged.
        KeyMissingError: no key here opens the maps.
    """
    from snapvault.engine import forecast
    from snapvault.engine.vault import sync
    from snapvault.engine.verify import Level
    from snapvault.wiring import costs
    from snapvault.wiring.runs import usage_of

    before = usage_of(vault)
    sync(vault, source)
    usage = opening + usage_of(vault) - before
    usage += work.forecast(source, lambda: usage_of(vault))
    points = [
        each.point
        for each in work.inventory.held
        if not each.missing and source in {None, each.point.source}
    ]
    is_all = work.level is Level.DATA and work.sample >= 100
    volumes = forecast.volumes_of(vault, points) if is_all else ()
    settings = run.settings.vaults[vault.name]
    expected = costs.of_reads(
        settings, vault, usage, volumes, f"verify --level {work.level.value}", is_bound=False
    )
    prices = costs.table_of(settings)
    if not run.json:
        _print(vault.name, work, expected, run)
    return {
        "vault": vault.name,
        "level": work.level.value,
        "dry_run": True,
        "prices": prices_document(prices),
        "foreseen": expected_document(expected, prices),
    }


def _print(name: str, work: "Verification", expected: "Expected", run: Session) -> None:
    from snapvault.wiring import costs

    prices = costs.table_of(run.settings.vaults[name])
    first, *more = told(expected, prices)
    about = "" if work.sample >= 100 else ", about, as chance decides what is read"
    print(f'would verify vault "{name}" at level {work.level.value}: {first}{about}')
    for line in (*more, told_prices(prices)):
        print(line)
