# SPDX-License-Identifier: Apache-2.0
"""One line of the table of targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.options import MIB

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """What must be reached, and what was. `met` is None where nothing is required."""

    name: str
    target: str
    measured: str
    met: bool | None


def limit(
    name: str,
    limit: float | None,
    values: Sequence[float],
    *,
    digits: int = 2,
    worst: bool = False,
    unit: str = "",
) -> Figure:
    """Judge the median of several runs, or the worst of them; without a limit, tell it alone."""
    value = max(values) if worst else median(values)
    several = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return Figure(
        name,
        "" if limit is None else f"≤ {limit:.{digits}f}{unit}",
        f"{value:.{digits}f}{unit}{several}",
        met=None if limit is None else value <= limit,
    )


def mib(size: float) -> str:
    """Return a size in MiB, as text."""
    return f"{size / MIB:.1f} MiB" if size < 10 * MIB else f"{size / MIB:.0f} MiB"
