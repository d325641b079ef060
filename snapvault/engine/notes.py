# SPDX-License-Identifier: Apache-2.0
"""Small signed objects by which hosts tell each other of holds and prunes.

Each is fetched and proven once on this host, and kept below the state folder; a cache, like the
catalog, which also remembers what was there.
"""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from snapvault.engine.files import write_durably
from snapvault.engine.pipeline import WORKERS, ordered, threads
from snapvault.errors import IntegrityError, ManifestError, ObjectMissingError
from snapvault.formats import names
from snapvault.formats import notes as notes_format
from snapvault.formats.key_changes import decode_key_change, encode_key_change
from snapvault.model.notes import Hold, KeyChange, PruneRecord
from snapvault.ports.store import StoredObject

if TYPE_CHECKING:
    from snapvault.engine.vault import Vault

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Noted(Generic[T]):
    """A note, and when it was put by the store's clock."""

    note: T
    name: str
    stored_at: datetime | None


@dataclass(frozen=True, slots=True)
class Notes(Generic[T]):
    """The notes that count, by name, and what is wrong with others."""

    noted: tuple[Noted[T], ...]
    problems: tuple[IntegrityError, ...]


@dataclass(frozen=True, slots=True)
class Doom:
    """When an object was last found to be unneeded: by the clock of a host, and the store's."""

    at: datetime
    stored_at: datetime | None


def holds(vault: "Vault") -> Notes[Hold]:
    """Return the holds in a vault, and the ends of them.

    Raises:
        StoreError: the vault cannot be listed or read.
    """
    return _read(vault, names.HOLDS, names.parse_hold, notes_format.decode_hold)


def prunes(vault: "Vault", known: Notes[PruneRecord] | None = None) -> Notes[PruneRecord]:
    """Return the records of prunes, oldest first; those that are `known` are not read again.

    Raises: as `holds`.
    """
    return _read(
        vault, names.PRUNES, names.parse_prune_record, notes_format.decode_prune, known=known
    )


def key_changes(vault: "Vault") -> Notes[KeyChange]:
    """Return the changes of keys, oldest first. A recovery key may have signed them too.

    Raises: as `holds`.
    """
    signers = vault.sealer.trusted | frozenset(vault.sealer.recipients)
    return _read(vault, names.KEYS, names.parse_key_change, decode_key_change, signers)


def held_points(found: Notes[Hold]) -> dict[str, tuple[Hold, ...]]:
    """Return the holds that are not over, by point.

    The end of a hold names it, so that this does not hang on clocks.
    """
    ended = {hold for each in found.noted for hold in each.note.ends}
    held: dict[str, tuple[Hold, ...]] = {}
    for each in sorted(found.noted, key=lambda each: (each.note.at, each.note.id)):
        if not each.note.ends and each.note.id not in ended:
            held[each.note.point] = (*held.get(each.note.point, ()), each.note)
    return held


def doomed(found: Notes[PruneRecord]) -> dict[str, Doom]:
    """Return the objects that prunes found to be unneeded, and when that was last."""
    result: dict[str, Doom] = {}
    for each in found.noted:
        doom = Doom(each.note.at, each.stored_at)
        for name in each.note.doomed:
            before = result.get(name)
            result[name] = doom if before is None else _later(before, doom)
    return result


def _later(one: Doom, other: Doom) -> Doom:
    """Return the later time by either clock; what one does not know, nobody does."""
    stored_at = None
    if one.stored_at is not None and other.stored_at is not None:
        stored_at = max(one.stored_at, other.stored_at)
    return Doom(max(one.at, other.at), stored_at)


def removed_points(found: Notes[PruneRecord]) -> frozenset[tuple[str, str]]:
    """Return (point, SHA-256 of its manifest) of the points that prunes took away."""
    return frozenset(
        (each.point, each.sha256)
        for one in found.noted
        for each in one.note.points
        if not each.absent
    )


def explained_points(found: Notes[PruneRecord]) -> dict[tuple[str, str], str]:
    """Return why points are not here, those that prunes took away and those that never came.

    By point and SHA-256 of its manifest.
    """
    return {
        (each.point, each.sha256): each.reason for one in found.noted for each in one.note.points
    }


def put_hold(vault: "Vault", hold: Hold) -> None:
    """Sign and store a hold, or the end of some.

    Raises:
        SealError, StoreError: it could not be signed or stored.
    """
    content = notes_format.encode_hold(hold, vault.record.vault)
    vault.store.put(names.hold(hold.point, hold.id), vault.sealer.sign(content))


def put_prune(vault: "Vault", record: PruneRecord) -> str:
    """Sign and store the record of a prune, and return its name.

    Raises: as `put_hold`.
    """
    name = names.prune_record(record.at, record.id)
    content = notes_format.encode_prune(record, vault.record.vault)
    vault.store.put(name, vault.sealer.sign(content))
    return name


