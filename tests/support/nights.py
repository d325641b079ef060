# SPDX-License-Identifier: Apache-2.0
"""Nights of one vault under a clock that is moved, with prunes between them."""

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from snapvault import clock
from snapvault.engine.prune import Options, Pruned, prune
from snapvault.engine.prune_plan import Rules
from snapvault.engine.vault import Vault
from snapvault.engine.verify import Level
from snapvault.formats import names, volume_list
from snapvault.model.point import Point
from snapvault.model.policy import Retention
from snapvault.ports.store import Store
from tests.support.vaults import MixedSource, VaultKit, require_whole

GRACE = timedelta(days=7)


class Nights:
    """A vault with one source; `source` is changed and backed up once a day."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, store: Store | None = None
    ) -> None:
        self.now = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
        monkeypatch.setattr(clock, "now", lambda: self.now)
        self.kit = VaultKit(folder, volume_size=32 << 10, store=store)
        self.source = MixedSource(
            disks={"root": bytearray(random.Random(1).randbytes(100_000))},
            streams={"dump": random.Random(2).randbytes(30_000)},
        )
        self.source.next_taken_at = self.now
        self._random = random.Random(3)
        self.rules: Mapping[str, Rules] = {self.source.name: Rules(Retention(last=2, daily=3), UTC)}

    def pass_days(self, days: float) -> None:
        self.now += timedelta(days=days)
        self.source.next_taken_at = self.now

    def change(self) -> None:
        """Change a part of the disk and of the dump, so that volumes die over the nights."""
        disk = self.source.disks["root"]
        assert isinstance(disk, bytearray)
        start = self._random.randrange(0, 60_000)
        disk[start : start + 40_000] = self._random.randbytes(40_000)
        self.source.streams["dump"] = self._random.randbytes(30_000)

    def night(self, store: Store | None = None) -> Point:
        """Let a day pass, change the source and back it up."""
        self.pass_days(1)
        self.change()
        return self.kit.night(self.source, store).point

    def nights(self, count: int) -> list[Point]:
        return [self.night() for _ in range(count)]

    def prune(
        self,
        store: Store | None = None,
        *,
        grace: timedelta = GRACE,
        vault: Vault | None = None,
        is_rehearsal: bool = False,
    ) -> Pruned:
        options = self.options(grace, is_rehearsal=is_rehearsal)
        return prune(vault or self.kit.host(store), self.rules, options)

    def options(self, grace: timedelta = GRACE, *, is_rehearsal: bool = False) -> Options:
        return Options(grace, "host.example.org", "snapvault test", is_rehearsal)

    def rules_of(self, *, last: int) -> Rules:
        return Rules(Retention(last=last), UTC)

    def there(self) -> list[Point]:
        """Return the points that a fresh machine finds; nothing may be wrong with them."""
        inventory = self.kit.inventory()
        assert inventory.problems == ()
        return [held.point for held in inventory.held]

    def require_restorable(self) -> None:
        """Bring back every point that there is, and compare it with what the source showed."""
        for point in self.there():
            assert self.kit.restored(point) == self.source.at(point)

    def require_whole(self) -> None:
        """Bring back every point both ways and compare it; verify the vault, twice."""
        require_whole(self.kit, self.source, self.there())
        assert self.kit.verify(Level.FULL).findings == ()
        assert self.kit.verify(Level.DATA, self.kit.host()).findings == ()

    def objects(self) -> set[str]:
        return {name for name in self.kit.objects() if names.is_prunable(name)}

    def settle(self) -> None:
        """Prune with nobody beside it until there is nothing left to do."""
        for _ in range(2):
            self.prune()
            self.pass_days(8)
        self.pass_days(30)
        for _ in range(2):
            self.prune()
            self.pass_days(8)

    def require_settled(self) -> None:
        """What is left is what the points need, and nothing else."""
        points = self.there()
        vault = self.kit.host()
        needed = {record.name for each in points for record in (*each.objects, *each.lists)}
        lists = {record for each in points for record in each.lists}
        needed |= {
            names.volume(volume.volume)
            for record in lists
            for volume in volume_list.decode(vault.store.get(record.name))
        }
        assert self.objects() == needed
