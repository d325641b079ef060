# SPDX-License-Identifier: Apache-2.0
"""Hashing blocks in place, and what a scan makes of a disk."""

import random
from itertools import pairwise
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from snapvault.engine.blocks import block_hashes
from snapvault.errors import SourceError
from snapvault.formats.signatures import hashes_from, is_nonzero
from snapvault.model.extents import ZERO
from tests.support.sources import MemoryDiskSource
from tests.support.vaults import MixedSource, SparseContent, VaultKit

KEY = bytes(range(32))
BLOCK = 512
REGION = BLOCK << 16


def zeros_and_more(size: int) -> st.SearchStrategy[bytes]:
    part = st.one_of(st.integers(0, 1500).map(bytes), st.binary(max_size=900))
    return st.lists(part, max_size=6).map(lambda parts: b"".join(parts)[:size])


@given(zeros_and_more(6000))
def test_a_block_has_the_hash_of_its_bytes_and_zeros_have_that_of_zeros(data: bytes) -> None:
    hashes = hashes_from(block_hashes(memoryview(data), KEY, BLOCK))

    blocks = [data[start : start + BLOCK] for start in range(0, len(data), BLOCK)]
    expected = [blake3(block, key=KEY).digest(16) if any(block) else bytes(16) for block in blocks]
    assert hashes.tobytes() == b"".join(expected)


@pytest.mark.parametrize("tail", [1, 511])
def test_a_tail_of_zeros_is_zeros(tail: int) -> None:
    hashes = hashes_from(block_hashes(memoryview(b"x" * BLOCK + bytes(tail)), KEY, BLOCK))

    assert is_nonzero(hashes).tolist() == [True, False]


def test_the_content_digest_is_that_of_all_block_hashes(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)
    data = random.Random(1).randbytes(5000) + bytes(9000) + b"end"
    held = kit.night(MixedSource(disks={"root": data}))
    key = kit.contents(held.point).hash_key

    hashes = hashes_from(block_hashes(memoryview(data), key, BLOCK))

    assert held.point.streams[0].digest == blake3(hashes.tobytes()).hexdigest()


def test_blocks_of_zeros_that_are_no_holes_are_not_stored(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)
    data = b"x" * 4096 + bytes(3000) + b"y" + bytes(5000)
    source = MemoryDiskSource("web01", {"root": data})

    held = kit.night(source)

    (extents,) = kit.contents(held.point).maps
    assert held.point.counters["changed_bytes"] == 4096 + BLOCK
    assert int(extents.length[extents.place == ZERO].sum()) == len(data) - 4096 - BLOCK
    assert kit.restored(held.point) == {"root": data}


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_disks_of_any_size_come_back(tmp_path: Path, size: int) -> None:
    kit = VaultKit(tmp_path)
    data = random.Random(size).randbytes(size)

    held = kit.night(MixedSource(disks={"root": data}))

    assert kit.restored(held.point) == {"root": data}
    assert kit.streamed(held.point) == {"root": data}


@pytest.mark.parametrize("grown", [1, 100, 412, 413, 1000])
def test_a_disk_that_grew_in_its_last_block_stores_that_block_anew(
    tmp_path: Path, grown: int
) -> None:
    kit = VaultKit(tmp_path)
    data = random.Random(1).randbytes(2000 * BLOCK + 100)
    source = MixedSource(disks={"root": data})
    kit.night(source)
    source.disks["root"] = data + bytes(grown)

    held = kit.night(source)

    assert held.point.counters["changed_bytes"] == BLOCK
    assert kit.restored(held.point) == source.at(held.point)


def test_changes_on_both_sides_of_a_region_s_edge_are_found(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)
    disk = SparseContent(3 * REGION + 100)
    disk.write(REGION - 8192, random.Random(1).randbytes(16_384))
    source = MixedSource(disks={"root": disk})
    kit.night(source)
    disk.write(REGION - 1, b"ab")
    disk.write(3 * REGION + 99, b"z")

    held = kit.night(source)

    assert held.point.counters["changed_bytes"] == 3 * BLOCK
    assert kit.restored(held.point) == source.at(held.point)


def test_a_region_that_became_a_hole_is_zeros(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)
    disk = SparseContent(2 * REGION)
    disk.write(0, b"first" * 2000)
    disk.write(REGION, b"second" * 2000)
    source = MixedSource(disks={"root": disk})
    kit.night(source)
    disk.write(REGION, bytes(12_000))

    held = kit.night(source)

    (extents,) = kit.contents(held.point).maps
    assert held.point.counters["volume_bytes"] == 0
    assert int(extents.length[extents.place != ZERO].sum()) == 20 * BLOCK
    assert kit.restored(held.point) == source.at(held.point)


def test_a_disk_that_breaks_while_it_is_read_makes_no_point(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)
    source = MixedSource(disks={"root": random.Random(1).randbytes(9 << 20)})
    source.faults.after_bytes = 5 << 20

    with pytest.raises(SourceError, match="broke"):
        kit.night(source)

    assert kit.inventory().held == ()
    assert source.record.left_open == 0


def test_one_block_of_a_vault_s_key_is_another_of_another_key() -> None:
    data = memoryview(b"x" * BLOCK)

    one, other = block_hashes(data, KEY, BLOCK), block_hashes(data, bytes(32), BLOCK)

    assert one != other


def test_what_a_disk_lost_when_it_shrank_is_stored_anew_when_it_is_back(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)
    whole = random.Random(1).randbytes(400 * BLOCK)
    source = MixedSource(disks={"root": whole})
    for content in (whole, whole[: 350 * BLOCK], whole[: 350 * BLOCK] + bytes(50 * BLOCK)):
        source.disks["root"] = content
        kit.night(source)
    # Without its state the host composes the signatures of all three nights.
    kit.lose_state()
    source.disks["root"] = whole

    held = kit.night(source)

    assert len(held.point.streams[0].signature_log) > 1
    assert held.point.counters["changed_bytes"] == 50 * BLOCK
    assert kit.restored(held.point) == {"root": whole}


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9000)), max_size=8))
def test_holes_finer_than_a_block_are_read_with_it(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int]]
) -> None:
    kit = VaultKit(tmp_path_factory.mktemp("holes"), block_size=16 << 10)
    disk = SparseContent(61 * 4096 + 1)
    for page, length in writes:
        disk.write(page * 4096 + 11, random.Random(page).randbytes(length))
    source = MixedSource(disks={"root": disk})

    held = kit.night(source)

    assert kit.restored(held.point) == source.at(held.point)
    # No byte is read twice, however the holes lie.
    reads = sorted((offset, length) for _, offset, length in source.record.reads)
    assert all(begin + length <= after for (begin, length), (after, _) in pairwise(reads))
