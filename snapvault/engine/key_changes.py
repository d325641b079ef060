# SPDX-License-Identifier: Apache-2.0
"""The key for block hashes that this host goes by, and what changes of keys say of it.

The object that holds the key also tells its readers: what a point stores of metadata is sealed to
those who can open the key that its manifest names (docs/keys.md).
"""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from snapvault.engine import fetch, notes
from snapvault.engine.vault import Vault, hash_key, is_there, opened_key
from snapvault.errors import ConfigError, IntegrityError, KeyMissingError, ObjectMissingError
from snapvault.formats import names
from snapvault.model.notes import HandedHead, KeyChange
from snapvault.model.point import LogEntry, ObjectRecord, Point


@dataclass(frozen=True, slots=True)
class OwnKey:
    """This host's key for block hashes, and the object that holds it.

    `late` are recipients of the settings who cannot open it. `equals` are the digests of all
    objects that hold the same key.
    """

    key: bytes
    record: ObjectRecord
    late: tuple[str, ...]
    equals: frozenset[str]

    def is_same(self, record: ObjectRecord) -> bool:
        """Tell whether another object is known to hold this key."""
        return record.sha256 in self.equals


def own_key(vault: Vault) -> OwnKey:
    """Return this host's key for block hashes.

    Raises:
        ConfigError: this host has no key in the vault yet, or none of the recipients could open it.
        IntegrityError: the object does not hold one.
    """
    known = known_changes(vault)
    change = chosen(known, vault.sealer.signer, vault.sealer.recipients)
    found = present_object(vault, change)
    if found is None:
        raise ConfigError(
            f'vault "{vault.name}" does not know this host: object '
            f'"{names.hash_key(vault.sealer.signer)}" is missing',
            hint=f'Run "snapvault init {vault.name}" on this host; or, if it takes the place of '
            'another one, "snapvault keys apply".',
        )
    late = late_recipients(vault, change)
    if len(late) == len(vault.sealer.recipients):
        raise ConfigError(told_late(late[0]), hint=apply_hint(vault))
    record, sealed = found
    return OwnKey(opened_key(vault, record, sealed), record, late, equals(known, record))


def told_late(recipient: str) -> str:
    """Say what is the matter with a recipient that came late."""
    return f"recipient {recipient} was added after this vault was made, and cannot restore from it"


def apply_hint(vault: Vault) -> str:
    """Say how a vault is brought in line."""
    return f'Run "snapvault keys apply {vault.name}".'


def known_changes(vault: Vault) -> tuple[KeyChange, ...]:
    """Return the changes of keys that count. Others are as if they were not there."""
    return tuple(each.note for each in notes.key_changes(vault).noted)


def chosen(
    known: Iterable[KeyChange], signer: str, recipients: tuple[str, ...]
) -> KeyChange | None:
    """Return the change that a host goes by: the last to these recipients, or else the last."""
    own = sorted(
        (each for each in known if each.signer == signer),
        key=lambda each: (set(each.recipients) == set(recipients), each.at, each.id),
    )
    return own[-1] if own else None


def present_object(vault: Vault, change: KeyChange | None) -> tuple[ObjectRecord, bytes] | None:
    """Return the object with the key that this host goes by, and its bytes.

    Without a change it is the one that the host made when it came to the vault, if it did.

    Raises:
        IntegrityError: the object that a change names is missing or damaged.
    """
    if change is not None:
        return change.hash_key, fetch.get(vault.store, change.hash_key)
    name = names.hash_key(vault.sealer.signer)
    try:
        sealed = vault.store.get(name)
    except ObjectMissingError:
        return None
    return ObjectRecord(name, len(sealed), hashlib.sha256(sealed).hexdigest()), sealed


def late_recipients(vault: Vault, change: KeyChange | None) -> tuple[str, ...]:
    """Return the recipients who cannot open the key for block hashes.

    Where no key was ever changed, a public key in the vault says who was there when it was made.
    """
    if change is not None:
        return tuple(each for each in vault.sealer.recipients if each not in change.recipients)
    return tuple(
        each
        for each in vault.sealer.recipients
        if not is_there(vault.store, names.public_key(each))
    )


def equals(known: Iterable[KeyChange], record: ObjectRecord) -> frozenset[str]:
    """Return the digests of all objects that hold the same key as one."""
    groups = [{each.sha256 for each in (change.hash_key, *change.same)} for change in known]
    found = {record.sha256}
    while more := [group for group in groups if group & found and not group <= found]:
        found.update(*more)
    return frozenset(found)


def key_of(vault: Vault, point: Point) -> bytes:
    """Return the key for a point's block hashes; from another object with it if its own is lost.

    Raises:
        IntegrityError: the object is missing or damaged, and so is every other one.
        KeyMissingError: no key here opens it.
    """
    try:
        return hash_key(vault, point.hash_key)
    except IntegrityError:
        known = known_changes(vault)
        same = equals(known, point.hash_key)
        for each in {each for change in known for each in (change.hash_key, *change.same)}:
            if each.sha256 in same and each != point.hash_key:
                with suppress(IntegrityError, KeyMissingError):
                    return hash_key(vault, each)
        raise


def handed_over(vault: Vault, point: Point) -> Point | None:
    """Return a point that stands in for one whose metadata another host could open.

    It has the same streams, with maps and signatures that were sealed to this host.
    """
    for change in reversed(known_changes(vault)):
        for head in change.heads if change.signer == vault.sealer.signer else ():
            is_meant = (head.source, head.point) == (point.source, point.point)
            if is_meant and all(stream.name in head.sizes for stream in point.streams):
                return _standing_in(point, change.id, head)
    return None


def _standing_in(point: Point, change: str, head: HandedHead) -> Point:
    streams = tuple(
        replace(
            stream,
            map_log=(LogEntry(change, head.sizes[stream.name][0]),),
            signature_log=(LogEntry(change, head.sizes[stream.name][1]),),
        )
        for stream in point.streams
    )
    return replace(point, streams=streams, objects=(head.maps, head.signatures))
