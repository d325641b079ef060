# SPDX-License-Identifier: Apache-2.0
"""What engines tell while they work: events with fields, and progress."""

from typing import Protocol


class Progress(Protocol):
    """One long piece of work. Safe from several threads."""

    def advance(self, amount: int) -> None:
        """Add to what is done, in the unit of `Events.progress`'s total."""
        ...

    def close(self) -> None:
        """No more will come; safe to repeat."""
        ...


class Events(Protocol):
    """The ear of an engine. Safe from several threads; never raises."""

    def emit(self, event: str, /, **fields: str | int | float | bool | None) -> None:
        """Report that something happened: `volume.stored`, with its fields. No secrets."""
        ...

    def warn(self, event: str, message: str, /, **fields: str | int | float | bool | None) -> None:
        """Report what an operator should read: one line, and fields."""
        ...

    def progress(self, label: str, *, total: int | None) -> Progress:
        """Start a progress display in bytes; `total` is None when nobody knows it."""
        ...
