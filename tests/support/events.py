# SPDX-License-Identifier: Apache-2.0
"""An ear that remembers."""

from dataclasses import dataclass, field


class _Silence:
    def advance(self, amount: int) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(slots=True)
class RecordedEvents:
    """Events and warnings in the order in which they came."""

    events: list[tuple[str, dict[str, str | int | float | bool | None]]] = field(
        default_factory=list
    )
    warnings: list[str] = field(default_factory=list)

    def emit(self, event: str, /, **fields: str | int | float | bool | None) -> None:
        self.events.append((event, fields))

    def warn(self, event: str, message: str, /, **fields: str | int | float | bool | None) -> None:
        self.events.append((event, fields))
        self.warnings.append(message)

    def progress(self, label: str, *, total: int | None) -> _Silence:
        del label, total
        return _Silence()

    def names(self) -> list[str]:
        """The names of all events so far."""
        return [event for event, _ in self.events]
