# SPDX-License-Identifier: Apache-2.0
"""`snapvault show`: one restore point in full."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from snapvault import clock
from snapvault.cli import points
from snapvault.cli.console import one_line
from snapvault.cli.list import VaultOption
from snapvault.cli.session import Session, session
from snapvault.cli.status_document import run_document
from snapvault.cli.words import (
    CONSISTENCY,
    local,
    point_document,
    size_in_full,
    table,
    told_usage,
)
from snapvault.errors import ConfigError, SnapVaultError
from snapvault.model.usage import NOTHING, Usage
from snapvault.units import format_count, format_duration, format_size

if TYPE_CHECKING:
    from snapvault.engine.vault import Held
    from snapvault.model.notes import Hold
    from snapvault.model.runs import Run

_NAMED: Final = ("at", "level", "event", "message")


def command(
    context: typer.Context,
    point: points.PointArgument,
    vault: VaultOption = None,
    log: Annotated[
        bool, typer.Option("--log", help="Print the log of the run that made it instead.")
    ] = False,
) -> None:
    """Show a restore point: streams, sizes, objects, consistency, parent, counters, signer.

    Everything shown comes from the point's signed manifest, except who holds it, which signed
    notes in the vault say, and the run that made it: that is what this host remembers, and only
    if it was made here.

    Examples:
      snapvault show web01
      snapvault show 3f2a
      snapvault show 3f2a --log
      snapvault show 3f2a9c0d1e4b5a67 --json
    """
    from snapvault.engine.holding import holds_of
    from snapvault.wiring import history

    run = session(context)
    name, held = points.find_point(run, vault, point)
    made_by = _run_of(run, held)
    logs = history.run_logs(run.settings)
    path = logs.path(made_by.id) if made_by is not None else None
    if log:
        if made_by is None or path is None:
            raise ConfigError(
                f"there is no log of the run that made restore point {held.point.point}",
                hint=f'It was made on host "{held.point.host}"; logs are kept there for a while.',
            )
        events = logs.read(made_by.id)
        run.report(list(events), [_logged(event) for event in events])
        return
    with run.open(name) as opened:
        holds = holds_of(opened).get(held.point.point, ())
    document = _document(name, held, holds)
    document["run"] = made_by and {**run_document(made_by), "log": path}
    run.report(document, _lines(name, held, [*_hold_lines(holds), *_run_lines(made_by, path)]))


def _run_of(run: Session, held: "Held") -> "Run | None":
    from snapvault.wiring import history

    try:
        return history.run_of(run.settings, held.point.point)
    except SnapVaultError as error:
        run.console.warning(str(error))
        return None


def _hold_lines(holds: "Sequence[Hold]") -> list[str]:
    return [
        f"  held           since {local(each.at)}, on host {each.host}"
        + (f": {each.reason}" if each.reason else "")
        for each in holds
    ]


def _run_lines(run: "Run | None", log: str | None) -> list[str]:
    """Return what this host remembers of the run that made a point."""
    if run is None:
        return []
    took = f", took {format_duration(run.seconds)}" if run.seconds is not None else ""
    lines = [f"  run            {run.id} of policy {run.policy} ({run.trigger}){took}"]
    usage = Usage.of_counters(run.counters)
    if usage != NOTHING:
        lines.append(f"  asked          {told_usage(usage)}")
    if log is not None:
        lines.append(f"  log            {log}")
    return lines


def _logged(event: Mapping[str, object]) -> str:
    """Write one event of a log as a line for people."""
    from snapvault.adapters.event_log import logfmt

    fields = {name: value for name, value in event.items() if name not in _NAMED}
    known = {
        name: value if isinstance(value, str | int | float | None) else str(value)
        for name, value in fields.items()
    }
    try:
        at = local(clock.from_text(str(event.get("at"))))
    except ValueError:
        at = "?"
    parts = [at, str(event.get("level", "info")), str(event.get("event", "?"))]
    if event.get("message") is not None:
        parts.append(str(event["message"]))
    if known:
        parts.append(logfmt(known))
    return one_line("  ".join(parts))


def _document(vault: str, held: "Held", holds: "Sequence[Hold]") -> dict[str, Any]:
    point = held.point
    return {
        **point_document(vault, held, holds),
        "vault_id": point.vault,
        "sequence": point.sequence,
        "finished_at": clock.to_text(point.finished_at),
        "parent": point.parent.point if point.parent else None,
        "host": point.host,
        "tool": point.tool,
        "signer": held.signer,
        "manifest": _object(held.manifest.name, held.manifest.size, held.manifest.sha256),
        "streams": [
            {
                "name": stream.name,
                "kind": stream.kind,
                "size_bytes": stream.size,
                "engine": stream.engine,
                "block_size_bytes": stream.block_size,
                "digest": stream.digest,
                "mark": stream.mark,
                "facts": dict(stream.facts),
            }
            for stream in point.streams
        ],
        "objects": [
            _object(each.name, each.size, each.sha256) for each in (*point.objects, point.hash_key)
        ],
        "volume_lists": [_object(each.name, each.size, each.sha256) for each in point.lists],
        "counters": dict(point.counters),
    }


def _object(name: str, size: int, sha256: str) -> dict[str, Any]:
    return {"name": name, "size_bytes": size, "sha256": sha256}


def _lines(vault: str, held: "Held", made_by: Sequence[str]) -> list[str]:
    point, counters = held.point, held.point.counters
    took = (point.finished_at - point.taken_at).total_seconds()
    streams = table(
        ["STREAM", "KIND", "SIZE", "ENGINE", "CONTENT DIGEST"],
        [
            [each.name, each.kind, format_size(each.size), each.engine, each.digest]
            for each in point.streams
        ],
        right="SIZE",
    )
    objects = table(
        ["OBJECT", "SIZE", "SHA-256"],
        [
            [each.name, format_size(each.size), each.sha256]
            for each in (held.manifest, *point.objects, point.hash_key, *point.lists)
        ],
        right="SIZE",
    )
    parent = f"restore point {point.parent.point}" if point.parent else "none: it is the first"
    return [
        f'restore point {point.point} of source "{point.source}" in vault "{vault}"',
        f"  taken          {local(point.taken_at)}",
        f"  finished       {local(point.finished_at)}, {format_duration(max(0.0, took))} later",
        f"  number         {point.sequence} of this source",
        f"  parent         {parent}",
        f"  consistency    {CONSISTENCY.get(point.consistency, point.consistency)}",
        f"  size           {size_in_full(point.size)}",
        f"  read           {size_in_full(counters.get('read_bytes', 0))}",
        *_sampled(counters),
        f"  changed        {size_in_full(counters.get('changed_bytes', 0))}",
        *_shared(counters),
        *_rewritten(counters),
        f"  stored         {size_in_full(held.stored_bytes)}",
        f"  new volumes    {counters.get('new_volumes', 0):,}",
        f"  made by        {point.tool} on host {point.host}",
        f"  signed by      {held.signer}",
        *made_by,
        "",
        *streams,
        *_facts(held),
        "",
        *objects,
    ]


def _shared(counters: Mapping[str, int]) -> list[str]:
    """Return what of the changes other disks had stored already, if anything."""
    shared = counters.get("deduplicated_bytes", 0)
    return [f"  deduplicated   {size_in_full(shared)} were there already"] if shared else []


def _rewritten(counters: Mapping[str, int]) -> list[str]:
    """Return what did not change and was stored again, so that old volumes can go."""
    rewritten = counters.get("rewritten_bytes", 0)
    return [f"  stored again   {size_in_full(rewritten)}"] if rewritten else []


def _sampled(counters: Mapping[str, int]) -> list[str]:
    """Return what was read to check what the platform told, if anything was."""
    sampled, wrong = counters.get("sampled_bytes", 0), counters.get("hint_mismatches", 0)
    lines = []
    if sampled:
        lines.append(f"  sampled        {size_in_full(sampled)} of what did not change")
    if wrong:
        about = format_count(wrong, "disk was", "disks were")
        lines.append(f"  false hints    {about} read as a whole: the platform was wrong")
    return lines


def _facts(held: "Held") -> list[str]:
    """Return what the source told of its streams, if anything."""
    rows = [
        [stream.name, name, told]
        for stream in held.point.streams
        for name, told in (
            *([("mark", stream.mark)] if stream.mark is not None else []),
            *stream.facts.items(),
        )
    ]
    return ["", *table(["STREAM", "FACT", "VALUE"], rows)] if rows else []
