# SPDX-License-Identifier: Apache-2.0
"""Work on several things, of which some may fail: going on, and the status at the end."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from snapvault.cli import boundary
from snapvault.errors import EXIT_DONE, EXIT_PARTIAL, SnapVaultError

if TYPE_CHECKING:
    from snapvault.config.problems import Problem
    from snapvault.model.policy import Policy


def show_problems(problems: "Iterable[Problem]") -> list[SnapVaultError]:
    """Say all that is wrong with files, each in a line with its hint, and return the errors."""
    from snapvault.config.problems import ProblemError

    errors: list[SnapVaultError] = [ProblemError(problem) for problem in problems]
    for error in errors:
        boundary.show(error)
    return errors


def wrong_of(
    names: Sequence[str], policies: "Sequence[Policy]", problems: "Sequence[Problem]"
) -> list[SnapVaultError]:
    """Return what is wrong with the files that name one of these sources besides a right one.

    Raises:
        ConfigError: no right policy has one of the sources, and a wrong one has it or may.
    """
    from snapvault.config.claims import claims_of
    from snapvault.config.problems import ProblemError

    if not problems:
        return []
    claims = claims_of(problems)
    known = dict.fromkeys(source.name for policy in policies for source in policy.sources)
    for name in names:
        if name not in known:
            raise claims.missing(name, known)
    named = {path for name in names for path in claims.of(name)}
    return [ProblemError(problem) for problem in problems if problem.path in named]


@dataclass(slots=True)
class Outcomes:
    """What became of each of several things."""

    done: int = 0
    errors: list[SnapVaultError] = field(default_factory=list)

    def fail(self, error: SnapVaultError, *, about: str = "", count: int = 1) -> None:
        """Say an error at once, and remember it for `count` things."""
        boundary.show(error, about=about)
        self.errors += [error] * count

    @property
    def status(self) -> int:
        """0 if all was done, 3 if some was, and otherwise the status of the first error."""
        if not self.errors:
            return EXIT_DONE
        return EXIT_PARTIAL if self.done else self.errors[0].exit_status
