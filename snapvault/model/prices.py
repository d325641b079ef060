# SPDX-License-Identifier: Apache-2.0
"""What stores cost: prices by storage class, and what usage and storage come to by them.

A GB on a bill is 2^30 bytes, a month one of the calendar.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from snapvault.model.usage import Usage

STANDARD: Final = "STANDARD"
"""The class of what is stored without naming one."""

ARCHIVES: Final = frozenset(("GLACIER", "DEEP_ARCHIVE"))
"""Classes whose objects have to be thawed before they can be read."""

_GB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class ThawPrice:
    """Getting objects out of an archive: per GB, per 1000 objects, and how long it usually takes.

    None: the price is not known.
    """

    per_gb: float | None
    per_thousand: float | None
    least: timedelta | None
    most: timedelta


@dataclass(frozen=True, slots=True)
class ClassPrices:
    """A storage class: per GB and month, per 1000 requests, per GB read.

    An object is paid for as if it had `minimum_size` bytes at the least, `overhead` bytes more, and
    `index` bytes of the standard class; and for `minimum_days`, however early it is deleted.
    """

    storage: float
    put: float = 0.0
    get: float = 0.0
    retrieval: float = 0.0
    minimum_days: int = 0
    minimum_size: int = 0
    overhead: int = 0
    index: int = 0
    thaws: Mapping[str, ThawPrice] = field(default_factory=dict)

    def billed(self, size: int) -> int:
        """Return the bytes that an object is paid for as."""
        return max(size, self.minimum_size) + self.overhead


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices of one place. `egress` is per GB that leaves it. `note` says what is not sure."""

    name: str
    currency: str
    as_of: str
    source: str
    egress: float
    classes: Mapping[str, ClassPrices]
    note: str = ""


@dataclass(frozen=True, slots=True)
class OwnPrices:
    """What the settings of a vault say of prices; None, and classes not named: as listed."""

    currency: str | None = None
    egress: float | None = None
    source: str | None = None
    classes: Mapping[str, ClassPrices] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bill:
    """What usage comes to."""

    requests: float = 0.0
    retrieval: float = 0.0
    egress: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.requests + self.retrieval + self.egress


@dataclass(frozen=True, slots=True)
class Stored:
    """Objects of one class: how many, their bytes, those paid for, and of these by the index."""

    objects: int = 0
    size: int = 0
    billed: int = 0
    index: int = 0


def with_own(listed: PriceTable | None, own: OwnPrices | None) -> PriceTable | None:
    """Return a table with a vault's own prices in place of listed ones; None: nothing is known."""
    if own is None:
        return listed
    if listed is None:
        egress, source = own.egress or 0.0, own.source or ""
        return PriceTable("of the settings", own.currency or "USD", "", source, egress, own.classes)
    changed = {name: _merged(listed.classes.get(name), each) for name, each in own.classes.items()}
    return replace(
        listed,
        name=f"{listed.name}, changed by the settings",
        currency=own.currency or listed.currency,
        source=own.source or listed.source,
        egress=listed.egress if own.egress is None else own.egress,
        classes={**listed.classes, **changed},
    )


def _merged(listed: ClassPrices | None, own: ClassPrices) -> ClassPrices:
    """Return own prices of a class, with what settings cannot say of it as it is listed."""
    if listed is None:
        return own
    return replace(own, overhead=listed.overhead, index=listed.index, thaws=listed.thaws)


def bill(table: PriceTable, usage: Usage, volumes: str, metadata: str) -> Bill | None:
    """Return what usage costs, with the classes of volumes and of the rest; None: one is unknown.

    Listings count as requests of the metadata's class.
    """
    vol, rest = table.classes.get(volumes), table.classes.get(metadata)
    if vol is None or rest is None:
        return None
    requests = (
        usage.volume_puts * vol.put
        + usage.volume_gets * vol.get
        + (usage.puts - usage.volume_puts) * rest.put
        + (usage.gets - usage.volume_gets) * rest.get
    )
    retrieval = (
        usage.volume_down * vol.retrieval + (usage.bytes_down - usage.volume_down) * rest.retrieval
    )
    return Bill(requests / 1000, retrieval / _GB, usage.bytes_down * table.egress / _GB)


def stored(table: PriceTable | None, objects: Iterable[tuple[str, int]]) -> dict[str, Stored]:
    """Sum up objects, (class, size) each, by class."""
    found: dict[str, Stored] = {}
    for name, size in objects:
        prices = table.classes.get(name) if table else None
        before = found.get(name, Stored())
        found[name] = Stored(
            before.objects + 1,
            before.size + size,
            before.billed + (prices.billed(size) if prices else size),
            before.index + (prices.index if prices else 0),
        )
    return found


def month(table: PriceTable, name: str, what: Stored) -> float | None:
    """Return what objects of a class cost a month; None: the class is unknown."""
    prices, standard = table.classes.get(name), table.classes.get(STANDARD)
    if prices is None:
        return None
    index = what.index * (standard.storage if standard else prices.storage)
    return (what.billed * prices.storage + index) / _GB


def thaw(price: ThawPrice, objects: int, size: int) -> float | None:
    """Return what it costs to thaw objects; None: nobody knows."""
    if price.per_gb is None or price.per_thousand is None:
        return None
    return price.per_gb * size / _GB + price.per_thousand * objects / 1000
