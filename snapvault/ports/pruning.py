# SPDX-License-Identifier: Apache-2.0
"""Prunes that are carried out beside the scheduler, one at a time."""

from dataclasses import dataclass

from snapvault.model.policy import Policy
from snapvault.model.settings import Settings


@dataclass(frozen=True, slots=True)
class PruneOrder:
    """Prune a vault by these policies."""

    settings: Settings
    vault: str
    policies: tuple[Policy, ...]
