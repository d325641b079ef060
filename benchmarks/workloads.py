# SPDX-License-Identifier: Apache-2.0
"""What is backed up, night after night, by every program that is compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

Kind = Literal["image", "dump"]


class Workload(Protocol):
    """One file that differs from night to night, the same for each program.

    Made with all it needs (a folder of its own, sizes, a seed). The same arguments make the
    same bytes on the same machine.
    """

    @property
    def name(self) -> str:
        """What the tables call it; one word of letters, fit for a file name."""
        ...

    @property
    def kind(self) -> Kind:
        """Whether the file is a disk or the text of a database dump."""
        ...

    @property
    def nights(self) -> int:
        """How many nights follow the first backup; at least one."""
        ...

    def prepare(self, number: int) -> Path:
        """Make the file as it is in that night, and return where it is.

        Called once for each of 0 (the first backup) to `nights`, in order. Most workloads return
        the same path each night; another path means another source, whose first backup this
        is. The file lies still until the next call: all programs back it up in turn.

        Raises:
            BenchmarkError: a program that makes it is missing or failed.
        """
        ...

    def facts(self) -> Mapping[str, Any]:
        """Return plain values about what was made so far (rows, files, bytes), for the report."""
        ...

    def close(self) -> None:
        """End what still runs and remove what was made; safe to repeat."""
        ...
