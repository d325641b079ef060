# SPDX-License-Identifier: Apache-2.0
"""Notifiers: tell people and programs outside."""

from typing import Protocol

from snapvault.model.notices import Notice


class Notifier(Protocol):
    """Tells one addressee. Used by one thread at a time."""

    @property
    def name(self) -> str:
        """The name in the settings."""
        ...

    def wants(self, notice: Notice) -> bool:
        """Tell whether this addressee hears of it."""
        ...

    def tell(self, notice: Notice) -> None:
        """Deliver a notice within the time limit of the settings, whatever the other side does.

        Raises:
            NotifyError: it was not delivered; retryable if trying again can help. The message
                holds no secret, neither password nor URL.
        """
        ...
