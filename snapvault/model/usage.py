# SPDX-License-Identifier: Apache-2.0
"""What is asked of a store, counted the way stores bill it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, Self

LIST_PAGE: Final = 1000
"""Names that one LIST request gives, and objects that one DELETE request takes, at the most."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Requests by class, and bytes of objects moved; can be added and subtracted.

    `puts` are PUT, COPY, POST and LIST requests, `gets` GET and HEAD, `deletes` DELETE requests of
    up to `LIST_PAGE` objects. Of these, `volume_puts`, `volume_gets` and `volume_down` are of
    volumes, which can be of another storage class than the rest.
    """

    puts: int = 0
    gets: int = 0
    deletes: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    volume_puts: int = 0
    volume_gets: int = 0
    volume_down: int = 0

    @property
    def requests(self) -> int:
        """Requests of all classes."""
        return self.puts + self.gets + self.deletes

    def __add__(self, other: "Usage") -> "Usage":
        """Return the sum."""
        return Usage(*(getattr(self, name) + getattr(other, name) for name in FIELDS))

    def __sub__(self, other: "Usage") -> "Usage":
        """Return what came to another one that was before."""
        return Usage(*(getattr(self, name) - getattr(other, name) for name in FIELDS))

    def counters(self) -> dict[str, int]:
        """Return it as the counters of a run."""
        counted = {counter: getattr(self, name) for name, counter in _COUNTERS.items()}
        return {"requests": self.requests, **counted}

    @classmethod
    def of_counters(cls, counters: Mapping[str, int]) -> Self:
        """Return what the counters of a run say; of older runs they say less."""
        return cls(**{name: counters.get(counter, 0) for name, counter in _COUNTERS.items()})


FIELDS: Final = tuple(field.name for field in fields(Usage))
"""What is counted, by name."""

_COUNTERS: Final[Mapping[str, str]] = {
    "puts": "put_requests",
    "gets": "get_requests",
    "deletes": "delete_requests",
    "bytes_up": "uploaded_bytes",
    "bytes_down": "downloaded_bytes",
    "volume_puts": "volume_put_requests",
    "volume_gets": "volume_get_requests",
    "volume_down": "volume_downloaded_bytes",
}
NOTHING: Final = Usage()
