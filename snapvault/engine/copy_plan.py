# SPDX-License-Identifier: Apache-2.0
"""What a copy of a vault lacks: which restore points, and which of their objects."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from snapvault.engine import fetch, notes
from snapvault.engine.commit import cached_list
from snapvault.engine.prune_plan import listed
from snapvault.engine.vault import Held, Inventory, Vault, sync
from snapvault.errors import IntegrityError
from snapvault.formats import names
from snapvault.model.point import ObjectRecord, Point


@dataclass(frozen=True, slots=True)
class Choice:
    """Which points to copy: of some sources or of all, and of those only some, by id, if told."""

    sources: Collection[str] | None = None
    points: Collection[str] | None = None

    def has(self, point: Point) -> bool:
        """Tell whether a point is chosen."""
        return (self.sources is None or point.source in self.sources) and (
            self.points is None or point.point in self.points
        )


@dataclass(frozen=True, slots=True)
class Target:
    """What a copy held at one moment: its points, its objects by name with sizes, its prunes."""

    inventory: Inventory
    sizes: Mapping[str, int]
    doomed: Collection[str]
    pruned: frozenset[tuple[str, str]]


NOTHING = Target(Inventory((), ()), {}, (), frozenset())
"""A copy that is not there yet."""


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What is to be done. Points are by source, and oldest first.

    `wanted` are to be copied, `there` are; the copy lacks objects of some of these, `mended`.
    `expired` were pruned in the copy, and are not copied again. `problems` are what is wrong in
    the vault that is copied.
    """

    wanted: tuple[Held, ...]
    there: tuple[Held, ...]
    expired: tuple[Held, ...]
    inventory: Inventory
    problems: tuple[str, ...]


def look_at_target(vault: Vault) -> Target:
    """Look at a copy.

    Raises:
        StoreError: it cannot be listed or read.
    """
    # ORDER: the records of prunes before the listing. What they doom and the listing does not
    # have is put again; the other way, it could be deleted in between and be missed.
    records = notes.prunes(vault)
    sizes = {name: found.size for name, found in listed(vault).items()}
    sizes |= {found.name: found.size for found in vault.store.names(names.KEYS)}
    return Target(sync(vault), sizes, notes.doomed(records), notes.removed_points(records))


def plan(source: Vault, target: Target, choice: Choice) -> CopyPlan:
    """Decide which points of a vault to copy.

    Raises:
        StoreError: the vault cannot be listed or read.
    """
    only = next(iter(choice.sources)) if choice.sources and len(choice.sources) == 1 else None
    inventory = sync(source, only)
    copies = {each.point.point: each for each in target.inventory.held if not each.missing}
    problems = [str(each) for each in inventory.problems]
    wanted, there, expired = [], [], []
    for each in inventory.held:
        point = each.point
        if each.missing or not choice.has(point):
            continue
        found = copies.get(point.point)
        if found is not None:
            there.append(each)
            if found.manifest != each.manifest:
                problems.append(
                    f'restore point "{point.point}" is another one in the copy: '
                    "the manifests differ"
                )
        elif (point.point, each.manifest.sha256) in target.pruned:
            expired.append(each)
        else:
            wanted.append(each)
    return CopyPlan(
        tuple(wanted), tuple(there), tuple(expired), inventory, tuple(dict.fromkeys(problems))
    )


class Lacking:
    """Which objects a copy lacked when it was listed. Each list of volumes is read once."""

    def __init__(self, source: Vault, sizes: Mapping[str, int]) -> None:
        self._source = source
        self._sizes = sizes
        self._of_lists: dict[ObjectRecord, tuple[ObjectRecord, ...] | IntegrityError] = {}

    def of(self, point: Point) -> Iterator[ObjectRecord]:
        """Yield what it lacks of a point: volumes first, then what leads to them.

        Raises:
            IntegrityError: a list of volumes is damaged, or the copy has something else under
                the name of an object.
            StoreError: a list could not be read.
        """
        for record in point.lists:
            yield from self._of_list(record)
        yield from self._lacking((*point.objects, *point.lists, point.hash_key))

    def _of_list(self, record: ObjectRecord) -> tuple[ObjectRecord, ...]:
        found = self._of_lists.get(record)
        if found is None:
            try:
                volumes = cached_list(self._source, record)
                found = tuple(self._lacking(map(fetch.object_of, volumes)))
            except IntegrityError as error:
                found = error
            self._of_lists[record] = found
        if isinstance(found, IntegrityError):
            raise found
        return found

    def _lacking(self, records: Iterable[ObjectRecord]) -> Iterator[ObjectRecord]:
        for record in records:
            size = self._sizes.get(record.name)
            if size is None:
                yield record
            elif size != record.size:
                raise IntegrityError(
                    f'object "{record.name}" has another size in the copy than in the vault'
                )
