# SPDX-License-Identifier: Apache-2.0
"""`vault.json`: docs/format.md, section 1."""

import json
import re
from dataclasses import dataclass
from datetime import datetime

from snapvault import clock
from snapvault.errors import FormatVersionError, IntegrityError

FORMAT_VERSION = 1
_ID = re.compile(r"[0-9a-f]{32}")
_COPY_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class VaultRecord:
    """What a vault was created with.

    `block_size` is in bytes, for all its disks. `create_only` tells whether the store was seen
    to refuse to replace objects; where it does not, writers look before they put. `copy` is the
    id of a copy: what else holds restore points of the same vault has none, or another.
    """

    vault: str
    created_at: datetime
    block_size: int
    create_only: bool = True
    copy: str | None = None

    @property
    def place(self) -> str:
        """What tells this vault, or this copy of it, from all others; a file can be named so."""
        return self.vault if self.copy is None else f"{self.vault}-{self.copy}"


def encode(record: VaultRecord) -> bytes:
    """Write `vault.json`."""
    document = {
        "format": FORMAT_VERSION,
        "vault": record.vault,
        "created_at": clock.to_text(record.created_at),
        "block_size": record.block_size,
        "create_only": record.create_only,
    }
    if record.copy is not None:
        document["copy"] = record.copy
    return json.dumps(document, indent=1).encode("ascii") + b"\n"


def decode(content: bytes) -> VaultRecord:
    """Read `vault.json`.

    Raises:
        IntegrityError: these bytes are not one.
        FormatVersionError: a vault of a newer format.
    """
    try:
        document = json.loads(content)
        if not isinstance(document, dict):
            raise TypeError("it is not a JSON object")
        version = document["format"]
        if version != FORMAT_VERSION:
            raise FormatVersionError(
                f'"vault.json" has format {version}, this release reads {FORMAT_VERSION}',
                hint="Use a newer SnapVault; nothing was changed.",
            )
        record = VaultRecord(
            document["vault"],
            clock.from_text(document["created_at"]),
            document["block_size"],
            bool(document["create_only"]),
            document.get("copy"),
        )
        if not _ID.fullmatch(record.vault):
            raise ValueError(f"impossible vault id {record.vault!r}")
        if record.copy is not None and not _COPY_ID.fullmatch(record.copy):
            raise ValueError(f"impossible id of a copy {record.copy!r}")
        if not 512 <= record.block_size <= 1 << 24 or record.block_size & (record.block_size - 1):
            raise ValueError(f"impossible block size {record.block_size!r}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise IntegrityError(
            f'"vault.json" cannot be read: {_said(error)}',
            hint="Put it back from a copy of the vault; restore points do not depend on it.",
        ) from error
    return record


def _said(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
