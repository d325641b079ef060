# SPDX-License-Identifier: Apache-2.0
"""A clock for the real program that a test moves while it runs, and while it is down."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path


@dataclass(slots=True)
class MovedClock:
    """The real time and an offset that the test changes; the program sees it at once.

    Only what SnapVault takes for the time of day is moved: waiting takes as long as ever, and
    other programs know nothing of it.
    """

    file: Path
    offset: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        self._write()

    @property
    def environment(self) -> dict[str, str]:
        """What the program needs to see the moved time; its own processes inherit it."""
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        return {"SNAPVAULT_TEST_CLOCK": str(self.file), "PYTHONPATH": path.rstrip(os.pathsep)}

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def move_to(self, moment: datetime) -> None:
        self.offset = moment - datetime.now(UTC)
        self._write()

    def move(self, by: timedelta) -> None:
        self.offset += by
        self._write()

    def _write(self) -> None:
        # Replaced as a whole: a program could read half of it.
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{self.offset.total_seconds():.3f}")
        fresh.replace(self.file)
