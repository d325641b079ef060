# SPDX-License-Identifier: Apache-2.0
"""Reports of drills that were proven once, as this host keeps them; a cache, like the catalog."""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from snapvault import clock
from snapvault.engine.files import write_durably
from snapvault.engine.vault import Vault
from snapvault.errors import IntegrityError
from snapvault.formats import drill_report, names
from snapvault.model.drills import DrillReport
from snapvault.ports.store import StoredObject

_REFUSED_FOR: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class HeldReport:
    """A report that may be believed, with its object's name and who signed it.

    The report's vault is the name that this host knows the vault by; `vault_id` is the vault's own.
    """

    report: DrillReport
    name: str
    signer: str
    vault_id: str


def trusted(vault: Vault) -> frozenset[str]:
    """Return whose signature on a report counts.

    Those of hosts that the settings trust, and of the recovery keys: who can read all that was
    backed up can vouch for having restored it.
    """
    return vault.sealer.trusted | frozenset(vault.sealer.recipients)


def here(report: DrillReport, vault: str) -> DrillReport:
    """Return a report with the vault's name on this host."""
    steps = (replace(step, key=step.key._replace(vault=vault)) for step in report.steps)
    return replace(report, vault=vault, steps=tuple(steps))


class Shelf:
    """Reports that were proven once, one file each below the state folder.

    A file is the SHA-256 of what follows it, so that a damaged one is read from the vault again.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._folder = vault.state / "drills"

    def names(self) -> list[str]:
        """Return the names of the objects that are on the shelf, sorted."""
        with suppress(FileNotFoundError):
            kept = (names.DRILLS + path.stem for path in self._folder.glob("*.json"))
            return sorted(name for name in kept if names.parse_drill_report(name) is not None)
        return []

    def get(self, found: StoredObject) -> HeldReport | None:
        """Return a report as it was proven, if the object still has its size."""
        try:
            digest, _, kept = self._path(found.name).read_bytes().partition(b"\n")
            if hashlib.sha256(kept).hexdigest().encode() != digest:
                return None
            entry = json.loads(kept)
            if entry["name"] != found.name or entry["size"] != found.size:
                return None
            vault_id, report = drill_report.decode(entry["report"].encode())
            report = here(report, self._vault.name)
            return HeldReport(report, found.name, entry["signer"], vault_id)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IntegrityError):
            return None

    def put(self, found: StoredObject, held: HeldReport) -> HeldReport:
        """Keep a report without what is large, and return it so; a full disk is no failure."""
        steps = (replace(step, console="", screenshot=None) for step in held.report.steps)
        lean = replace(held, report=replace(held.report, steps=tuple(steps)))
        entry = {
            "name": found.name,
            "size": found.size,
            "signer": held.signer,
            "report": drill_report.encode(lean.report, held.vault_id).decode(),
        }
        kept = json.dumps(entry).encode()
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            digest = hashlib.sha256(kept).hexdigest().encode()
            write_durably(self._path(found.name), [digest, b"\n", kept])
        return lean

    def was_refused(self, found: StoredObject) -> bool:
        """Tell whether an object was no report to believe a short time ago, by the same trust."""
        try:
            note = json.loads(self._path(found.name, "refused").read_bytes())
            age = clock.now() - clock.from_text(note["at"])
            same = (note["size"], note["trusted"]) == (found.size, sorted(trusted(self._vault)))
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return same and timedelta(0) <= age < _REFUSED_FOR

    def refuse(self, found: StoredObject) -> None:
        """Remember that an object is no report to believe."""
        note = {
            "size": found.size,
            "trusted": sorted(trusted(self._vault)),
            "at": clock.to_text(clock.now()),
        }
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            write_durably(self._path(found.name, "refused"), [json.dumps(note).encode()])

    def _path(self, name: str, kind: str = "json") -> Path:
        return self._folder / f"{name.removeprefix(names.DRILLS)}.{kind}"
