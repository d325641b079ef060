# SPDX-License-Identifier: Apache-2.0
"""A vault, opened: its store, its keys, and the points it holds."""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from snapvault import clock
from snapvault.engine import fetch, notes, troubles
from snapvault.engine.pipeline import WORKERS, ordered, threads
from snapvault.errors import (
    ConfigError,
    IntegrityError,
    ManifestError,
    ObjectMissingError,
)
from snapvault.formats import emergency_kit, manifest, names
from snapvault.formats import vault as vault_format
from snapvault.formats.vault import VaultRecord
from snapvault.model.locking import ObjectLock
from snapvault.model.notes import RemovedPoint
from snapvault.model.point import ObjectRecord, Point
from snapvault.ports.catalog import Catalog, CatalogRow
from snapvault.ports.events import Events
from snapvault.ports.sealer import Addressees, Readers, Sealer
from snapvault.ports.store import Store, StoreTraits
from snapvault.ports.versions import StoreVersions

BLOCK_SIZE = 16 << 10
_KEY_SIZE = 32  # bytes
_ROLLED_BACK = (
    "Somebody deleted it or the vault was rolled back; compare with another copy of the vault."
)


@dataclass(frozen=True, slots=True)
class Vault:
    """Everything a job needs to work with one vault.

    `state` is this vault's own folder on the host; it can be lost. `versions` shows what lies
    underneath, in stores that may keep any; `lock` is how long what is put is locked. `addressees`
    opens what tells the readers of objects.
    """

    name: str
    record: VaultRecord
    store: Store
    sealer: Sealer
    catalog: Catalog
    events: Events
    state: Path
    versions: StoreVersions | None = None
    lock: ObjectLock | None = None
    addressees: Callable[[], Addressees] | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A point with its manifest as stored. `missing`: the vault held it once and no longer does."""

    point: Point
    manifest: ObjectRecord
    signer: str
    missing: bool = False

    @property
    def stored_bytes(self) -> int:
        """Bytes that this point added to the vault."""
        return self.point.counters.get("stored_bytes", 0) + self.manifest.size


@dataclass(frozen=True, slots=True)
class Inventory:
    """The points of a vault, by source and sequence, and what is wrong with its manifests.

    Points that a prune took away are neither. `gone` are those that vanished otherwise.
    """

    held: tuple[Held, ...]
    problems: tuple[IntegrityError, ...]
    gone: tuple[RemovedPoint, ...] = ()

    def of(self, source: str) -> tuple[Held, ...]:
        """Return the points of one source that are there, oldest first."""
        return tuple(held for held in self.held if held.point.source == source and not held.missing)

    def sources(self) -> tuple[str, ...]:
        """Return the names of all sources with points, sorted."""
        return tuple(sorted({held.point.source for held in self.held if not held.missing}))


def read_record(store: Store) -> VaultRecord | None:
    """Return what `vault.json` says; None where there is no vault.

    Raises:
        IntegrityError, FormatVersionError: it cannot be read by this release.
    """
    try:
        return vault_format.decode(store.get(names.VAULT))
    except ObjectMissingError:
        return None
    except IntegrityError as error:
        raise type(error)(f"vault at {store.location}: {error}", hint=error.hint) from error


def create(name: str, store: Store, sealer: Sealer) -> tuple[VaultRecord, StoreTraits]:
    """Make the vault that the settings describe, or join this host to one that exists.

    Safe to repeat after a failure.

    Raises:
        ConfigError: this host has already initialized the vault.
    """
    sealer.check()
    record = read_record(store)
    hash_key_name = names.hash_key(sealer.signer)
    if record is not None and is_there(store, hash_key_name):
        raise ConfigError(
            f'vault "{name}" at {store.location} is already initialized',
            hint=f'Nothing was changed. Run "snapvault doctor" to look at vault "{name}".',
        )
    traits = store.probe()
    if not is_there(store, hash_key_name):
        key = secrets.token_bytes(_KEY_SIZE)
        store.put(hash_key_name, sealer.seal(key, Readers.RECOVERY_AND_HOST))
    for fingerprint in sorted({sealer.signer, *sealer.recipients}):
        put_once(store, names.public_key(fingerprint), sealer.export(fingerprint))
    # The script is run on the worst of days, so it is signed as the manifests are.
    put_once(store, names.EMERGENCY_SIGNED, sealer.sign(emergency_kit.script()))
    put_once(store, names.EMERGENCY_SCRIPT, emergency_kit.script())
    put_once(store, names.EMERGENCY_TEXT, emergency_kit.text())
    if record is None:
        record = VaultRecord(secrets.token_hex(16), clock.now(), BLOCK_SIZE, traits.create_only)
        # ORDER: vault.json goes last. It is what makes the vault exist, so an init that
        # is killed before this line can be run again.
        store.put(names.VAULT, vault_format.encode(record))
    return record, traits


def is_there(store: Store, name: str) -> bool:
    """Tell whether an object is stored."""
    try:
        store.stat(name)
    except ObjectMissingError:
        return False
    return True


def put_once(store: Store, name: str, data: bytes) -> None:
    """Put an object unless something is there already: an older init's is as good."""
    if not is_there(store, name):
        store.put(name, data)


