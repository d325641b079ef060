# SPDX-License-Identifier: Apache-2.0
"""Jobs: runs carried out beside the scheduler, each in a process of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from snapvault.model.policy import Policy, SourceSpec
from snapvault.model.runs import Run
from snapvault.model.settings import Settings


@dataclass(frozen=True, slots=True)
class Order:
    """What one job is to do: make `run` happen, with the policy as it was when it was ordered."""

    run: Run
    settings: Settings
    policy: Policy
    source: SourceSpec


class Jobs(Protocol):
    """Starts and follows jobs. Used by one thread; never raises for what a job does."""

    def start(self, order: Order) -> None:
        """Start a job. One that cannot even be started ends as failed with the next `ended`."""
        ...

    def ended(self) -> Sequence[Run]:
        """Return the runs that ended since the last call, as they ended; does not wait."""
        ...

    def running(self) -> Sequence[Order]:
        """Return the orders of the jobs at work, oldest first."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait until a job ends, `wake` is called, or this many seconds went by."""
        ...

    def wake(self) -> None:
        """End a `wait`; safe from other threads and from handlers of signals."""
        ...

    def stop(self, seconds: float) -> Sequence[Run]:
        """Ask all jobs to end, kill those that have not after so many seconds; return them all.

        Ended in order, a job has released its snapshots; the next run of its source resumes.
        """
        ...
