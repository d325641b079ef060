# SPDX-License-Identifier: Apache-2.0
"""What docs/sources.md tells an operator to do, for tests that do exactly that."""

import re
from functools import cache
from pathlib import Path

_MANUAL = Path(__file__).parents[2] / "docs" / "sources.md"


@cache
def blocks(section: str, language: str) -> tuple[str, ...]:
    """Return the fenced blocks of a language in the section of a kind, in order."""
    text = _MANUAL.read_text(encoding="utf-8")
    (body,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", body, re.DOTALL | re.MULTILINE)
    return tuple(found)


def statements(section: str) -> tuple[tuple[str, ...], ...]:
    """Return the SQL statements of each block in a section, without comments."""
    return tuple(
        tuple(each.strip() for each in re.sub(r"--.*", "", block).split(";") if each.strip())
        for block in blocks(section, "sql")
    )
