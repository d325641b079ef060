# SPDX-License-Identifier: Apache-2.0
"""Which sources a policy file is about that is too wrong to count."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from snapvault.config.document import read_document
from snapvault.config.problems import Problem, ProblemError, nearest_hint, quoted
from snapvault.errors import ConfigError

_SOURCES: Final = "sources"


@dataclass(frozen=True, slots=True)
class Claims:
    """What can be told of wrong files: the names of their sources, or None for nobody knows."""

    names: Mapping[Path, frozenset[str] | None] = field(default_factory=dict)

    def of(self, source: str) -> list[Path]:
        """Return the files that name a source."""
        return [path for path, names in self.names.items() if names and source in names]

    @property
    def unknown(self) -> list[Path]:
        """The files, or the folder, that may name any source."""
        return [path for path, names in self.names.items() if names is None]

    def missing(self, source: str, known: Iterable[str]) -> ConfigError:
        """Return the error of a source that no right policy has; `known` are those that one has."""
        if named := self.of(source):
            return ConfigError(
                f"source {quoted(source)} is in a policy that is wrong: file"
                f" {quoted(str(named[0]))}",
                hint='Correct that file first; "snapvault policy check" says what is wrong.',
            )
        near = nearest_hint(source, known, what="sources")
        if not self.unknown:
            return ConfigError(f"no policy has a source {quoted(source)}", hint=near)
        hint = f"It may be in {quoted(str(self.unknown[0]))}, which is wrong: correct that first."
        return ConfigError(
            f"no policy that can be read has a source {quoted(source)}",
            hint=f"{hint} {near}" if near else hint,
        )


def claims_of(problems: Iterable[Problem]) -> Claims:
    """Look into the files that have problems for the sources they name."""
    return Claims({path: _names(path) for path in dict.fromkeys(each.path for each in problems)})


def _names(path: Path) -> frozenset[str] | None:
    try:
        value = read_document(path).value
    except ProblemError:
        return None
    sources = value.get(_SOURCES) if isinstance(value, dict) else None
    return frozenset(sources) if isinstance(sources, dict) else None
