# SPDX-License-Identifier: Apache-2.0
"""Hold a restore point, so that no rule expires it, and let it go again."""

from snapvault import clock
from snapvault.engine import notes
from snapvault.engine.vault import Held, Vault, sync
from snapvault.errors import ConfigError, NoRestorePointError
from snapvault.formats import names
from snapvault.model.notes import Hold


def holds_of(vault: Vault) -> dict[str, tuple[Hold, ...]]:
    """Return the holds that are not over, by point; what is wrong with others is a warning.

    Raises:
        StoreError: the vault cannot be listed or read.
    """
    found = notes.holds(vault)
    for problem in found.problems:
        vault.events.warn("vault.damaged", str(problem))
    return notes.held_points(found)


def hold(vault: Vault, held: Held, *, reason: str, host: str) -> Hold:
    """Hold a point from now on, for all hosts.

    Raises:
        NoRestorePointError: a prune is taking it away.
        SealError, StoreError: it could not be noted.
    """
    point = held.point
    note = Hold(names.new_note_id(), point.point, point.source, clock.now(), host, reason)
    notes.put_hold(vault, note)
    # ORDER: the look comes after the hold is there. A prune notes what it removes before it reads
    # the holds again: so one of the two sees the other.
    inventory = sync(vault, point.source)
    is_there = any(each.point.point == point.point for each in inventory.of(point.source))
    removed = notes.removed_points(notes.prunes(vault))
    if not is_there or (point.point, held.manifest.sha256) in removed:
        raise NoRestorePointError(
            f'restore point "{point.point}" cannot be held: a prune is taking it away',
            hint='Look at "snapvault list" in a minute; a point that is still there is held.',
        )
    return note


def release(vault: Vault, held: Held, *, host: str) -> tuple[Hold, ...]:
    """Let a point go, and return the holds that are over with it.

    Raises:
        ConfigError: nobody holds it.
        SealError, StoreError: it could not be noted.
    """
    point = held.point
    over = holds_of(vault).get(point.point, ())
    if not over:
        raise ConfigError(f'restore point "{point.point}" is not held')
    note = Hold(
        names.new_note_id(),
        point.point,
        point.source,
        clock.now(),
        host,
        ends=tuple(each.id for each in over),
    )
    notes.put_hold(vault, note)
    return over
