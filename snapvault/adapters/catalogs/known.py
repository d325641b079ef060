# SPDX-License-Identifier: Apache-2.0
"""Which vault was found behind each name: what tells a vault's catalog without asking its store."""

import json
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from snapvault.model.settings import VaultSettings

# Of a copy of a vault, the copy's id follows.
_VAULT_ID: Final = re.compile(r"[0-9a-f]{32}(-[0-9a-f]{16})?")


class KnownVaults:
    """A folder with a small file for each vault's name. It can be lost or damaged.

    What is remembered counts for the store that it was found in alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def remember(self, settings: VaultSettings, vault: str) -> None:
        """Remember the id of a vault that was opened; what the disk refuses is let go."""
        if self.find(settings) == vault:
            return
        document = {"store": settings.store, "endpoint": settings.endpoint_url, "vault": vault}
        path = self._path(settings)
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.write_text(json.dumps(document))
            part.replace(path)
        except OSError:
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def find(self, settings: VaultSettings) -> str | None:
        """Return the id of the vault; None if it was not opened since the settings named it."""
        try:
            document = json.loads(self._path(settings).read_bytes())
            place = document["store"], document["endpoint"]
            vault = document["vault"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if place != (settings.store, settings.endpoint_url) or not isinstance(vault, str):
            return None
        return vault if _VAULT_ID.fullmatch(vault) else None

    def _path(self, settings: VaultSettings) -> Path:
        return self._folder / f"{settings.name}.json"
