# SPDX-License-Identifier: Apache-2.0
"""What a vault costs: as it is stored, as it was used, and what is foreseen of more."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from snapvault import clock
from snapvault.engine.vault import Vault, sync
from snapvault.errors import SnapVaultError
from snapvault.formats import names
from snapvault.model import price_list, prices
from snapvault.model.point import ObjectRecord
from snapvault.model.policy import DEFAULT_VOLUME_SIZE
from snapvault.model.prices import ARCHIVES, STANDARD, Bill, PriceTable, Stored
from snapvault.model.settings import Settings, VaultSettings
from snapvault.model.usage import Usage
from snapvault.ports.events import Events
from snapvault.wiring.history import open_history
from snapvault.wiring.runs import usage_of

LOOKED_BACK: Final = timedelta(days=30)
"""How far back the history is asked what was used."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Something that may be done, what it will ask, what that costs, and what must be thawed.

    `thaws` are (class, objects, bytes). `is_bound`: at the most.
    """

    what: str
    usage: Usage
    bill: Bill | None
    thaws: tuple[tuple[str, int, int], ...] = ()
    is_bound: bool = False


@dataclass(frozen=True, slots=True)
class Costs:
    """A vault's. `months` are by class; None there and `table` None: nobody knows the prices.

    `asked` is by verb since `since`, as this host counted it. `stored_share` is what first backups
    stored of what they read.
    """

    vault: str
    store: str
    table: PriceTable | None
    volumes_class: str
    metadata_class: str
    stored: Mapping[str, Stored]
    months: Mapping[str, float | None]
    since: datetime
    asked: Mapping[str, tuple[Usage, Bill | None]]
    expected: tuple[Expected, ...]
    stored_share: float | None


def table_of(settings: VaultSettings) -> PriceTable | None:
    """Return the prices of a vault: listed ones for Amazon, those of its settings; None: unknown.

    A folder costs nothing that anybody could list.
    """
    is_amazon = settings.store.startswith("s3://") and settings.endpoint_url is None
    listed = price_list.listed(settings.region) if is_amazon else None
    return prices.with_own(listed, settings.prices)


def paid_days(settings: VaultSettings) -> dict[str, int]:
    """Return for how many days objects are paid for at the least, by storage class; none if early.

    Where no price is known, nothing is.
    """
    table = None if settings.prune_early else table_of(settings)
    classes = table.classes if table else {}
    return {name: each.minimum_days for name, each in classes.items() if each.minimum_days}


def of_vault(
    settings: Settings, vault: Vault, events: Events, *, first_backup: int | None = None
) -> Costs:
    """Find out what a vault costs; also a first backup of so many bytes, if wanted.

    Raises:
        StoreError: the vault cannot be listed or read.
        IntegrityError: a list is missing or damaged.
    """
    from snapvault.engine import forecast

    opening = usage_of(vault)
    chosen = settings.vaults[vault.name]
    table = table_of(chosen)
    classes = (chosen.volumes_class or STANDARD, chosen.storage_class or STANDARD)
    objects = {
        found.name: (found.storage_class or STANDARD, found.size) for found in vault.store.names()
    }
    stored = prices.stored(table, objects.values())
    months = {
        name: prices.month(table, name, what) if table else None for name, what in stored.items()
    }
    since = clock.now() - LOOKED_BACK
    look = _Look(table, classes, {name: kind for name, (kind, _) in objects.items()})
    inventory = sync(vault)
    newest = {each.point.source: each.point for each in inventory.held if not each.missing}
    expected = _verifies(vault, look, opening)
    for source, point in sorted(newest.items()):
        found = forecast.of_whole(vault, point)
        expected.append(look.at(f"restore {source}", found.usage, found.volumes))
    if first_backup is not None:
        usage = forecast.of_first_backup(first_backup, DEFAULT_VOLUME_SIZE)
        expected.append(look.at("first backup", usage, (), is_bound=True))
    firsts = [each for each in inventory.held if each.point.parent is None]
    read = sum(each.point.size for each in firsts)
    return Costs(
        vault=vault.name,
        store=chosen.store,
        table=table,
        volumes_class=classes[0],
        metadata_class=classes[1],
        stored=stored,
        months=months,
        since=since,
        asked={
            verb: (usage, look.bill(usage))
            for verb, usage in _asked(settings, vault.name, since, events).items()
        },
        expected=tuple(expected),
        stored_share=sum(each.stored_bytes for each in firsts) / read if read else None,
    )


def of_reads(
    settings: VaultSettings,
    vault: Vault,
    usage: Usage,
    volumes: Sequence[ObjectRecord],
    what: str,
    *,
    is_bound: bool,
) -> Expected:
    """Say what usage costs that reads these volumes, which are listed for their classes.

    Raises:
        StoreError: the vault cannot be listed.
    """
    classes = (settings.volumes_class or STANDARD, settings.storage_class or STANDARD)
    wanted = {each.name for each in volumes}
    kept_as = {
        found.name: found.storage_class or STANDARD
        for found in (vault.store.names(names.VOLUMES) if wanted else ())
        if found.name in wanted
    }
    look = _Look(table_of(settings), classes, kept_as)
    return look.at(what, usage, volumes, is_bound=is_bound)


@dataclass(frozen=True, slots=True)
class _Look:
    """Prices, the classes of volumes and of the rest by the settings, and of objects by name."""

    table: PriceTable | None
    classes: tuple[str, str]
    kept_as: Mapping[str, str]

    def bill(self, usage: Usage) -> Bill | None:
        return None if self.table is None else prices.bill(self.table, usage, *self.classes)

    def at(
        self,
        what: str,
        usage: Usage,
        volumes: Sequence[ObjectRecord],
        *,
        is_bound: bool = False,
    ) -> Expected:
        from snapvault.engine import forecast

        groups: dict[str, list[ObjectRecord]] = {}
        for each in volumes:
            groups.setdefault(self.kept_as.get(each.name, self.classes[0]), []).append(each)
        bills = [self.bill(usage - forecast.reads(volumes))]
        for name, group in groups.items():
            part = forecast.reads(group)
            found = prices.bill(self.table, part, name, self.classes[1]) if self.table else None
            bills.append(found)
        thaws = tuple(
            (name, len(group), sum(each.size for each in group))
            for name, group in sorted(groups.items())
            if name in ARCHIVES
        )
        return Expected(what, usage, _total(bills), thaws, is_bound)


def _total(bills: Iterable[Bill | None]) -> Bill | None:
    total = Bill()
    for each in bills:
        if each is None:
            return None
        total = Bill(
            total.requests + each.requests,
            total.retrieval + each.retrieval,
            total.egress + each.egress,
        )
    return total


def _verifies(vault: Vault, look: _Look, opening: Usage) -> list[Expected]:
    """Foresee verifies of the whole vault at the levels that need no recovery key."""
    import random

    from snapvault.engine import forecast
    from snapvault.engine.verify import Level, Verification

    inventory = sync(vault)
    before = usage_of(vault)
    sync(vault)
    listing = usage_of(vault) - before + opening
    points = [each.point for each in inventory.held if not each.missing]
    volumes = forecast.volumes_of(vault, points)
    found = []
    for level in (Level.OBJECTS, Level.DATA):
        work = Verification(
            vault,
            inventory,
            level,
            100.0,
            vault.state / "spool",
            random.Random(),  # noqa: S311 - nothing is drawn
        )
        usage = listing + work.forecast(None, lambda: usage_of(vault))
        read = volumes if level is Level.DATA else ()
        found.append(look.at(f"verify --level {level.value}", usage, read))
    return found


def _asked(settings: Settings, vault: str, since: datetime, events: Events) -> Mapping[str, Usage]:
    """Return what this host asked of a vault's store since then; nothing if nobody remembers."""
    try:
        with open_history(settings, events) as history:
            return history.usage(since).get(vault, {})
    except SnapVaultError as error:
        events.warn("history.failed", f"{error}; what was used is not known")
        return {}
