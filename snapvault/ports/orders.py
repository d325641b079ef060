# SPDX-License-Identifier: Apache-2.0
"""Work that is carried out beside the scheduler, in a process of its own, one order at a time."""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ended(Generic[T]):
    """How the process of an order ended; `status` is negative for a signal."""

    order: T
    status: int


class Performer(Protocol[T]):
    """Carries out one order at a time. Used by one thread."""

    @property
    def order(self) -> T | None:
        """What is being carried out; None: nothing."""
        ...

    def start(self, order: T) -> None:
        """Begin with an order; nothing is being carried out.

        Raises:
            SnapVaultError: it could not be begun.
        """
        ...

    def ended(self) -> Ended[T] | None:
        """Return how the last order ended, once; does not wait."""
        ...

    def ask_to_end(self) -> None:
        """Ask what is going on to end."""
        ...

    def stop(self, seconds: float) -> None:
        """Ask it to end, and kill it if it has not after so many seconds."""
        ...
