# SPDX-License-Identifier: Apache-2.0
"""Reports of drills in a vault: put, listed, read, and believed only from those who may sign.

A report is sealed to the recovery keys and to every trusted host, and signed around that by a
trusted host or a recovery key. So its signature is checked without a private key. What was read
is kept below the state folder, without pictures and consoles; a cache, like the catalog.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from snapvault.engine.drill_shelf import HeldReport as HeldReport
from snapvault.engine.drill_shelf import Shelf, here, trusted
from snapvault.engine.pipeline import WORKERS, ordered, threads
from snapvault.engine.vault import Vault
from snapvault.errors import (
    DrillError,
    IntegrityError,
    KeyMissingError,
    ObjectMissingError,
    SnapVaultError,
)
from snapvault.formats import drill_report, names
from snapvault.model.drills import DrillReport, StepReport
from snapvault.ports.sealer import Readers, Sealer, Signed
from snapvault.ports.store import StoredObject
from snapvault.units import format_size

MOST_BYTES: Final = 64 << 20
"""The largest report that is stored or read. A screenshot has a few MiB, a console far less."""

MOST_EVIDENCE: Final = 24 << 20
"""Bytes of all consoles and pictures of one report; the rest of it has its own room."""

_NO_ROOM: Final = "left out: its {} do not fit into the report"
_GONE = "Somebody deleted it or the vault was rolled back; compare with another copy of the vault."


@dataclass(frozen=True, slots=True)
class Reports:
    """Reports, oldest first, and what is wrong with others. Pictures and consoles are left out.

    `left_out` is how many were not looked at yet, because no more than so many were to be.
    """

    held: tuple[HeldReport, ...]
    problems: tuple[SnapVaultError, ...] = ()
    left_out: int = 0


def put(vault: Vault, keys: Sealer, report: DrillReport) -> str:
    """Store a report and return its object's name. `keys` signs, and seals to all who may read.

    Of consoles and pictures those of the first steps are stored, as far as they fit.

    Raises:
        SealError, StoreError: it could not be signed, sealed or stored; then it is not there.
        DrillError: it is larger than a report may be.
    """
    content = drill_report.encode(fitting(report, MOST_EVIDENCE), vault.record.vault)
    if len(content) > MOST_BYTES // 2:
        raise DrillError(
            f"report of drill {report.id} has {len(content)} bytes, at most {MOST_BYTES // 2}"
            " can be stored"
        )
    message = keys.sign(keys.seal(content, Readers.RECOVERY))
    name = names.drill_report(report.started, report.id)
    vault.store.put(name, message)
    vault.events.emit("drill.stored", drill=report.id, size_bytes=len(message))
    return name


def fitting(report: DrillReport, most: int) -> DrillReport:
    """Return a report whose consoles and pictures have at most so many bytes as they are stored.

    The first ones stay; a step whose own do not fit says so among its facts.
    """
    left = most
    steps: list[StepReport] = []
    for step in report.steps:
        facts = dict(step.facts)
        kept = step
        if step.console:
            size = len(json.dumps(step.console))
            if size <= left:
                left -= size
            else:
                kept = replace(kept, console="")
                facts["console"] = _NO_ROOM.format(format_size(size))
        if step.screenshot is not None:
            size = -(-len(step.screenshot) // 3) * 4  # in base64
            if size <= left:
                left -= size
            else:
                kept = replace(kept, screenshot=None)
                facts["screenshot"] = _NO_ROOM.format(format_size(len(step.screenshot)))
        steps.append(replace(kept, facts=facts))
    return replace(report, steps=tuple(steps))


def read(vault: Vault, name: str) -> HeldReport:
    """Return a whole report.

    Raises:
        IntegrityError: it is damaged, out of place, or of a signer who is not trusted.
        KeyMissingError: no key here opens it.
    """
    return _read(vault, vault.store.stat(name))


def listed(vault: Vault) -> dict[str, StoredObject]:
    """Return what the vault has in place of reports, by name; one listing."""
    return {found.name: found for found in vault.store.names(names.DRILLS)}


def collect(
    vault: Vault,
    *,
    wanted: Callable[[str], bool] = lambda _: True,
    most: int | None = None,
) -> Reports:
    """Return the reports whose names are wanted, each fetched and proven once on this host.

    One that was seen and is gone is a problem. With `most` at most so many are fetched, the
    newest, and one that could not be believed or opened is left alone for a day.

    Raises:
        StoreError: the vault cannot be listed or read.
        SealError: gpg or its agent cannot be used.
    """
    there = listed(vault)
    shelf = Shelf(vault)
    held: list[HeldReport] = []
    problems: list[SnapVaultError] = []
    fresh: list[StoredObject] = []
    for name, found in there.items():
        if names.parse_drill_report(name) is None or not wanted(name):
            continue
        kept = shelf.get(found)
        if kept is None:
            if most is None or not shelf.was_refused(found):
                fresh.append(found)
        elif kept.signer in trusted(vault):
            held.append(kept)
        else:
            problems.append(_untrusted(name, kept.signer))
    fresh.reverse()
    looked_at = fresh if most is None else fresh[:most]

    def look(found: StoredObject) -> HeldReport | SnapVaultError:
        try:
            return _read(vault, found)
        except (IntegrityError, KeyMissingError, ObjectMissingError) as error:
            return error

    with threads(WORKERS, "report") as pool:
        outcomes = ordered(look, looked_at, ahead=2 * WORKERS, pool=pool)
        for found, outcome in zip(looked_at, outcomes, strict=True):
            if isinstance(outcome, SnapVaultError):
                problems.append(outcome)
                shelf.refuse(found)
            else:
                held.append(shelf.put(found, outcome))
    problems += [_gone(name) for name in shelf.names() if name not in there and wanted(name)]
    held.sort(key=lambda each: (each.report.started, each.name))
    return Reports(tuple(held), tuple(problems), len(fresh) - len(looked_at))


def check_signatures(vault: Vault, found: Iterable[StoredObject]) -> list[IntegrityError]:
    """Return what is wrong with reports as far as it shows without a private key."""

    def look(each: StoredObject) -> IntegrityError | None:
        try:
            _proven(vault, each)
        except IntegrityError as error:
            return error
        return None

    reports = [each for each in found if names.parse_drill_report(each.name) is not None]
    with threads(WORKERS, "report") as pool:
        return [error for error in ordered(look, reports, ahead=2 * WORKERS, pool=pool) if error]


def _read(vault: Vault, found: StoredObject) -> HeldReport:
    signed = _proven(vault, found)
    try:
        content = vault.sealer.open(signed.content)
    except KeyMissingError as error:
        raise KeyMissingError(
            f'drill report "{found.name}" is sealed to other keys than those of this host',
            hint="Hosts read the reports made while they were the vault's signer or among its"
            " trusted_signers; whoever has the recovery key reads all.",
        ) from error
    except IntegrityError as error:
        raise IntegrityError(f'drill report "{found.name}" is damaged: {error}') from error
    try:
        vault_id, report = drill_report.decode_as(found.name, content)
    except IntegrityError as error:
        if f'"{found.name}"' in str(error):
            raise
        raise type(error)(f'drill report "{found.name}": {error}', hint=error.hint) from error
    if vault_id != vault.record.vault:
        raise IntegrityError(f'drill report "{found.name}" belongs to another vault, "{vault_id}"')
    return HeldReport(here(report, vault.name), found.name, signed.fingerprint, vault_id)


def _proven(vault: Vault, found: StoredObject) -> Signed:
    """Return what a trusted signer signed, still sealed."""
    if found.size > MOST_BYTES:
        raise IntegrityError(
            f'drill report "{found.name}" has {found.size} bytes, which no report has'
        )
    try:
        signed = vault.sealer.read_signed(vault.store.get(found.name))
    except IntegrityError as error:
        raise IntegrityError(
            f'drill report "{found.name}" is not to be trusted: {error}'
        ) from error
    if signed.fingerprint not in trusted(vault):
        raise _untrusted(found.name, signed.fingerprint)
    return signed


def _untrusted(name: str, fingerprint: str) -> IntegrityError:
    return IntegrityError(
        f'drill report "{name}" is signed by {fingerprint}, which the settings do not trust',
        hint="If that is another host of yours, add it to trusted_signers.",
    )


def _gone(name: str) -> IntegrityError:
    return IntegrityError(f'drill report "{name}" was in the vault and is gone', hint=_GONE)
