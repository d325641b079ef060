# SPDX-License-Identifier: Apache-2.0
"""What a restore did, as it is told: in lines to people, as a document to programs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from snapvault import clock
from snapvault.cli import in_order
from snapvault.cli.session import Session
from snapvault.cli.words import local, point_document, size_in_full
from snapvault.units import format_duration

if TYPE_CHECKING:
    from snapvault.engine.vault import Held
    from snapvault.model.point import StreamRecord


@dataclass(slots=True)
class Restored:
    """Streams, and the target of each. The rest is what only some kinds of restores have to say.

    `part` is what of the streams came back, for a sentence, and `size` how much that is, if not all
    of each. `each` is what programs are told of each stream, `document` of all. `lines` are for
    people, after those that name every stream and its target.
    """

    streams: "tuple[StreamRecord, ...]"
    targets: Sequence[str]
    part: str = ""
    size: str | None = None
    each: Sequence[dict[str, Any]] = ()
    document: dict[str, Any] = field(default_factory=dict)
    lines: Sequence[str] = ()


def report(run: Session, vault: str, held: "Held", done: Restored, started: float) -> None:
    """Tell what was restored, and how long it took since `started`, by the monotonic clock."""
    seconds = clock.monotonic() - started
    rows = list(zip(done.streams, done.targets, strict=True))
    document = {
        **point_document(vault, held),
        "seconds": round(seconds, 3),
        "restored": [
            {
                "stream": stream.name,
                "target": target,
                "size_bytes": stream.size,
                "digest": stream.digest,
                **(done.each[number] if done.each else {}),
            }
            for number, (stream, target) in enumerate(rows)
        ],
        **done.document,
    }
    lines = [
        f'restored {done.part}stream "{stream.name}" of source "{held.point.source}" to '
        f"{_named(target)}: {done.size or size_in_full(stream.size)}, "
        f"content digest verified ({stream.digest})"
        for stream, target in rows
    ]
    lines += done.lines
    end = (
        f"restore point {held.point.point}, taken {local(held.point.taken_at)}, "
        f"restored in {format_duration(seconds)}"
    )
    if in_order.STDOUT in done.targets:
        for line in (*lines, end):
            run.console.note(line)
    else:
        run.report(document, [*lines, end])


def _named(target: str) -> str:
    return "stdout" if target == in_order.STDOUT else f'"{target}"'
