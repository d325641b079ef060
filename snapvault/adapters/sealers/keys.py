# SPDX-License-Identifier: Apache-2.0
"""Keys in a key ring: from what a person types to one fingerprint, and what a key is good for."""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapvault.adapters.sealers.process import Gpg
from snapvault.errors import KeyMissingError

_FINGERPRINT = re.compile(r"[0-9A-F]{40}(?:[0-9A-F]{24})?")
_KEY_ID = re.compile(r"[0-9A-F]{8}(?:[0-9A-F]{8})?")
_SECRET_MISSING = {"", "#"}


@dataclass(frozen=True, slots=True)
class Key:
    """A primary key with its subkeys.

    `subkeys` are their fingerprints. `usage` holds `E` and `S` when the key as a whole can
    encrypt and sign now, and `D` when it is disabled; `trust` is gpg's letter for its
    validity. `signs_here` says whether the secret half of a signing key is in this home.
    """

    fingerprint: str
    subkeys: tuple[str, ...]
    user_ids: tuple[str, ...]
    trust: str
    usage: str
    signs_here: bool

    @property
    def label(self) -> str:
        """The fingerprint, and the first user id, for messages."""
        return f"{self.fingerprint} ({self.user_ids[0]})" if self.user_ids else self.fingerprint


def list_keys(gpg: Gpg) -> list[Key]:
    """Return the keys of a key ring."""
    return [_read(record) for record in gpg.list_keys()]


def resolve(typed: str, keys: Sequence[Key], purpose: str, *, home: Path | None = None) -> str:
    """Return the one primary fingerprint that `typed` names.

    It may be a fingerprint, a long or short key id, an e-mail address or a part of a user
    id. A full fingerprint of a key that is not in the key ring stands for itself: a host
    that only restores need not have every key. `home` is for messages, where the keys are.

    Raises:
        KeyMissingError: no key answers to it, or more than one.
    """
    number = typed.upper().replace(" ", "").removeprefix("0X").removesuffix("!")
    matches = _by_number(number, keys)
    # SAFETY: a user id is whatever its owner wrote, a fingerprint included.
    if not matches and not _FINGERPRINT.fullmatch(number):
        matches = _by_user_id(typed, keys)
    if len(matches) == 1:
        return matches[0].fingerprint
    if matches:
        candidates = ", ".join(sorted(key.label for key in matches))
        raise KeyMissingError(
            f'{purpose} "{typed}" is ambiguous, {len(matches)} keys match: {candidates}',
            hint="Name the key by its full fingerprint.",
        )
    if _FINGERPRINT.fullmatch(number):
        return number
    raise _absent(typed, purpose, home)


def require(
    fingerprint: str,
    keys: Iterable[Key],
    purpose: str,
    *,
    encrypt: bool,
    sign: bool,
    home: Path | None = None,
) -> None:
    """Refuse a key that cannot do what it is for; `home` is for messages.

    Raises:
        KeyMissingError: it is missing, revoked, expired, disabled, of the wrong kind, or
            its secret half, needed to sign, is not here; each in its own words.
    """
    key = next((key for key in keys if key.fingerprint == fingerprint), None)
    if key is None:
        raise _absent(fingerprint, purpose, home)
    name = f'{purpose} "{key.label}"'
    if key.trust == "r":
        raise KeyMissingError(f"{name} is revoked", hint="Choose a key that is in force.")
    if key.trust == "e":
        raise KeyMissingError(
            f"{name} has expired",
            hint=f'Extend it with "gpg --quick-set-expire {fingerprint} 2y", then import it here.',
        )
    if "D" in key.usage or key.trust == "d":
        raise KeyMissingError(
            f"{name} is disabled", hint=f'Enable it with "gpg --edit-key {fingerprint} enable".'
        )
    if encrypt and "E" not in key.usage:
        raise KeyMissingError(
            f"{name} cannot encrypt: it has no encryption subkey in force",
            hint=f'Add one with "gpg --quick-add-key {fingerprint} cv25519 encr".',
        )
    if sign and "S" not in key.usage:
        raise KeyMissingError(
            f"{name} cannot sign: it has no signing key in force",
            hint=f'Add one with "gpg --quick-add-key {fingerprint} ed25519 sign".',
        )
    if sign and not key.signs_here:
        raise KeyMissingError(
            f"{name} cannot sign here: its secret key is not in this GnuPG home",
            hint="Import this host's own secret key, or name a key whose secret half is here.",
        )


def _absent(typed: str, purpose: str, home: Path | None) -> KeyMissingError:
    where = "" if home is None else f"--homedir {shlex.quote(str(home))} "
    return KeyMissingError(
        f'{purpose} "{typed}" is not in the key ring',
        hint=f'Import its public key with "gpg {where}--import FILE", or correct the settings.',
    )


def _by_number(number: str, keys: Sequence[Key]) -> list[Key]:
    if not (_FINGERPRINT.fullmatch(number) or _KEY_ID.fullmatch(number)):
        return []
    return [
        key
        for key in keys
        if any(print_.endswith(number) for print_ in (key.fingerprint, *key.subkeys))
    ]


def _by_user_id(typed: str, keys: Sequence[Key]) -> list[Key]:
    """Match an e-mail address as a whole (`ops@a.org` is not `devops@a.org`), others as a part."""
    wanted = typed.strip().casefold()
    if not wanted:
        return []

    def fits(user_id: str) -> bool:
        if "@" in wanted:
            address = wanted.removeprefix("<").removesuffix(">")
            return address == _address(user_id) or wanted == user_id.casefold()
        return wanted in user_id.casefold()

    return [key for key in keys if any(fits(user_id) for user_id in key.user_ids)]


def _address(user_id: str) -> str:
    bracketed = re.search(r"<([^<>]*)>\s*$", user_id)
    return (bracketed[1] if bracketed else user_id).strip().casefold()


def _read(record: dict[str, Any]) -> Key:
    subkeys = list(record.get("subkey_info", {}).values())
    # QUIRK: gpg 2.2 and 2.4 mark a usable secret key with "+", or with a smart card's number.
    signs_here = any(
        "s" in part["cap"] and part["token"] not in _SECRET_MISSING and part["trust"] not in "er"
        for part in (record, *subkeys)
    )
    return Key(
        fingerprint=record["fingerprint"],
        subkeys=tuple(subkey[2] for subkey in record["subkeys"] if subkey[2]),
        user_ids=tuple(record["uids"]),
        trust=record["trust"],
        usage=record["cap"],
        signs_here=signs_here,
    )
