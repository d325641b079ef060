# SPDX-License-Identifier: Apache-2.0
"""What restores and first backups will ask of the store, from what the vault says of itself."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from snapvault.engine import fetch
from snapvault.engine.commit import cached_list
from snapvault.engine.contents import look_up
from snapvault.engine.vault import Held, Vault, sync
from snapvault.formats import names
from snapvault.formats.volume_list import LIST_LENGTH
from snapvault.model.point import ObjectRecord, Point, StreamRecord
from snapvault.model.usage import FIELDS, Usage

Used = Callable[[], Usage]
"""Returns what was asked of the vault's store so far."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What will be asked, and the volumes that will be read for it."""

    usage: Usage
    volumes: tuple[ObjectRecord, ...]


def reads(records: Iterable[ObjectRecord]) -> Usage:
    """Return what it takes to read objects, each once."""
    found = list(records)
    volumes = [each.size for each in found if each.name.startswith(names.VOLUMES)]
    return Usage(
        gets=len(found),
        bytes_down=sum(each.size for each in found),
        volume_gets=len(volumes),
        volume_down=sum(volumes),
    )


def scaled(usage: Usage, share: float) -> Usage:
    """Return a share of what is asked, rounded."""
    return Usage(*(round(getattr(usage, name) * share) for name in FIELDS))


def of_restore(vault: Vault, held: Held, streams: tuple[StreamRecord, ...], used: Used) -> Forecast:
    """Foresee a restore of streams of a point to files, devices or a pipe: what it asks, exactly.

    Reads the point's maps, as the restore does.

    Raises:
        IntegrityError: an object is missing or damaged.
        KeyMissingError: no key here opens the maps.
    """
    for record in held.point.lists:
        cached_list(vault, record)  # a host fetches a list once
    before = used()
    sync(vault, held.point.source)
    contents = look_up(vault, held.point, streams)
    asked = used() - before
    volumes = tuple(fetch.object_of(each) for each in contents.plan().volumes)
    return Forecast(asked + reads(volumes), volumes)


def of_whole(vault: Vault, point: Point) -> Forecast:
    """Foresee a restore of all of a point, from its manifest and its lists alone.

    Raises:
        IntegrityError: a list is missing or damaged.
    """
    maps = [each for each in point.objects if each.name.endswith(names.MAP_SUFFIX)]
    volumes = volumes_of(vault, [point])
    listing = Usage(puts=1)
    return Forecast(listing + reads([*maps, point.hash_key, *volumes]), volumes)


def volumes_of(vault: Vault, points: Iterable[Point]) -> tuple[ObjectRecord, ...]:
    """Return the volumes that points need, each once.

    Raises:
        IntegrityError: a list is missing or damaged.
    """
    lists = dict.fromkeys(record for point in points for record in point.lists)
    found = dict.fromkeys(each for record in lists for each in cached_list(vault, record))
    return tuple(fetch.object_of(each) for each in found)


def of_first_backup(size: int, volume_size: int) -> Usage:
    """Foresee at most what a first backup of so many bytes sends, if nothing can be compressed.

    Besides the volumes: their lists, a map, a signature and the manifest, and a few listings.
    """
    volumes = -(-size // volume_size)
    lists = -(-volumes // LIST_LENGTH)
    metadata = volumes * _RECORD + size // _BLOCK * _HASH
    return Usage(
        puts=volumes + lists + 3 + _LISTINGS,
        gets=1,
        bytes_up=size + metadata,
        volume_puts=volumes,
    )


_RECORD = 150  # bytes of a list for a volume
_BLOCK = 16 << 10  # bytes
_HASH = 16  # bytes of a signature for a block
_LISTINGS = 8
