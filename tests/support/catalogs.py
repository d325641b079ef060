# SPDX-License-Identifier: Apache-2.0
"""A catalog in memory."""

from collections.abc import Sequence
from dataclasses import replace

from snapvault.ports.catalog import CatalogRow


class MemoryCatalog:
    """Rows in a dictionary; for tests that lose the host's state by making a new one."""

    def __init__(self) -> None:
        self._rows: dict[str, CatalogRow] = {}

    def rows(self, source: str | None = None) -> list[CatalogRow]:
        found = [row for row in self._rows.values() if source in {None, row.source}]
        return sorted(found, key=lambda row: (row.taken_at, row.name))

    def add(self, rows: Sequence[CatalogRow]) -> None:
        self._rows.update({row.name: row for row in rows})

    def mark_missing(self, names: Sequence[str], *, missing: bool) -> None:
        for name in names:
            if name in self._rows:
                self._rows[name] = replace(self._rows[name], missing=missing)

    def clear(self) -> None:
        self._rows.clear()

    def close(self) -> None:
        pass
