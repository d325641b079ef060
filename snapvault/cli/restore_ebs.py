# SPDX-License-Identifier: Apache-2.0
"""Restoring disks to new EBS snapshots, and volumes of them."""

from typing import TYPE_CHECKING, Any

import typer

from snapvault.cli import restore_machine
from snapvault.cli.restored import Restored
from snapvault.cli.session import Session
from snapvault.cli.words import local
from snapvault.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from snapvault.adapters.targets.ebs import Made
    from snapvault.adapters.targets.ebs_service import EbsPlace
    from snapvault.engine.vault import Held, Vault
    from snapvault.model.point import StreamRecord

_PREFIX = "ebs:"


def place_of(to: str, paths: "Sequence[str] | None") -> "EbsPlace | None":
    """Return the place that an address names; None if it is none, but a path."""
    if not to.startswith(_PREFIX):
        return None
    from snapvault.wiring import restoring

    if paths:
        raise typer.BadParameter("paths are restored into a folder, not to EBS", param_hint="--to")
    try:
        return restoring.ebs_place(to)
    except ConfigError as error:
        text = f"{error}. {error.hint}" if error.hint else str(error)
        raise typer.BadParameter(text, param_hint="--to") from error


def restore(
    run: Session,
    vault: "Vault",
    held: "Held",
    streams: "tuple[StreamRecord, ...]",
    place: "EbsPlace",
    *,
    named: bool,
) -> Restored:
    """Restore disks, each to a snapshot.

    Raises:
        RestoreError: a stream is no disk, or AWS refused.
    """
    from snapvault.engine.contents import look_up
    from snapvault.engine.restore import restore as restore_all
    from snapvault.wiring import restoring

    streams = restore_machine.disks(run, held, streams, named=named)
    restore_machine.require_disks(held, streams, become="an EBS snapshot")
    with restoring.ebs_restore(place) as ebs:
        run.console.note(
            f'restoring source "{held.point.source}" from restore point {held.point.point}, '
            f"taken {local(held.point.taken_at)}, to EBS in region {place.region}"
        )
        contents = look_up(vault, held.point, streams)
        targets: list[Any] = []
        try:
            for stream in streams:
                target = ebs.target(
                    stream.size,
                    description=_description(held, stream),
                    tags=_tags(held, stream),
                    spool=vault.state / "spool",
                )
                targets.append(target)
                if target.made.encrypted:
                    run.console.note(
                        f'EBS snapshot "{target.made.snapshot}" is encrypted, so that every block '
                        f"of its {target.made.size_gib} GiB is written, zeros too"
                    )
            restore_all(vault, contents, targets)
        except BaseException:
            for target in targets:
                target.abort()
                _say_what_is_left(run, target)
            raise
    made = [target.made for target in targets]
    return Restored(
        streams,
        [each.snapshot for each in made],
        each=[_document(each) for each in made],
        lines=_lines(made),
    )


def _lines(made: "Sequence[Made]") -> list[str]:
    """Name what was made, for people."""
    found = []
    for each in made:
        how = "encrypted, " if each.encrypted else ""
        found.append(
            f'EBS snapshot "{each.snapshot}" in region "{each.region}": {how}{each.size_gib} GiB'
        )
        if each.volume is not None:
            found.append(f'volume "{each.volume}" of it in zone "{each.zone}"')
    return found


def _document(made: "Made") -> dict[str, Any]:
    """Name what was made, for programs."""
    return {
        "snapshot": made.snapshot,
        "region": made.region,
        "size_gib": made.size_gib,
        "encrypted": made.encrypted,
        "volume": made.volume,
        "zone": made.zone,
    }


def _description(held: "Held", stream: "StreamRecord") -> str:
    return (
        f"SnapVault: stream {stream.name} of {held.point.source}, "
        f"taken {held.point.taken_at:%Y-%m-%d %H:%M:%S} UTC"
    )


def _tags(held: "Held", stream: "StreamRecord") -> dict[str, str]:
    # Not those of the EBS source: what it finds under its own tags, it may remove.
    return {
        "Name": f"{held.point.source}-{stream.name}",
        "snapvault:restored-source": held.point.source,
        "snapvault:restored-point": held.point.point,
        "snapvault:restored-stream": stream.name,
    }


def _say_what_is_left(run: Session, target: Any) -> None:
    snapshot, region = target.made.snapshot, target.made.region
    if target.left_behind is not None:
        run.console.warn("ebs.left_behind", target.left_behind, snapshot=snapshot, region=region)
    elif target.kept:
        run.console.warn(
            "ebs.kept",
            f'EBS snapshot "{snapshot}" in region "{region}" stays',
            snapshot=snapshot,
            region=region,
        )
