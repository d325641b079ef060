# SPDX-License-Identifier: Apache-2.0
"""When this host looked last for reports of drills that other hosts made, across processes."""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from snapvault import clock

_FILE: Final = "drills-looked-for.json"


class LookNote:
    """A file in the state folder; without it, or damaged, one look more is all that is lost."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / _FILE

    def last(self, vaults: Sequence[str]) -> datetime | None:
        """Return when all of these vaults were looked at last; None: never, as far as is known."""
        try:
            note = json.loads(self._path.read_bytes())
            is_whole = set(vaults) <= set(note["vaults"])
            return clock.from_text(note["at"]) if is_whole else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, vaults: Sequence[str], at: datetime) -> None:
        """Remember a look; a full disk is no failure."""
        content = json.dumps({"at": clock.to_text(at), "vaults": sorted(vaults)})
        with suppress(OSError):
            self._path.write_text(content, encoding="ascii")
