# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with an operator's file, as values and as one line of text."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from snapvault.errors import ConfigError

_SHOWN_LENGTH: Final = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in one file. Line and column count from 1; `field` is a dotted path.

    `column` is given where no field is known: in what is not YAML at all.
    """

    path: Path
    message: str
    hint: str | None = None
    line: int | None = None
    column: int | None = None
    field: str | None = None

    def __str__(self) -> str:
        """Say where and what in one line, as error messages do."""
        where = f"file {quoted(str(self.path))}"
        if self.line is not None:
            where += f", line {self.line}"
        if self.column is not None:
            where += f", column {self.column}"
        if self.field is not None:
            where += f", field {quoted(self.field)}"
        return f"{where}: {self.message}"


class ProblemError(ConfigError):
    """A file is wrong; `problem` says where."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem), hint=problem.hint)
        self.problem = problem


class HintedValueError(ValueError):
    """A value is wrong, and what to write in its place is known."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def quoted(text: str, *, limit: int | None = None) -> str:
    """Put a text in double quotes, on one line, shortened to `limit` characters."""
    if limit is not None and len(text) > limit:
        text = text[:limit] + "…"
    return '"' + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text) + '"'


def found(value: object) -> str:
    """Describe a value of a file for "expected ..., found ..."."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return quoted(value, limit=_SHOWN_LENGTH)
        case list():
            return "a list"
        case _:
            return "a mapping"


def is_near(name: str, known: str) -> bool:
    """Tell whether a wrong name may be meant for a known one."""
    return bool(difflib.get_close_matches(name, [known]))


def nearest_hint(name: str, known: Iterable[str], *, what: str) -> str | None:
    """Suggest the known name nearest to a wrong one, or list them; `what` is their plural."""
    names = list(known)
    if not names:
        return None
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"Did you mean {quoted(near[0])}?"
    return f"The {what} here are {', '.join(quoted(each) for each in names)}."
