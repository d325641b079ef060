# SPDX-License-Identifier: Apache-2.0
"""Memory does not grow with the size of a disk."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from snapvault.engine import sequence
from snapvault.engine.extract import Plan
from snapvault.engine.journal import PendingBlocks
from snapvault.engine.rolling import _Rows
from snapvault.formats.signatures import no_hashes
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


def test_looking_for_a_pending_block_costs_the_same_however_many_there_are() -> None:
    count = 1 << 20
    blocks = np.arange(count, dtype=np.uint64)
    pending = PendingBlocks(blocks, no_hashes(count), ("5a" * 16,) * count, blocks)
    wanted = np.ones(4, dtype=bool)
    tracemalloc.start()
    try:
        found = list(pending.find(500_000, no_hashes(4), wanted))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert [position for _, _, position in found] == [500_000, 500_001, 500_002, 500_003]
    assert peak < 1 << 20


def test_finding_the_turn_of_a_piece_costs_the_same_however_many_there_are(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)
    held = kit.night(MixedSource(streams={"dump": b"data"}))
    count = 1 << 20
    offset = np.arange(count, dtype=np.uint64)
    ones, number = np.ones(count, dtype=np.uint32), np.zeros(count, dtype=np.uint32)
    work = Plan((), np.array([0, count]), offset, ones, number, offset)
    order = sequence.Order(work, np.zeros(count, dtype=bool), offset, 0)
    written = bytearray()
    out = sequence._Out(
        kit.contents(held.point), order, sequence._Spool(tmp_path, 0), written.extend
    )
    tracemalloc.start()
    try:
        out.deliver(0, [(0, 1), (1, 1)], memoryview(b"ab"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert written == b"ab"
    assert peak < 1 << 20
