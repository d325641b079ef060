# SPDX-License-Identifier: Apache-2.0
"""Whom a damaged object hits: the other restore points that need it."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from snapvault.engine import fetch
from snapvault.engine.vault import Held, Vault
from snapvault.errors import SnapVaultError
from snapvault.formats import names
from snapvault.model.point import Point


def hits(vault: Vault, error: BaseException, point: Point, others: Sequence[Held]) -> list[str]:
    """Return the ids of other points that need an object which an error names, oldest first.

    Lists of volumes that cannot be read are left out: they are damage of their own.
    """
    damaged = {name for name in _objects(vault, point) if _is_named(name, str(error))}
    return [
        held.point.point
        for held in others
        if held.point.point != point.point and damaged.intersection(_objects(vault, held.point))
    ]


def _objects(vault: Vault, point: Point) -> Iterator[str]:
    """Yield the names of all that a point needs."""
    for record in (*point.objects, *point.lists, point.hash_key):
        yield record.name
    for record in point.lists:
        with suppress(SnapVaultError):
            for volume in fetch.get_list(vault.store, record):
                yield names.volume(volume.volume)


def _is_named(name: str, message: str) -> bool:
    """Tell whether a message names an object, or a volume by its id alone."""
    volume = name.rpartition("/")[2].removesuffix(".vol")
    is_volume = name.startswith(names.VOLUMES)
    return f'"{name}"' in message or (is_volume and f'"{volume}"' in message)
