# SPDX-License-Identifier: Apache-2.0
"""How costs and forecasts are told: in lines to people, as documents to programs."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from snapvault.model import prices
from snapvault.units import format_count, format_duration, format_size

if TYPE_CHECKING:
    from snapvault.model.prices import Bill, PriceTable, ThawPrice
    from snapvault.wiring.costs import Expected

UNKNOWN = "?"
NO_PRICES = 'prices are not known: write them into "prices" of the vault'


def money(amount: float | None, table: "PriceTable | None") -> str:
    """Write an amount: `12.30 USD`, `under 0.01 USD`, or `?`."""
    if amount is None or table is None:
        return UNKNOWN
    if 0 < amount < 0.01:
        return f"under 0.01 {table.currency}"
    return f"{amount:,.2f} {table.currency}"


def told_prices(table: "PriceTable | None") -> str:
    """Say whose prices are shown, of when, and what is not sure of them."""
    if table is None:
        return NO_PRICES
    as_of = f" as of {table.as_of}" if table.as_of else ""
    note = f" {table.note}" if table.note else ""
    source = f", from {table.source}" if table.source else ""
    return f"prices: {table.name}{as_of}{source}.{note}"


def told(expected: "Expected", table: "PriceTable | None") -> Iterator[str]:
    """Say what is foreseen, and what it costs."""
    usage = expected.usage
    most = "at most " if expected.is_bound else ""
    moved = [
        f"{format_size(size)} {verb}"
        for size, verb in ((usage.bytes_up, "sent"), (usage.bytes_down, "fetched"))
        if size
    ]
    volumes = usage.volume_gets or usage.volume_puts
    of = f" ({format_count(volumes, 'volume')})" if volumes else ""
    yield (
        f"{most}{format_count(usage.requests, 'request')}, {' and '.join(moved) or 'nothing moved'}"
        f"{of}: {_told_bill(expected.bill, table)}"
    )
    for name, objects, size in expected.thaws:
        about = f"{format_count(objects, 'volume')} ({format_size(size)}) in {name}"
        yield f"{about} must be thawed before: {told_thaws(name, objects, size, table)}"


def told_thaws(name: str, objects: int, size: int, table: "PriceTable | None") -> str:
    """Say how long each tier of a class takes, and what it costs."""
    found = table.classes.get(name) if table else None
    if found is None or not found.thaws:
        return "how long it takes and what it costs is not known"
    return "; ".join(
        f"{tier}, {told_time(price)}, {money(prices.thaw(price, objects, size), table)}"
        for tier, price in found.thaws.items()
    )


def told_time(price: "ThawPrice") -> str:
    """Say how long a thaw usually takes."""
    most = format_duration(price.most)
    return f"up to {most}" if price.least is None else f"{format_duration(price.least)} to {most}"


def _told_bill(bill: "Bill | None", table: "PriceTable | None") -> str:
    if bill is None:
        return "the cost is not known"
    parts = [
        f"{what} {money(amount, table)}"
        for what, amount in (
            ("requests", bill.requests),
            ("retrieval", bill.retrieval),
            ("leaving the store", bill.egress),
        )
        if amount
    ]
    why = f" ({', '.join(parts)})" if len(parts) > 1 and bill.total >= 0.01 else ""
    return f"{money(bill.total, table)}{why}"


def expected_document(expected: "Expected", table: "PriceTable | None") -> dict[str, Any]:
    """Return what is foreseen; amounts are in the currency, None: not known."""
    return {
        "what": expected.what,
        "at_most": expected.is_bound,
        "usage": expected.usage.counters(),
        "cost": bill_document(expected.bill),
        "thaws": [
            {
                "storage_class": name,
                "objects": objects,
                "bytes": size,
                "tiers": [
                    {
                        "tier": tier,
                        "cost": prices.thaw(price, objects, size),
                        "most_seconds": price.most.total_seconds(),
                    }
                    for tier, price in _thaws(name, table)
                ],
            }
            for name, objects, size in expected.thaws
        ],
    }


def bill_document(bill: "Bill | None") -> dict[str, float] | None:
    """Return what something costs."""
    return None if bill is None else {**asdict(bill), "total": bill.total}


def prices_document(table: "PriceTable | None") -> dict[str, Any] | None:
    """Return whose prices are counted with."""
    if table is None:
        return None
    names = ("name", "currency", "as_of", "source", "note")
    return {name: getattr(table, name) for name in names}


def _thaws(name: str, table: "PriceTable | None") -> "list[tuple[str, ThawPrice]]":
    found = table.classes.get(name) if table else None
    return list(found.thaws.items()) if found else []
