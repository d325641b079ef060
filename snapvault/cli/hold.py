# SPDX-License-Identifier: Apache-2.0
"""`snapvault hold`: keep a restore point whatever the rules say."""

import os
from typing import Annotated

import typer

from snapvault.cli import points
from snapvault.cli.list import VaultOption
from snapvault.cli.session import session
from snapvault.cli.words import local, point_document
from snapvault.units import format_count

_LONGEST_REASON = 500


def command(
    context: typer.Context,
    point: points.PointArgument,
    reason: Annotated[
        str,
        typer.Option("--reason", metavar="TEXT", help="Why, for whoever asks later."),
    ] = "",
    release: Annotated[
        bool, typer.Option("--release", help="Let it go: the rules decide on it again.")
    ] = False,
    vault: VaultOption = None,
) -> None:
    """Hold a restore point: it does not expire until it is let go, whatever the rules say.

    The hold is a signed note in the vault, so all hosts that share the vault see it, and "snapvault
    list" and "snapvault show" show it. A point may be held several times; --release ends all of
    its holds. The reason is readable for whoever can read the vault's objects.

    Examples:
      snapvault hold 3f2a --reason "state of the books, audit 2026"
      snapvault hold 3f2a --release
    """
    from snapvault.engine import holding

    run = session(context)
    if release and reason:
        raise typer.BadParameter("a reason is for a hold, not for its end", param_hint="--reason")
    if len(reason) > _LONGEST_REASON or not reason.isprintable():
        raise typer.BadParameter(
            f"expected one line of at most {_LONGEST_REASON} characters", param_hint="--reason"
        )
    name, held = points.find_point(run, vault, point)
    host = os.uname().nodename or "unknown"
    told = f'restore point {held.point.point} of source "{held.point.source}"'
    with run.open(name) as opened:
        if release:
            over = holding.release(opened, held, host=host)
            line = f"let {told} go: {format_count(len(over), 'hold')} ended"
        else:
            holding.hold(opened, held, reason=reason, host=host)
            line = f"held {told}, taken {local(held.point.taken_at)}"
        holds = holding.holds_of(opened).get(held.point.point, ())
    run.report(point_document(name, held, holds), [line])
