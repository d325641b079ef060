# SPDX-License-Identifier: Apache-2.0
"""What counts at the moment: settings and policies, as they were last read whole."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from snapvault.config.policies import read_policies
from snapvault.config.problems import Problem, ProblemError
from snapvault.config.settings import load_settings
from snapvault.model.policy import Policy
from snapvault.model.settings import Settings


@dataclass(frozen=True, slots=True)
class Rules:
    """Settings, policies, and what is wrong with the files that do not count.

    A file that was read before and is wrong now still counts as it was then.
    """

    settings: Settings
    policies: tuple[Policy, ...]
    problems: tuple[Problem, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The problems, a line each."""
        return tuple(str(problem) for problem in self.problems)


def read(config: Path) -> Rules:
    """Read everything; policies that are wrong are left out, and named.

    Raises:
        ConfigError: the settings are wrong.
    """
    settings = load_settings(config)
    return Rules(settings, *read_policies(settings))


def read_again(before: Rules) -> Rules:
    """Read everything again; what is wrong now stays as it was. Never raises for a wrong file."""
    try:
        settings = load_settings(before.settings.path)
    except ProblemError as error:
        return replace(before, problems=(error.problem,))
    if settings.state_dir != before.settings.state_dir:
        problem = Problem(
            settings.path,
            f'state_dir is "{settings.state_dir}" now, and was "{before.settings.state_dir}"',
            "Restart the daemon to move it; until then the old settings count.",
        )
        return replace(before, problems=(problem,))
    policies, problems = read_policies(settings)
    broken = {problem.path for problem in problems}
    kept = [
        policy
        for policy in before.policies
        if (policy.path in broken or settings.policies_dir in broken)
        and policy.vault in settings.vaults
    ]
    return Rules(settings, _merged(policies, kept), problems)


def _merged(sound: Sequence[Policy], kept: Sequence[Policy]) -> tuple[Policy, ...]:
    """Put old policies beside sound ones, without the sources that those have taken over."""
    taken = {(policy.vault, source.name) for policy in sound for source in policy.sources}
    policies = list(sound)
    for policy in kept:
        sources = tuple(
            source for source in policy.sources if (policy.vault, source.name) not in taken
        )
        if sources:
            policies.append(replace(policy, sources=sources))
            taken |= {(policy.vault, source.name) for source in sources}
    return tuple(sorted(policies, key=lambda policy: policy.path.name))
