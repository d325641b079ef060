# SPDX-License-Identifier: Apache-2.0
"""Memory does not grow with the size of a disk."""

import tracemalloc
from pathlib import Path

import pytest

from snapvault.engine.rolling import _Rows
from snapvault.model.extents import FIRST_VOLUME, PARENT
from tests.support.vaults import MixedSource, SparseContent, VaultKit

GIB = 1 << 30


def peak_of_a_night(folder: Path, size: int) -> int:
    """Return the most bytes that Python and numpy hold while a disk is read twice."""
    kit = VaultKit(folder, block_size=16 << 10)
    disk = SparseContent(size)
    for number in range(20):
        disk.write(size // 20 * number, b"data" * 9000)
    source = MixedSource(disks={"root": disk})
    kit.night(source)
    tracemalloc.start()
    try:
        kit.night(source)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [100 * GIB + 7])
def test_scanning_a_large_disk_takes_no_more_memory_than_a_small_one(
    tmp_path: Path, size: int
) -> None:
    small = peak_of_a_night(tmp_path / "small", 2 * GIB)

    large = peak_of_a_night(tmp_path / "large", size)

    assert large < small + (4 << 20)


def test_the_map_of_a_stream_takes_memory_for_its_extents_and_not_for_its_pieces() -> None:
    extents, pieces = 5000, 10
    rows = _Rows()
    tracemalloc.start()
    try:
        for number in range(extents):
            for piece in range(pieces):
                rows.add(100, FIRST_VOLUME, number * 1000 + piece * 100)
            rows.add(50, PARENT, number)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    found = rows.to_map(("5a" * 16,))
    assert len(found) == 2 * extents
    assert found.size == extents * (pieces * 100 + 50)
    assert found.live_bytes() == {"5a" * 16: extents * pieces * 100}
    assert peak < 2 * extents * 20 * 1.5
