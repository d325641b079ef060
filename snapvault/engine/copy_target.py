# SPDX-License-Identifier: Apache-2.0
"""The vault that a copy is made in: whether it is one, and what it holds besides restore points."""

import secrets
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import replace

from snapvault.engine import fetch, notes
from snapvault.engine.vault import Vault, read_record
from snapvault.errors import (
    ConfigError,
    IntegrityError,
    ManifestError,
    ObjectMissingError,
    StoreMissingError,
)
from snapvault.formats import emergency_kit, names
from snapvault.formats import vault as vault_format
from snapvault.formats.key_changes import decode_key_change
from snapvault.formats.notes import decode_hold
from snapvault.formats.vault import VaultRecord
from snapvault.ports.sealer import Sealer
from snapvault.ports.store import Store


def find(source: Vault, name: str, store: Store, sealer: Sealer) -> VaultRecord | None:
    """Return the record of the copy of a vault that a store holds; None: it holds nothing yet.

    Nothing is written.

    Raises:
        ConfigError: it holds something else, or the settings of the two vaults do not fit.
        IntegrityError: it cannot be read by this release.
    """
    if strangers := sorted(source.sealer.trusted - sealer.trusted):
        raise ConfigError(
            f'vault "{name}" does not trust {strangers[0]}, which vault "{source.name}" does: '
            "restore points signed by it would not count there",
            hint="Give both the same signer and trusted_signers in the settings.",
        )
    record = read_record(store)
    if record is None:
        if (found := _anything(store)) is not None:
            raise ConfigError(
                f'vault "{name}" cannot be made at {store.location}: it is not empty, there is '
                f'"{found}", and no "vault.json"',
                hint="Name an empty place in the settings. Nothing was written.",
            )
        return None
    if record.vault != source.record.vault:
        raise ConfigError(
            f'vault "{name}" at {store.location} is no copy of vault "{source.name}", but '
            "another vault",
            hint="Name an empty place, or a copy, in the settings. Nothing was written.",
        )
    if record.copy == source.record.copy:
        raise ConfigError(
            f'vaults "{source.name}" and "{name}" are one and the same',
            hint=f'Name another place for "{name}" in the settings. What another program has '
            "copied is not taken for a copy: begin with an empty place. Nothing was written.",
        )
    if record.copy is None:
        raise ConfigError(
            f'vault "{name}" is the one that vault "{source.name}" is a copy of',
            hint="A copy goes to an empty place, or to another copy. Nothing was written.",
        )
    return record


def begin(source: Vault, store: Store) -> None:
    """Make an empty store a copy of a vault, without restore points so far. Safe to repeat.

    Two hosts may do so at once.

    Raises:
        StoreError: it cannot be probed or written.
    """
    traits = store.probe()
    record = replace(source.record, create_only=traits.create_only, copy=secrets.token_hex(8))
    # ORDER: vault.json goes first. All that comes later is known to belong to this copy, so a
    # copy that is killed goes on, and nothing else is ever taken for one.
    with suppress(IntegrityError):  # another host was quicker
        store.put(names.VAULT, vault_format.encode(record))


def put_surroundings(source: Vault, target: Vault) -> list[IntegrityError]:
    """Put keys, emergency script and notes that the copy lacks; return what is wrong with some.

    Raises:
        StoreError, SealError: it could not be done.
    """
    there = {found.name for found in target.store.names(names.KEYS)}
    own = {
        names.public_key(each): each for each in (target.sealer.signer, *target.sealer.recipients)
    }
    for name in sorted(own.keys() - there):
        with suppress(IntegrityError):  # another host was quicker
            target.store.put(name, target.sealer.export(own[name]))
    for found in source.store.names(names.KEYS):
        if names.is_public_key(found.name) and found.name not in there | own.keys():
            _pass_on(source, target, found.name)
    problems = _put_script(source, target)
    problems += _put_key_changes(source, target, there)
    return problems + _put_holds(source, target)


