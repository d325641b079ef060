# SPDX-License-Identifier: Apache-2.0
"""Writing into several volumes at a time, so that what dies together lies together."""

from collections.abc import Callable

from snapvault import clock
from snapvault.engine.volumes import Piece, VolumeWriter
from snapvault.formats.volume_list import VolumeRecord
from snapvault.model.rewriting import Lifetime


class SortedVolumes:
    """Volume writers, one for each lifetime that comes up. Used from one thread.

    `new_writer` makes one; it is told of which lifetime.
    """

    def __init__(self, new_writer: Callable[[Lifetime], VolumeWriter]) -> None:
        self._new_writer = new_writer
        self._writers: dict[Lifetime, VolumeWriter] = {}

    def append(
        self,
        data: memoryview,
        *,
        unit: int,
        on_piece: Callable[[Piece], None],
        lifetime: Lifetime = Lifetime.LONG,
    ) -> None:
        """Add bytes to a volume of that lifetime; otherwise as `VolumeWriter.append`."""
        writer = self._writers.get(lifetime)
        if writer is None:
            writer = self._writers[lifetime] = self._new_writer(lifetime)
        writer.append(data, unit=unit, on_piece=on_piece)

    def align(self, size: int, *, lifetime: Lifetime) -> None:
        """Let what is appended next lie at a multiple of `size` in its volume."""
        self._writers[lifetime].align(size)

    def finish(self) -> list[VolumeRecord]:
        """Complete all volumes, wait until they are stored, and return them.

        After a failure it is `abort` that ends the rest.
        """
        return [record for writer in self._writers.values() for record in writer.finish()]

    def abort(self, patience: float | None = None) -> None:
        """End everything without completing the open volumes, as `VolumeWriter.abort` does."""
        deadline = None if patience is None else clock.monotonic() + patience
        for writer in self._writers.values():
            writer.abort(None if deadline is None else max(0.0, deadline - clock.monotonic()))