def hash_key(vault: Vault, record: ObjectRecord) -> bytes:
    """Return the key for block hashes that a manifest names."""
    return opened_key(vault, record, fetch.get(vault.store, record))


def opened_key(vault: Vault, record: ObjectRecord, sealed: bytes) -> bytes:
    """Return the key for block hashes that an object's bytes hold."""
    key = vault.sealer.open(sealed)
    if len(key) != _KEY_SIZE:
        raise IntegrityError(f'object "{record.name}" holds no key for block hashes')
    return key


def sync(vault: Vault, source: str | None = None) -> Inventory:
    """Bring the catalog up to date with the vault and return what it holds, of one source or all.

    Manifests are verified once, when they are first seen. One that cannot be trusted is a
    problem in the inventory, and counts as not being there.

    Raises:
        StoreError: the vault cannot be listed; nothing was changed then.
    """
    try:
        return _sync(vault, source)
    except ObjectMissingError:
        # A prune beside us took a manifest between the listing and the look at it.
        return _sync(vault, source)


def _sync(vault: Vault, source: str | None) -> Inventory:
    prefix = names.POINTS if source is None else names.points_of(source)
    known = {row.name: row for row in vault.catalog.rows(source)}
    present = {found.name: found for found in vault.store.names(prefix)}
    problems: list[IntegrityError] = []
    fresh: list[CatalogRow] = []
    changed = (
        name
        for name, found in present.items()
        if name not in known or known[name].size != found.size
    )

    def read(name: str) -> tuple[str, CatalogRow | IntegrityError]:
        try:
            return name, _read_manifest(vault, name)
        except IntegrityError as error:
            return name, error

    unreadable = set()
    with threads(WORKERS, "manifest") as pool:
        for name, outcome in ordered(read, changed, ahead=2 * WORKERS, pool=pool):
            if isinstance(outcome, IntegrityError):
                problems.append(outcome)
                unreadable.add(name)
            else:
                fresh.append(outcome)
    if fresh:
        vault.catalog.add(fresh)
    gone = [name for name, row in known.items() if name not in present and not row.missing]
    if gone:
        vault.catalog.mark_missing(gone, missing=True)
    if back := [name for name, row in known.items() if name in present and row.missing]:
        vault.catalog.mark_missing(back, missing=False)
    held: list[Held] = []
    for row in vault.catalog.rows(source):
        if row.name in unreadable:
            continue  # what the catalog remembers is not what is there now
        if row.signer in vault.sealer.trusted:
            held.append(held_of(row))
        else:
            problems.append(_untrusted(row.name, row.signer))
    held.sort(key=lambda each: (each.point.source, each.point.sequence, each.point.taken_at))
    vanished = _gone(held)
    if vanished:
        # Only now: a vault that lacks nothing has nothing to explain.
        records = notes.prunes(vault)
        problems += records.problems
        pruned, explained = notes.removed_points(records), notes.explained_points(records)
        # That a point never came here is no reason for one that was seen here.
        seen = {(each.point.point, each.manifest.sha256) for each in held if each.missing}
        vanished = {
            key: told
            for key, told in vanished.items()
            if key not in pruned and (key in seen or key not in explained)
        }
        held = [
            each
            for each in held
            if not each.missing or (each.point.point, each.manifest.sha256) not in pruned
        ]
    problems += [told for _, told in vanished.values()]
    problems += _replaced(held)
    troubles.note_manifests(vault.state, source, map(str, problems))
    return Inventory(tuple(held), tuple(problems), tuple(point for point, _ in vanished.values()))