def _pass_on(source: Vault, target: Vault, name: str) -> None:
    # Keys are a convenience, and nobody trusts them: another host's, or none, is as good.
    with suppress(ObjectMissingError, IntegrityError):
        target.store.put(name, source.store.get(name))


def _put_script(source: Vault, target: Vault) -> list[IntegrityError]:
    """Put the emergency script, as a trusted host signed it; if none did, our own."""
    signed_name, plain_name = names.EMERGENCY_SIGNED, names.EMERGENCY_SCRIPT
    there = {found.name for found in target.store.names(names.EMERGENCY_SCRIPT)}
    if signed_name in there and plain_name in there:
        return []
    problems: list[IntegrityError] = []
    if signed_name not in there:
        try:
            message = source.store.get(signed_name)
            _script_in(source, message)
        except (ObjectMissingError, IntegrityError) as error:
            told = f'the emergency script of vault "{source.name}" cannot be trusted: {error}'
            problems.append(ManifestError(told))
            message = target.sealer.sign(emergency_kit.script())
        with suppress(IntegrityError):  # another host was quicker
            target.store.put(signed_name, message)
    # RESTORE.md goes before the script: whoever finds the script finds all of it.
    with suppress(IntegrityError):  # an older release's is as good
        target.store.put(names.EMERGENCY_TEXT, emergency_kit.text())
    target.store.put(plain_name, _script_in(target, target.store.get(signed_name)))
    return problems


def _script_in(vault: Vault, message: bytes) -> bytes:
    signed = vault.sealer.read_signed(message)
    if signed.fingerprint not in vault.sealer.trusted:
        raise ManifestError(f'object "{names.EMERGENCY_SIGNED}" is not what a trusted host signed')
    return signed.content


def _put_holds(source: Vault, target: Vault) -> list[IntegrityError]:
    """Put the holds, and ends of holds, that the copy lacks."""
    # ORDER: before the manifests. A point that is held arrives held: no prune of the copy comes
    # in between.
    problems: list[IntegrityError] = []
    there = {found.name for found in target.store.names(names.HOLDS)}
    for found in source.store.names(names.HOLDS):
        if names.parse_hold(found.name) is not None and found.name not in there:
            try:
                _put_proven(source, target, found.name, decode_hold, target.sealer.trusted)
            except IntegrityError as error:
                problems.append(error)
    return problems


def _put_key_changes(source: Vault, target: Vault, there: Container[str]) -> list[IntegrityError]:
    """Put the changes of keys that the copy lacks, for the day on which it takes our place."""
    found = notes.key_changes(source)
    signers = target.sealer.trusted | frozenset(target.sealer.recipients)
    problems = list(found.problems)
    for each in found.noted:
        if each.name in there:
            continue
        try:
            # ORDER: the keys before the change, which says that they count.
            for record in (each.note.hash_key, *each.note.same):
                if record.name not in there:
                    target.store.put(record.name, fetch.get(source.store, record))
            _put_proven(source, target, each.name, decode_key_change, signers)
        except IntegrityError as error:
            problems.append(error)
    return problems


def _put_proven(
    source: Vault,
    target: Vault,
    name: str,
    decode: Callable[[str, bytes, str], object],
    signers: Container[str],
) -> None:
    """Put a note as it is, once it is known to be one.

    Raises:
        ManifestError: it is not, or is gone.
    """
    try:
        message = source.store.get(name)
    except ObjectMissingError as error:
        raise ManifestError(f'object "{name}" is gone') from error
    signed = target.sealer.read_signed(message)
    if signed.fingerprint not in signers:
        raise ManifestError(f'object "{name}" is signed by nobody who is trusted')
    decode(name, signed.content, target.record.vault)
    target.store.put(name, message)


def _anything(store: Store) -> str | None:
    """Return the name of an object; None if there is none, but for what a probe left."""
    with suppress(StoreMissingError):  # a folder is made; of a bucket the probe complains
        for found in store.names():
            if not found.name.startswith(names.PROBES):
                return found.name
    return None
