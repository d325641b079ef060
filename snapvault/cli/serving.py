# SPDX-License-Identifier: Apache-2.0
"""What `serve` and `run` share: disks of a restore point, served over NBD."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from snapvault.cli import disks, serve_places
from snapvault.cli.serve_places import Place
from snapvault.cli.session import Session

if TYPE_CHECKING:
    from snapvault.engine.random_access import OpenPoint
    from snapvault.engine.vault import Held
    from snapvault.model.point import StreamRecord


def serve(
    stack: ExitStack,
    run: Session,
    vault: str,
    held: "Held",
    streams: "Sequence[StreamRecord]",
    *,
    folder: Path,
    limit: int,
    place: Place,
) -> "tuple[OpenPoint, Place]":
    """Serve disks at a place, from a cache in `folder`, until the stack is left.

    Returns where they are served. Whatever enters the stack later ends before its disks do.

    Raises:
        KeyMissingError: no key here opens them.
    """
    from snapvault.adapters.nbd_server import NbdServer
    from snapvault.wiring import runs

    opened = stack.enter_context(run.open(vault))
    counting = runs.counting_requests(run.settings, opened, run.console, verb="browse")
    stack.enter_context(counting)
    served = stack.enter_context(disks.open_disks(opened, held, tuple(streams), folder, limit))
    disks.prove(opened, served)
    listener, place = serve_places.listen(stack, place, folder)
    server = stack.enter_context(NbdServer(listener, served.disks, run.console))
    # ORDER: clients first, then what they wait for: none is told of an error that is none.
    stack.callback(served.cache.close)
    stack.callback(server.hang_up)
    stack.callback(disks.say_what_was_fetched, run, served)
    return served, place
