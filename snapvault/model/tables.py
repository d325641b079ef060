# SPDX-License-Identifier: Apache-2.0
"""Tables of a dump, as they are counted at the backup and again at a drill."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table as a dump has it: its rows, and a digest over them in the dump's order (hex)."""

    rows: int
    digest: str
