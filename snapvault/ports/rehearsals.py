# SPDX-License-Identifier: Apache-2.0
"""Drills that are carried out beside the scheduler, in a process of their own, one at a time."""

from dataclasses import dataclass
from typing import Protocol

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


@dataclass(frozen=True, slots=True)
class DrillEnded:
    """How the process of an order ended; `status` is negative for a signal."""

    order: DrillOrder
    status: int


class Rehearser(Protocol):
    """Carries out one order at a time. Used by one thread."""

    @property
    def order(self) -> DrillOrder | None:
        """What is being carried out; None: nothing."""
        ...

    def start(self, order: DrillOrder) -> None:
        """Begin with an order; nothing is being carried out.

        Raises:
            SnapVaultError: it could not be begun.
        """
        ...

    def ended(self) -> DrillEnded | None:
        """Return how the last order ended, once; does not wait."""
        ...

    def ask_to_end(self) -> None:
        """Ask what is going on to end."""
        ...

    def stop(self, seconds: float) -> None:
        """Ask it to end, and kill it if it has not after so many seconds."""
        ...
