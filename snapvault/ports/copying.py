# SPDX-License-Identifier: Apache-2.0
"""Copies that are made beside the scheduler, one at a time."""

from dataclasses import dataclass

from snapvault.model.policy import Limits
from snapvault.model.settings import Settings


@dataclass(frozen=True, slots=True)
class CopyOrder:
    """Copy what a vault has of some sources to another one."""

    settings: Settings
    vault: str
    to: str
    sources: tuple[str, ...]
    limits: Limits
