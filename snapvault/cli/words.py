# SPDX-License-Identifier: Apache-2.0
"""How times, tables and restore points are written for people and for programs."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from snapvault import clock
from snapvault.cli.console import one_line
from snapvault.model.usage import Usage
from snapvault.units import format_size

if TYPE_CHECKING:
    from snapvault.engine.vault import Held
    from snapvault.model.notes import Hold

CONSISTENCY = {
    "none": "may have changed while it was read",
    "crash": "crash-consistent",
    "file-system": "file systems frozen",
    "application": "application-consistent",
}


def about(named: str, text: str) -> str:
    """Put what a text is about before it, unless the text says so itself."""
    return text if named in text else f"{named}: {text}"


def local(moment: datetime) -> str:
    """Write a time in this person's zone, to the second: `2026-11-20 03:00:10 CET`."""
    from snapvault.config.zones import local_zone

    return f"{clock.in_zone(moment, local_zone()):%Y-%m-%d %H:%M:%S %Z}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: str = "") -> list[str]:
    """Return a table's lines; `right` names the columns, by header, that are aligned right."""
    cells = [list(header), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    aligned_right = [name in right.split() for name in header]
    return [
        "  ".join(
            cell.rjust(width) if on_right else cell.ljust(width)
            for cell, width, on_right in zip(row, widths, aligned_right, strict=True)
        ).rstrip()
        for row in cells
    ]


def point_document(vault: str, held: "Held", holds: "Iterable[Hold]" = ()) -> dict[str, Any]:
    """Return a restore point as programs read it; the keys are the same everywhere."""
    point = held.point
    return {
        "id": point.point,
        "source": point.source,
        "vault": vault,
        "taken_at": clock.to_text(point.taken_at),
        "size_bytes": point.size,
        "stored_bytes": held.stored_bytes,
        "consistency": point.consistency,
        "streams": [
            {"name": stream.name, "kind": stream.kind, "size_bytes": stream.size}
            for stream in point.streams
        ],
        "held": [each.reason for each in holds],
    }


def told_holds(holds: "Iterable[Hold]") -> str:
    """Say whether a point is held, and why: nothing, `held`, or the reasons."""
    found = list(holds)
    reasons = "; ".join(dict.fromkeys(each.reason for each in found if each.reason))
    return reasons or ("held" if found else "")


def told_usage(usage: Usage) -> str:
    """Say what was asked of a store: `7 PUT and LIST, 3 GET, 1 DELETE; 1.0 MiB sent, ...`."""
    deletes = f", {usage.deletes:,} DELETE" if usage.deletes else ""
    return (
        f"{usage.puts:,} PUT and LIST, {usage.gets:,} GET{deletes}; "
        f"{format_size(usage.bytes_up)} sent, {format_size(usage.bytes_down)} fetched"
    )


def size_in_full(size: int) -> str:
    """Write a size for people, and its exact bytes: `1.0 GiB (1,073,741,824 bytes)`."""
    return f"{format_size(size)} ({size:,} bytes)" if size >= 1024 else f"{size} bytes"
