# SPDX-License-Identifier: Apache-2.0
"""A thousand nights of one disk, with a prune after each, through the real engine.

The clock is moved, the store is in memory, and nothing is encrypted with GnuPG: a double takes its
place, which hides and authenticates, since gpg alone would take an hour. The disk is small, and so
are its volumes: it has as many of them as a disk of 64 GiB has with volumes of 64 MiB.
"""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.aging import BLOCK, AgingDisk, AgingSource, Blocks, content_of
from benchmarks.measure import BenchmarkError
from snapvault import clock
from snapvault.engine.commit import cached_list
from snapvault.engine.prune import Options, prune
from snapvault.engine.prune_plan import Rules
from snapvault.engine.restore import restore
from snapvault.formats import names
from snapvault.model.point import Point
from snapvault.model.policy import Retention, Rewriting
from snapvault.ports.store import Readable, Store
from tests.support.stores import ForwardingStore
from tests.support.targets import MemoryTarget
from tests.support.vaults import VaultKit

Document = dict[str, Any]

BLOCKS: Final = 8192
VOLUME_SIZE: Final = 8 * BLOCK
FIRST_MONTH: Final = 30  # nights
RETENTION: Final = Retention(daily=7, weekly=5, monthly=12, yearly=3)
GRACE: Final = timedelta(days=7)
RESTORED: Final = (30, 100, 365, 700)  # nights after which the newest point is restored
_START = datetime(2026, 1, 5, 1, 30, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Night:
    """What there is after a night: bytes, but for the counts.

    `live` are those of all different blocks of the points that are kept, each once; `volumes` and
    `objects` those in the vault; `needed` and `fetched` what a restore of the newest point needs
    and gets. `changed` and `rewritten` were stored, since the first night.
    """

    number: int
    live: int
    volumes: int
    objects: int
    needed: int
    fetched: int
    changed: int
    rewritten: int
    points: int


@dataclass(slots=True)
class _World:
    """The vault, its disk, and what each point that is there has to bring back."""

    kit: VaultKit
    source: AgingSource
    seen: dict[str, Blocks] = field(default_factory=dict)
    changed: int = 0
    rewritten: int = 0

    def night(self, number: int, *, is_measured: bool) -> Night | None:
        """Back up, prune, and look at what there is."""
        if number:
            self.source.disk.night()
            self.source.now += timedelta(days=1)
        held = self.kit.night(self.source)
        self.seen[held.point.point] = self.source.disk.blocks.copy()
        if number:
            self.changed += held.point.counters["changed_bytes"]
            self.rewritten += held.point.counters["rewritten_bytes"]
        vault = self.kit.host()
        options = Options(GRACE, "host.example.org", "snapvault benchmark")
        pruned = prune(vault, {self.source.name: Rules(RETENTION, UTC)}, options)
        if pruned.refusal or pruned.doubt or self.kit.events.warnings:
            raise BenchmarkError(f"night {number}: {pruned.refusal} {self.kit.events.warnings}")
        for gone in pruned.removed:
            del self.seen[gone.held.point.point]
        return self._look(number, held.point) if is_measured else None

    def _look(self, number: int, newest: Point) -> Night:
        found = {each.name: each.size for each in self.kit.store.names()}
        host = self.kit.host()
        used = [each.size for record in newest.lists for each in cached_list(host, record)]
        return Night(
            number=number,
            live=(len(np.unique(np.concatenate(list(self.seen.values())))) - 1) * BLOCK,
            volumes=sum(size for name, size in found.items() if name.startswith(names.VOLUMES)),
            objects=sum(found.values()),
            needed=int(np.count_nonzero(self.source.disk.blocks)) * BLOCK,
            fetched=sum(used),
            changed=self.changed,
            rewritten=self.rewritten,
            points=len(self.seen),
        )

    def restore(self, point: Point) -> int:
        """Bring a point back, compare it, and return how many bytes of volumes were fetched."""
        store = _Weighing(self.kit.store)
        vault = self.kit.recovery(store)
        target = MemoryTarget(BLOCKS * BLOCK)
        restore(vault, self.kit.contents(point, store), [target])
        expected = b"".join(map(content_of, self.seen[point.point].tolist()))
        if target.content != expected:
            raise BenchmarkError(f"restore point {point.point} did not come back as it was")
        return store.fetched


class _Weighing(ForwardingStore):
    """Counts the bytes of volumes that are fetched."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.fetched = 0

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        if name.startswith(names.VOLUMES):
            self.fetched += self.stat(name).size
        with self._inner.open(name) as readable:
            yield readable


def measure(
    folder: Path,
    *,
    nights: int,
    seed: int,
    say: Callable[[str], None],
    budget_percent: float | None = None,
) -> Document:
    """Let the nights go by and return what each left, and the three figures.

    Raises:
        BenchmarkError: something was not restored as it was.
    """
    kit = VaultKit(folder, block_size=BLOCK, volume_size=VOLUME_SIZE)
    if budget_percent is not None:
        kit.options = replace(kit.options, rewriting=Rewriting(budget_percent))
    source = AgingSource(AgingDisk(BLOCKS, seed), _START)
    world = _World(kit, source)
    started = _cpu_seconds()
    found: list[Night] = []
    restored: list[Document] = []
    real_now = clock.now
    clock.now = lambda: source.now
    try:
        for number in range(nights):
            night = world.night(number, is_measured=number >= FIRST_MONTH)
            if night is None:
                continue
            found.append(night)
            if number % 50 == 0:
                say(f"years: {_line(night)}")
            if number in RESTORED or number == nights - 1:
                newest = kit.inventory().of(source.name)[-1].point
                fetched = world.restore(newest)
                restored.append({"night": number, "needed": night.needed, "fetched": fetched})
        kept = [held.point for held in kit.inventory().of(source.name)]
        for point in kept:
            world.restore(point)
    finally:
        clock.now = real_now
    return {
        "nights": nights,
        "disk_bytes": BLOCKS * BLOCK,
        "volume_bytes": VOLUME_SIZE,
        "seed": seed,
        "cpu_seconds": round(_cpu_seconds() - started, 1),
        "space": round(max(each.volumes / each.live for each in found), 3),
        "space_with_metadata": round(max(each.objects / each.live for each in found), 3),
        "fetched": round(max(each.fetched / each.needed for each in found), 3),
        "rewritten": round(max(each.rewritten / each.changed for each in found), 4),
        "restored": restored,
        "kept_and_restored": len(kept),
        "rows": [_row(each) for each in found],
    }


def _row(night: Night) -> list[int]:
    return [
        night.number,
        night.live,
        night.volumes,
        night.objects,
        night.needed,
        night.fetched,
        night.changed,
        night.rewritten,
        night.points,
    ]


def _line(night: Night) -> str:
    return (
        f"night {night.number}: volumes {night.volumes / night.live:.2f} x live, all objects "
        f"{night.objects / night.live:.2f} x, a restore fetches "
        f"{night.fetched / night.needed:.2f} x, stored again "
        f"{night.rewritten / night.changed:.1%}, {night.points} points"
    )


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
