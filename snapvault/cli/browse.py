# SPDX-License-Identifier: Apache-2.0
"""What `files` and `mount` share: a restore point whose disks are looked into."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapvault.cli import disks, points
from snapvault.cli.session import Session
from snapvault.errors import RestoreError

if TYPE_CHECKING:
    from snapvault.engine.random_access import OpenPoint
    from snapvault.engine.vault import Held
    from snapvault.ports.browsing import Volume

_FOLDER = "browse-"


@dataclass(frozen=True, slots=True)
class Browsed:
    """A restore point, where it is kept, and what lies on its disks."""

    vault: str
    held: "Held"
    served: "OpenPoint"
    volumes: "Sequence[Volume]"


@contextmanager
def browsed(
    run: Session,
    point: str,
    *,
    vault: str | None,
    at: str | None,
    streams: Sequence[str],
    cache: str,
) -> Iterator[Browsed]:
    """Open a restore point, or a source's newest one, and find what lies on its disks.

    Raises:
        NoRestorePointError, RestoreError: there is no such point, or it has no such disk.
        KeyMissingError: no key here opens it.
    """
    from snapvault.adapters.own_folder import own_folder
    from snapvault.wiring import browsing, runs

    limit = disks.size_of(cache)
    name, held = disks.find(run, vault, point, points.moment_of(at))
    chosen = disks.disks_of(held, streams)
    with ExitStack() as stack:
        opened = stack.enter_context(run.open(name))
        counting = runs.counting_requests(run.settings, opened, run.console, verb="browse")
        stack.enter_context(counting)
        run.console.subject = held.point.source
        folder = stack.enter_context(own_folder(run.settings.state_dir, _FOLDER))
        served = stack.enter_context(disks.open_disks(opened, held, chosen, folder, limit))
        disks.prove(opened, served)
        volumes = browsing.volumes_of(
            {disk.name: disk for disk in served.disks}, unreadable=lambda error: _told(run, error)
        )
        yield Browsed(name, held, served, volumes)


def _told(run: Session, error: RestoreError) -> None:
    run.console.warning(str(error))
