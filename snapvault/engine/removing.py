# SPDX-License-Identifier: Apache-2.0
"""Removing objects for good, where a vault's objects are locked: not before their locks end.

Where they are, every version of an object is removed, by its id: to delete its name alone would
only hide it, and free nothing.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Final

from snapvault import clock
from snapvault.engine import underneath
from snapvault.engine.pipeline import WORKERS, ordered, threads
from snapvault.engine.vault import Vault
from snapvault.errors import StoreDeniedError
from snapvault.ports.versions import StoreVersions, Version

_ASKED: Final = 100
"""Of so many objects that the store refuses to remove it is asked how long they are locked."""


def locks_of(vault: Vault, names: Collection[str]) -> dict[str, datetime]:
    """Return those of some objects that are locked now, and until when.

    Raises:
        StoreError: the store could not be asked.
    """
    if vault.lock is None or vault.versions is None or not names:
        return {}
    own = _versions_of(vault.versions, names)
    oldest = [each for name in sorted(names) if (each := _oldest(own.get(name, ()))) is not None]
    return {
        each.name: until
        for each, until in _asked(vault.versions, oldest).items()
        if until is not None and until > clock.now()
    }


def remove(vault: Vault, names: Collection[str]) -> dict[str, datetime | None]:
    """Remove objects, and return those whose locks still hold; until when, as far as known.

    Raises:
        StoreDeniedError: the credentials may not remove what is not locked.
        StoreError: the store could not be asked.
    """
    if not names:
        return {}
    if vault.lock is None or vault.versions is None:
        vault.store.delete(sorted(names))
        return {}
    own = _versions_of(vault.versions, names)
    filled = [each for name in sorted(names) for each in own.get(name, ()) if not each.is_marker]
    refused = vault.versions.remove(filled)
    held = {each.name for each in refused}
    # ORDER: markers go last: without them, what they hide would be there again if we end here.
    vault.versions.remove(
        [
            each
            for name in sorted(names)
            if name not in held
            for each in own.get(name, ())
            if each.is_marker
        ]
    )
    asked = sorted(refused, key=lambda each: each.stored_at)[:_ASKED]
    until = _asked(vault.versions, asked)
    now = clock.now()
    for version, moment in until.items():
        if moment is None or moment <= now:
            raise StoreDeniedError(
                f'could not remove "{version.name}" from "{vault.versions.location}": access '
                "denied, and it is not locked",
                hint="Prune with credentials that may remove versions: docs/immutability.md.",
            )
    found: dict[str, datetime | None] = dict.fromkeys(sorted(held))
    found.update({version.name: moment for version, moment in until.items()})
    return found


def _versions_of(versions: StoreVersions, names: Iterable[str]) -> Mapping[str, list[Version]]:
    wanted = frozenset(names)
    prefixes = sorted({f"{name.partition('/')[0]}/" for name in wanted})
    return underneath.by_name(
        each for prefix in prefixes for each in versions.versions(prefix) if each.name in wanted
    )


def _oldest(own: Iterable[Version]) -> Version | None:
    filled = [each for each in own if not each.is_marker]
    return filled[-1] if filled else None


def _asked(versions: StoreVersions, some: Iterable[Version]) -> dict[Version, datetime | None]:
    chosen = list(some)
    with threads(WORKERS, "lock") as pool:
        found = ordered(versions.locked_until, chosen, ahead=2 * WORKERS, pool=pool)
        return dict(zip(chosen, found, strict=True))
