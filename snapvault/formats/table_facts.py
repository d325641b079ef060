# SPDX-License-Identifier: Apache-2.0
"""What a restore point records of a dump's tables: docs/format.md, section 8.

A manifest can be read without a key. The digest of a small table would give its content away to
whoever tries out what it may be, and a table's name and rows say more than they should. So one
digest over all tables is recorded, which tells no more than the digest of the dump beside it. The
tables are counted again in the dump that comes back; when the digests agree, so do all the facts.
"""

import json
from collections.abc import Mapping
from typing import Final

from blake3 import blake3

from snapvault.model.tables import Tables, TablesSummary

_TABLES: Final = "tables"
_ROWS: Final = "rows"
_DIGEST: Final = "tables_digest"

_RULE: Final = "1:"  # how tables are counted; under another rule they would have other digests
_DIGEST_SIZE: Final = 16


def summarize(tables: Tables) -> TablesSummary:
    """Return what is recorded of tables; their order does not matter."""
    flat = sorted(
        (database, name, facts.rows, facts.digest)
        for database, inside in tables.items()
        for name, facts in inside.items()
    )
    text = json.dumps(flat, ensure_ascii=True, separators=(",", ":"))
    digest = blake3(text.encode("ascii")).hexdigest(length=_DIGEST_SIZE)
    return TablesSummary(len(flat), sum(rows for _, _, rows, _ in flat), digest)


def encode(summary: TablesSummary) -> dict[str, str]:
    """Return a summary as facts of a stream."""
    return {
        _TABLES: str(summary.tables),
        _ROWS: str(summary.rows),
        _DIGEST: _RULE + summary.digest,
    }


def decode(facts: Mapping[str, str]) -> TablesSummary | None:
    """Return the summary among the facts of a stream; None: there is none that we could compare."""
    digest = facts.get(_DIGEST, "")
    if not digest.startswith(_RULE):
        return None
    try:
        return TablesSummary(int(facts[_TABLES]), int(facts[_ROWS]), digest.removeprefix(_RULE))
    except (KeyError, ValueError):
        return None
