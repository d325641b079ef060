# SPDX-License-Identifier: Apache-2.0
"""What an operator should know about keys: whose they are, how long they last, what is here."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from snapvault.adapters.sealers.process import Gpg

_SECRET_MISSING = {"", "#"}
_INVALID = set("ernd")  # expired, revoked, not valid, disabled


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """One key of a home. `expires` is when it first stops to encrypt or sign; None: never.

    `opens_here` tells whether the secret half of an encryption key is in this home.
    """

    fingerprint: str
    user_id: str
    expires: datetime | None
    opens_here: bool


def read_facts(home: Path, fingerprints: Iterable[str]) -> dict[str, KeyFacts]:
    """Return what a home knows of some keys, by primary fingerprint; those that are not there lack.

    Raises:
        ConfigError, SealError: the home or gpg cannot be used.
    """
    wanted = set(fingerprints)
    return {
        str(record["fingerprint"]): _facts(record)
        for record in Gpg(home, None).list_keys()
        if record["fingerprint"] in wanted
    }


def gnupg_version(home: Path) -> str:
    """Return the version of the gpg program: `2.2.40`."""
    return Gpg(home, None).version


def _facts(record: dict[str, Any]) -> KeyFacts:
    parts = [record, *record.get("subkey_info", {}).values()]
    ends = [_time(record), *(_last(parts, usage) for usage in "es")]
    return KeyFacts(
        fingerprint=record["fingerprint"],
        user_id=record["uids"][0] if record["uids"] else "",
        expires=min((end for end in ends if end is not None), default=None),
        opens_here=any(
            "e" in part["cap"] and part["token"] not in _SECRET_MISSING for part in parts
        ),
    )


def _last(parts: list[dict[str, Any]], usage: str) -> datetime | None:
    """Return when the last of the parts with a usage expires; None: never, or there is none."""
    ends = [_time(part) for part in parts if usage in part["cap"] and part["trust"] not in _INVALID]
    known = [end for end in ends if end is not None]
    return max(known) if known and len(known) == len(ends) else None


def _time(part: dict[str, Any]) -> datetime | None:
    seconds = part["expires"]
    return datetime.fromtimestamp(int(seconds), UTC) if seconds else None
