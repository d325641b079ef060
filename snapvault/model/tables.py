# SPDX-License-Identifier: Apache-2.0
"""Tables of a dump, as they are counted at the backup and again at a drill."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table as a dump has it: its rows, and a digest over them in the dump's order (hex)."""

    rows: int
    digest: str


Tables = Mapping[str, Mapping[str, TableFacts]]
"""Tables by their database and their name."""


@dataclass(frozen=True, slots=True)
class TablesSummary:
    """All tables of a dump: how many they are, their rows, and one digest of all facts (hex)."""

    tables: int
    rows: int
    digest: str
