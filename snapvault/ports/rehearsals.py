# SPDX-License-Identifier: Apache-2.0
"""Drills that are carried out beside the scheduler, in a process of their own, one at a time."""

from dataclasses import dataclass

from snapvault.model.policy import Policy
from snapvault.model.settings import Settings


@dataclass(frozen=True, slots=True)
class DrillOrder:
    """Rehearse what `policy` says; None: only learn what drills of other hosts showed.

    `vaults` are those whose reports are looked at.
    """

    settings: Settings
    policy: Policy | None
    vaults: tuple[str, ...] = ()
