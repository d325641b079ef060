# SPDX-License-Identifier: Apache-2.0
"""Bring a vault in line with the keys of the settings: docs/keys.md.

What is stored stays as it is. The key for block hashes is sealed anew, to the readers of today,
and the newest points are handed to a host that takes another one's place.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from snapvault import clock
from snapvault.engine import key_changes, metadata, notes
from snapvault.engine.commit import put_sealed, signature_part
from snapvault.engine.vault import Held, Inventory, Vault, hash_key, is_there, put_once
from snapvault.errors import ConfigError, IntegrityError, KeyMissingError
from snapvault.formats import maps, meta, names
from snapvault.model.notes import HandedHead, KeyChange
from snapvault.model.point import ObjectRecord
from snapvault.ports.sealer import Readers


@dataclass(frozen=True, slots=True)
class Plan:
    """What there is to do; nothing if `base` is None and `keys` is empty.

    `base` holds the key that is to be sealed anew. `replaced` is the host whose place this one
    takes, and `heads` are the points handed over. `added` and `removed` are recipients, as far as
    the vault knows. `keys` are public keys that the vault lacks.
    """

    base: ObjectRecord | None
    replaced: str | None
    heads: tuple[Held, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    keys: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        """Whether the vault is in line with the settings."""
        return self.base is None and not self.keys


def plan(vault: Vault, inventory: Inventory, replaces: str | None = None) -> Plan:
    """Hold a vault against the settings; `replaces` is a host's fingerprint, whole or its end.

    Raises:
        ConfigError: nobody knows which host this one replaces, or there is nothing to go on from.
        IntegrityError: the key that this host goes by is not the one that its points name.
    """
    known = key_changes.known_changes(vault)
    signer, recipients = vault.sealer.signer, vault.sealer.recipients
    change = key_changes.chosen(known, signer, recipients)
    keys = _absent_keys(vault)
    found = None if replaces else key_changes.present_object(vault, change)
    if found is not None:
        record = found[0]
        _require_known(record, inventory)
        before = change.recipients if change else _first_recipients(vault)
        added = tuple(each for each in recipients if each not in before)
        removed = tuple(each for each in before if each not in recipients)
        base = record if added or removed else None
        return Plan(base, None, (), added, removed, keys)
    heads = _heads_to_hand_over(vault, inventory, replaces)
    replaced, base = heads[0].signer, heads[0].point.hash_key
    return Plan(base, replaced, heads, (), (), keys)


def is_behind(vault: Vault, inventory: Inventory) -> bool:
    """Tell whether there is something to do; also where nobody can tell what.

    Raises: as `plan`, but ConfigError.
    """
    try:
        return not plan(vault, inventory).is_done
    except ConfigError:
        return True


def apply(
    vault: Vault,
    work: Plan,
    sign: Callable[[bytes], bytes],
    *,
    host: str,
    tool: str,
) -> KeyChange | None:
    """Do what was planned. Killed anywhere, it leaves every point as it was; run it again.

    `sign` signs with any key whose changes of keys count.

    Raises:
        KeyMissingError: no key here opens what is to be handed over.
        SealError, StoreError: sealing or storing failed.
    """
    change = None
    if work.base is not None:
        change = _stored_change(vault, work, host=host, tool=tool)
        # ORDER: the note after what it names. A run that is killed before leaves objects that
        # nobody refers to, and the vault as it was.
        notes.put_key_change(vault, change, sign)
        vault.events.emit("keys.changed", change=change.id)
    # ORDER: public keys last. Where there is no note, they tell who could read from the first day.
    for fingerprint in work.keys:
        put_once(vault.store, names.public_key(fingerprint), vault.sealer.export(fingerprint))
    return change


def _stored_change(vault: Vault, work: Plan, *, host: str, tool: str) -> KeyChange:
    assert work.base is not None  # noqa: S101 - the caller looked
    signer, change_id = vault.sealer.signer, names.new_note_id()
    try:
        key = hash_key(vault, work.base)
    except KeyMissingError as error:
        raise KeyMissingError(
            f'cannot open object "{work.base.name}" on this machine: {error}',
            hint="Run it where the host's former key still is, or with a recovery key.",
        ) from error
    sealed = vault.sealer.seal(key, Readers.RECOVERY_AND_HOST)
    name = names.later_hash_key(signer, change_id)
    vault.store.put(name, sealed)
    heads = []
    for held in work.heads:
        try:
            heads.append(_handed(vault, change_id, held))
        except IntegrityError as error:
            # Its next backup is a full one; that is no reason to keep the others waiting.
            told = f'cannot hand over source "{held.point.source}": {error}'
            vault.events.warn("head.not_handed", told, source=held.point.source)
    return KeyChange(
        id=change_id,
        at=clock.now(),
        host=host,
        tool=tool,
        signer=signer,
        recipients=vault.sealer.recipients,
        hash_key=ObjectRecord(name, len(sealed), hashlib.sha256(sealed).hexdigest()),
        same=(work.base,),
        heads=tuple(heads),
        added=work.added,
    )


def _handed(vault: Vault, change: str, held: Held) -> HandedHead:
    """Store a point's full maps and signatures again, sealed to the readers of today."""
    point = held.point
    vault.state.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="keys-", dir=vault.state))
    try:
        full = metadata.read_maps(vault, point, point.streams)
        metadata.write_signatures(vault, point, folder)
        map_parts = [
            maps.section(stream.name, extents)
            for stream, extents in zip(point.streams, full, strict=True)
        ]
        signature_parts = [
            signature_part(stream, folder / f"{stream.name}.sig", is_full=True)
            for stream in point.streams
        ]
        return HandedHead(
            point.source,
            point.point,
            put_sealed(vault, names.map_of(point.source, change), meta.encode(map_parts), folder),
            put_sealed(
                vault,
                names.signature_of(point.source, change),
                meta.encode(signature_parts),
                folder,
            ),
            {
                stream.name: (of_map.size, of_signature.size)
                for stream, of_map, of_signature in zip(
                    point.streams, map_parts, signature_parts, strict=True
                )
            },
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _absent_keys(vault: Vault) -> tuple[str, ...]:
    wanted = sorted({vault.sealer.signer, *vault.sealer.recipients})
    return tuple(each for each in wanted if not is_there(vault.store, names.public_key(each)))


def _first_recipients(vault: Vault) -> tuple[str, ...]:
    """Return who could read when this host came to the vault: whose keys are there, but for hosts.

    Only where no key was ever changed does their being there say so.
    """
    there = [found.name for found in vault.store.names(names.KEYS)]
    hosts = {name.removeprefix(names.KEYS)[:-5] for name in there if name.endswith(".hash")}
    found = [key for name in there if (key := names.parse_public_key(name)) is not None]
    return tuple(key for key in found if key not in hosts or key in vault.sealer.recipients)


def _require_known(record: ObjectRecord, inventory: Inventory) -> None:
    """Refuse a key that was put in the place of the one that restore points name."""
    for held in inventory.held:
        named = held.point.hash_key
        if named.name == record.name and named.sha256 != record.sha256:
            raise IntegrityError(
                f'object "{record.name}" is not the one that restore point '
                f'"{held.point.point}" names: it was replaced',
                hint="Put it back from a copy of the vault.",
            )


def _heads_to_hand_over(
    vault: Vault, inventory: Inventory, replaces: str | None
) -> tuple[Held, ...]:
    """Return the newest points of the host that this one replaces; never empty.

    Raises:
        ConfigError: nobody knows which host that is, or it has no point.
    """
    newest = [inventory.of(source)[-1] for source in inventory.sources()]
    others = [held for held in newest if held.signer != vault.sealer.signer]
    if replaces is not None:
        others = [held for held in others if held.signer.endswith(replaces.upper())]
    hosts = sorted({held.signer for held in others})
    if not hosts:
        told = "another host" if replaces is None else f'a host with the key "{replaces}"'
        raise ConfigError(
            f'vault "{vault.name}" has no source whose newest restore point {told} made, so there '
            "is nothing to hand over",
            hint=f'To join this host to the vault run "snapvault init {vault.name}". Points of '
            "other hosts count when trusted_signers names them.",
        )
    if len(hosts) > 1:
        raise ConfigError(
            f'several hosts write into vault "{vault.name}", and none was named that this one '
            f"replaces: {', '.join(hosts)}",
            hint="Name it with --replaces FINGERPRINT.",
        )
    last = max(others, key=lambda held: held.point.finished_at)
    same = key_changes.equals(key_changes.known_changes(vault), last.point.hash_key)
    return tuple(held for held in others if held.point.hash_key.sha256 in same)
