# SPDX-License-Identifier: Apache-2.0
"""Memory does not grow with the size of a disk."""

import tracemalloc
from pathlib import Path

import pytest

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