def _read_manifest(vault: Vault, name: str) -> CatalogRow:
    return prove_manifest(vault, name, vault.store.get(name))


def prove_manifest(vault: Vault, name: str, message: bytes) -> CatalogRow:
    """Return what a manifest says, as it goes into the catalog.

    Raises:
        IntegrityError: it is not one that a trusted host signed for this vault and name.
    """
    try:
        signed = vault.sealer.read_signed(message)
    except IntegrityError as error:
        raise ManifestError(f'manifest "{name}" is not to be trusted: {error}') from error
    if signed.fingerprint not in vault.sealer.trusted:
        raise _untrusted(name, signed.fingerprint)
    point = manifest.decode_as(name, signed.content)
    if point.vault != vault.record.vault:
        raise ManifestError(f'manifest "{name}" belongs to another vault, "{point.vault}"')
    return CatalogRow(
        name=name,
        source=point.source,
        point=point.point,
        taken_at=clock.to_text(point.taken_at),
        size=len(message),
        sha256=hashlib.sha256(message).hexdigest(),
        signer=signed.fingerprint,
        content=signed.content,
    )


def _untrusted(name: str, fingerprint: str) -> ManifestError:
    return ManifestError(
        f'manifest "{name}" is signed by {fingerprint}, which the settings do not trust',
        hint="If that is another host of yours, add it to trusted_signers.",
    )


def held_of(row: CatalogRow) -> Held:
    """Return the point of a row of the catalog."""
    return Held(
        manifest.decode_as(row.name, row.content),
        ObjectRecord(row.name, row.size, row.sha256),
        row.signer,
        row.missing,
    )


def _gone(
    held: Sequence[Held],
) -> dict[tuple[str, str], tuple[RemovedPoint, IntegrityError]]:
    """Find points that vanished, by id and their manifest's SHA-256, and what to say of each."""
    present = {each.point.point for each in held if not each.missing}
    gone: dict[tuple[str, str], tuple[RemovedPoint, IntegrityError]] = {}

    def vanished(point: str, source: str, record: ObjectRecord, told: str) -> None:
        removed = RemovedPoint(point, source, record.name, record.sha256, "")
        gone.setdefault((point, record.sha256), (removed, ManifestError(told, hint=_ROLLED_BACK)))

    for each in held:
        if each.missing:
            told = (
                f'restore point "{each.point.point}" of source "{each.point.source}" '
                "was in the vault and is gone"
            )
            vanished(each.point.point, each.point.source, each.manifest, told)
    missing = {each.point.point for each in held if each.missing}
    for each in held:
        parent = each.point.parent
        if each.missing or parent is None or parent.point in missing | present:
            continue
        told = (
            f'restore point "{parent.point}" of source "{each.point.source}", '
            f'parent of "{each.point.point}", is gone'
        )
        record = ObjectRecord(parent.name, 0, parent.sha256)
        vanished(parent.point, each.point.source, record, told)
    return gone


def _replaced(held: Sequence[Held]) -> list[IntegrityError]:
    """Find parents that are not what their children saw."""
    present = {each.point.point: each for each in held if not each.missing}
    return [
        ManifestError(
            f'restore point "{parent.point}" is not the one that '
            f'"{each.point.point}" was made from: its manifest was replaced'
        )
        for each in present.values()
        if (parent := each.point.parent) is not None
        and (there := present.get(parent.point)) is not None
        and there.manifest.sha256 != parent.sha256
    ]
