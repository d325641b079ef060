# SPDX-License-Identifier: Apache-2.0
"""`snapvault show`: one restore point in full."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapvault import clock
from snapvault.cli import points
from snapvault.cli.list import VaultOption
from snapvault.cli.session import session
from snapvault.cli.words import CONSISTENCY, local, point_document, size_in_full, table
from snapvault.errors import SnapVaultError
from snapvault.units import format_count, format_duration, format_size

if TYPE_CHECKING:
    from snapvault.engine.vault import Held


def command(
    context: typer.Context,
    point: Annotated[
        str,
        typer.Argument(
            metavar="POINT", help='Its id, or the beginning of it, as "snapvault list" shows it.'
        ),
    ],
    vault: VaultOption = None,
) -> None:
    """Show a restore point: streams, sizes, objects, consistency, parent, counters, signer.

    Everything shown comes from the point's signed manifest.

    Examples:
      snapvault show 3f2a
      snapvault show 3f2a9c0d1e4b5a67 --json
    """
    from snapvault.model import selection

    run = session(context)
    found: list[tuple[str, Held]] = []
    failed: list[SnapVaultError] = []
    for name in run.vault_names(vault):
        try:
            inventory = points.inventory_of(run, name)
        except SnapVaultError as error:
            failed.append(error)
            run.console.warning(f'cannot look into vault "{name}": {error}')
            continue
        points.warn_of_problems(run, inventory)
        found += [(name, held) for held in inventory.held if not held.missing]
    if failed and not found:
        raise failed[0]
    chosen = selection.by_id([held.point for _, held in found], point.lower())
    name, held = next(each for each in found if each[1].point is chosen)
    run.report(_document(name, held), _lines(name, held))


def _document(vault: str, held: "Held") -> dict[str, Any]:
    point = held.point
    return {
        **point_document(vault, held),
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


def _lines(vault: str, held: "Held") -> list[str]:
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
        f"  stored         {size_in_full(held.stored_bytes)}",
        f"  new volumes    {counters.get('new_volumes', 0):,}",
        f"  made by        {point.tool} on host {point.host}",
        f"  signed by      {held.signer}",
        "",
        *streams,
        *_facts(held),
        "",
        *objects,
    ]


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
