# SPDX-License-Identifier: Apache-2.0
"""A copy of the vault of `Nights`, over any store."""

import random
from dataclasses import replace
from datetime import timedelta
from itertools import count

from snapvault.adapters.stores.memory import MemoryStore
from snapvault.engine import copy_target
from snapvault.engine.copy_plan import Choice
from snapvault.engine.copying import Copied, Options, copy
from snapvault.engine.prune import Pruned, prune
from snapvault.engine.vault import Inventory, Vault, read_record, sync
from snapvault.engine.verify import Finding, Level, Verification
from snapvault.model.point import Point
from snapvault.ports.store import Store
from tests.support.catalogs import MemoryCatalog
from tests.support.nights import GRACE, Nights

_NUMBERS = count()


class Copy:
    """A second vault of the settings, and what is done with it."""

    def __init__(self, nights: Nights, store: Store | None = None) -> None:
        self.nights = nights
        self.store: Store = store or MemoryStore()
        self.catalog = MemoryCatalog()
        self.folder = nights.kit.folder / f"copy-{next(_NUMBERS)}"

    def host(self, store: Store | None = None) -> Vault:
        """Return the copy as the host that makes it sees it, perhaps through another store."""
        record = read_record(self.store)
        assert record is not None
        return replace(
            self.nights.kit.host(store or self.store),
            name="second",
            record=record,
            catalog=self.catalog,
            state=self.folder,
        )

    def recovery(self) -> Vault:
        """Return the copy as a fresh machine with the recovery key sees it."""
        return replace(
            self.nights.kit.recovery(self.store), name="second", record=self.host().record
        )

    def copy(
        self,
        choice: Choice | None = None,
        *,
        source: Store | None = None,
        target: Store | None = None,
    ) -> Copied:
        """Copy, perhaps through other stores."""
        vault = self.nights.kit.host(source)
        if copy_target.find(vault, "second", target or self.store, vault.sealer) is None:
            copy_target.begin(vault, target or self.store)
        folder = self.folder / "copying"
        folder.mkdir(parents=True, exist_ok=True)
        options = Options(folder, GRACE, "host.example.org", "snapvault test")
        return copy(vault, self.host(target), choice or Choice(), options)

    def prune(self, *, last: int, grace: timedelta = GRACE, store: Store | None = None) -> Pruned:
        """Prune the copy by a rule of its own."""
        rules = {self.nights.source.name: self.nights.rules_of(last=last)}
        return prune(self.host(store), rules, self.nights.options(grace))

    def inventory(self) -> Inventory:
        """Return what a fresh machine finds in the copy."""
        return sync(self.recovery())

    def there(self) -> list[Point]:
        """Return the points that a fresh machine finds; nothing may be wrong with them."""
        inventory = self.inventory()
        assert inventory.problems == ()
        return [held.point for held in inventory.held]

    def require_restorable(self) -> None:
        """Bring every point of the copy back, and compare it with what the source showed."""
        for point in self.there():
            restored = self.nights.kit.restored(point, self.store)
            assert restored == self.nights.source.at(point)

    def findings(self, level: Level = Level.DATA) -> tuple[Finding, ...]:
        """Verify the copy on a fresh machine."""
        vault = self.recovery()
        folder = self.folder / "spool"
        return Verification(vault, sync(vault), level, 100, folder, random.Random(1)).run().findings

    def objects(self) -> dict[str, int]:
        """Return all objects of the copy with their sizes."""
        return {found.name: found.size for found in self.store.names()}