def put_key_change(vault: "Vault", change: KeyChange, sign: Callable[[bytes], bytes]) -> str:
    """Store a change of keys, signed by `sign`, and return its name.

    Raises: as `put_hold`.
    """
    name = names.key_change(change.at, change.id)
    vault.store.put(name, sign(encode_key_change(change, vault.record.vault)))
    return name


def forget(vault: "Vault") -> None:
    """Forget what this host has seen of notes."""
    for prefix in (names.HOLDS, names.PRUNES, names.KEYS):
        folder = _folder(vault, prefix)
        if folder.is_dir():
            for path in folder.iterdir():
                path.unlink(missing_ok=True)


def _read(
    vault: "Vault",
    prefix: str,
    parse: Callable[[str], str | None],
    decode: Callable[[str, bytes, str], T],
    signers: frozenset[str] | None = None,
    *,
    known: Notes[T] | None = None,
) -> Notes[T]:
    trusted = vault.sealer.trusted if signers is None else signers
    # ORDER: before the listing. What another process of this host sees meanwhile is not gone.
    seen = _seen(vault, prefix, parse)
    there = {
        found.name: found for found in vault.store.names(prefix) if parse(found.name) is not None
    }
    # Years of nights leave a thousand: what is here is read without threads, and once in a run.
    notes = {each.name: each.note for each in known.noted} if known is not None else {}
    kept = _kept(_folder(vault, prefix), [name for name in there if name not in notes])

    def read(found: StoredObject) -> Noted[T] | IntegrityError:
        if found.name in notes:
            return Noted(notes[found.name], found.name, found.stored_at)
        try:
            signer, content = kept.get(found.name) or _proven(vault, found, trusted)
            if signer not in trusted:
                raise _untrusted(found.name, signer)
            note = decode(found.name, content, vault.record.vault)
        except IntegrityError as error:
            return error
        return Noted(note, found.name, found.stored_at)

    fresh = [found for name, found in there.items() if name not in notes and name not in kept]
    with threads(WORKERS, "note") as pool:
        fetched = dict(
            zip(
                (found.name for found in fresh),
                ordered(read, fresh, ahead=2 * WORKERS, pool=pool),
                strict=True,
            )
        )
    outcomes = [fetched.get(name) or read(found) for name, found in there.items()]
    noted = [each for each in outcomes if not isinstance(each, IntegrityError)]
    problems = [each for each in outcomes if isinstance(each, IntegrityError)]
    problems += [_gone(name) for name in seen if name not in there]
    return Notes(tuple(noted), tuple(problems))


def _folder(vault: "Vault", prefix: str) -> Path:
    return vault.state / prefix.rstrip("/")


def _seen(vault: "Vault", prefix: str, parse: Callable[[str], str | None]) -> list[str]:
    folder = _folder(vault, prefix)
    if not folder.is_dir():
        return []
    return sorted(
        prefix + path.name for path in folder.iterdir() if parse(prefix + path.name) is not None
    )


def _kept(folder: Path, there: Iterable[str]) -> dict[str, tuple[str, bytes]]:
    """Return (signer, content) of what was proven here before, by name; damaged copies are not."""
    found: dict[str, tuple[str, bytes]] = {}
    for name in there:
        try:
            data = (folder / name.rpartition("/")[2]).read_bytes()
        except OSError:
            continue
        digest, _, signed = data.partition(b"\n")
        if hashlib.sha256(signed).hexdigest().encode() == digest:
            signer, _, content = signed.partition(b"\n")
            found[name] = signer.decode("ascii", errors="replace"), content
    return found


def _proven(vault: "Vault", found: StoredObject, trusted: frozenset[str]) -> tuple[str, bytes]:
    """Fetch a note, prove its signature, and keep who signed what if the settings trust them."""
    try:
        signed = vault.sealer.read_signed(vault.store.get(found.name))
    except ObjectMissingError as error:
        raise _gone(found.name) from error
    except IntegrityError as error:
        raise ManifestError(f'object "{found.name}" is not to be trusted: {error}') from error
    if signed.fingerprint not in trusted:
        raise _untrusted(found.name, signed.fingerprint)
    prefix, _, base = found.name.rpartition("/")
    folder = _folder(vault, prefix + "/")
    known = signed.fingerprint.encode() + b"\n" + signed.content
    with suppress(OSError):  # it is fetched again, then
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / base, [hashlib.sha256(known).hexdigest().encode(), b"\n", known])
    return signed.fingerprint, signed.content


def _untrusted(name: str, fingerprint: str) -> ManifestError:
    return ManifestError(
        f'object "{name}" is signed by {fingerprint}, which the settings do not trust',
        hint="If that is another host of yours, add it to trusted_signers.",
    )


def _gone(name: str) -> ManifestError:
    return ManifestError(
        f'object "{name}" was in the vault and is gone',
        hint="Somebody deleted it or the vault was rolled back; compare with another copy of the "
        "vault.",
    )
