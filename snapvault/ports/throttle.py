# SPDX-License-Identifier: Apache-2.0
"""How fast bytes may pass."""

from typing import Protocol


class GivenUp(BaseException):
    """The process is asked to end, and what was waited for is dropped.

    No handler of errors takes it for one, and nothing is tried again because of it.
    """


class Throttle(Protocol):
    """A place that bytes pass at a limited rate. Safe from several threads."""

    def take(self, wanted: int) -> int:
        """Wait until bytes may pass, and return how many: as many as wanted, or fewer, never none.

        `wanted` is at least 1. What was taken counts as passed.

        Raises:
            GivenUp: the process is asked to end.
        """
        ...
