# SPDX-License-Identifier: Apache-2.0
"""Objects that were found missing or damaged, remembered on this host until they are right again.

Backups do not build upon them. A file of this host: it decides what is stored once more, and
never what may be trusted; losing it costs a verify.
"""

import json
from collections.abc import Iterable
from typing import Final

from snapvault.engine.files import write_durably
from snapvault.engine.vault import Vault
from snapvault.formats import names

_FILE: Final = "damaged.json"


def known(vault: Vault) -> frozenset[str]:
    """Return the names of lists, maps, signatures and volumes that are not right."""
    try:
        found = json.loads((vault.state / _FILE).read_bytes())
        return frozenset(name for name in found if isinstance(name, str))
    except (OSError, ValueError, TypeError):
        return frozenset()


def remember(vault: Vault, damaged: Iterable[str], sound: Iterable[str]) -> None:
    """Note what was found damaged, and forget what was found to be right."""
    before = known(vault)
    now = (before - frozenset(sound)) | {name for name in damaged if names.is_prunable(name)}
    if now != before:
        vault.state.mkdir(parents=True, exist_ok=True)
        write_durably(vault.state / _FILE, [json.dumps(sorted(now), indent=1).encode()])
