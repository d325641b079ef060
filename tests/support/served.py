# SPDX-License-Identifier: Apache-2.0
"""Restore points opened for reading at random."""

from collections.abc import Iterator
from contextlib import contextmanager

from snapvault.engine.contents import look_up
from snapvault.engine.random_access import OpenPoint, open_point
from snapvault.model.point import Point
from snapvault.ports.store import Store
from tests.support.qemu import until
from tests.support.vaults import VaultKit

PLENTY = 1 << 30  # bytes


@contextmanager
def opened(
    kit: VaultKit,
    point: Point,
    store: Store | None = None,
    *,
    limit: int = PLENTY,
    outlived: bool = False,
) -> Iterator[OpenPoint]:
    """Open a point's disks as a machine with the recovery key does; see that nothing is left.

    `outlived` is for a fetching that hangs, and so keeps its room until it ends.
    """
    vault = kit.recovery(store)
    folder = kit.folder / "served"
    folder.mkdir(exist_ok=True)
    disks = tuple(stream for stream in point.streams if stream.kind == "disk")
    with open_point(vault, look_up(vault, point, disks), folder=folder, limit=limit) as found:
        yield found
    assert list(folder.iterdir()) == []
    # Closing waits only for a moment for what is being fetched, which gives its room back later.
    for _ in until():
        if outlived or found.cache.taken_bytes == 0:
            break
