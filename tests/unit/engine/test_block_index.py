# SPDX-License-Identifier: Apache-2.0
"""The table of where blocks may be found."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from snapvault.engine.block_index import (
    FEWEST_SLOTS,
    BlockIndex,
    build,
    is_fit,
    slots_for,
)
from snapvault.formats.signatures import REGION_BLOCKS, Hashes, Page, hashes_from

IDENTITY = bytes(range(32))
OTHER = bytes(32)


def hashes_of(seed: int, count: int) -> Hashes:
    return hashes_from(random.Random(seed).randbytes(16 * count))


def page(region: int, hashes: Hashes) -> Page:
    return Page(region, np.arange(len(hashes), dtype=np.uint16), hashes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "blocks.index"


@pytest.mark.parametrize("count", [1, 40, 5000, REGION_BLOCKS])
def test_whoever_looks_for_some_blocks_of_a_page_finds_the_page(path: Path, count: int) -> None:
    hashes = hashes_of(1, count)
    build(path, IDENTITY, count, [(7, page(3, hashes))])

    with BlockIndex(path, IDENTITY) as index:
        found = [index.look_up(hashes[at : at + 256]) for at in range(0, count, 5000)]
        strange = index.look_up(hashes_of(2, 256))

    assert found == [[(7, 3)]] * len(found)
    assert strange == []


def test_the_page_of_most_blocks_comes_first(path: Path) -> None:
    one, other = hashes_of(1, 4096), hashes_of(2, 4096)
    build(path, IDENTITY, 8192, [(1, page(0, one)), (2, page(5, other))])

    with BlockIndex(path, IDENTITY) as index:
        found = index.look_up(np.concatenate((one[:256], other[:1024])))

    assert found == [(2, 5), (1, 0)]


def test_pages_of_many_batches_are_all_entered(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapvault.engine.block_index._BATCH", 1000)
    pages = [(number, page(number % 3, hashes_of(number, 9000))) for number in range(20)]

    build(path, IDENTITY, 180_000, pages)

    with BlockIndex(path, IDENTITY) as index:
        for number, each in pages:
            assert index.look_up(each.hashes[:512])[0] == (number, each.region)


def test_news_write_over_what_was_there(path: Path) -> None:
    hashes = hashes_of(1, 1000)
    build(path, IDENTITY, 1000, [(1, page(0, hashes))])

    with BlockIndex(path, IDENTITY) as index:
        index.enter([(2, page(9, hashes))])

    with BlockIndex(path, IDENTITY) as index:
        assert index.look_up(hashes[:256]) == [(2, 9)]
        assert index.learned > 60


def test_two_that_write_at_once_without_a_lock_leave_a_table_that_can_be_read(path: Path) -> None:
    build(path, IDENTITY, 10_000, [])
    with BlockIndex(path, IDENTITY) as one, BlockIndex(path, IDENTITY) as other:
        for number in range(10):
            one.enter([(1, page(number, hashes_of(number, 500)))])
            other.enter([(2, page(number, hashes_of(100 + number, 500)))])

    with BlockIndex(path, IDENTITY) as index:
        assert index.look_up(hashes_of(3, 500)) == [(1, 3)]
        assert index.look_up(hashes_of(107, 500)) == [(2, 7)]


def test_blocks_of_zeros_are_not_entered(path: Path) -> None:
    build(path, IDENTITY, 100, [])
    empty = path.read_bytes()

    build(path, IDENTITY, 100, [(1, page(0, hashes_from(bytes(16 * 100))))])

    assert path.read_bytes() == empty


@pytest.mark.parametrize("size", [0, 20, 4096, 100_000])
def test_a_table_that_is_cut_short_is_refused(path: Path, size: int) -> None:
    build(path, IDENTITY, 100, [])
    path.write_bytes(path.read_bytes()[:size])

    with pytest.raises(ValueError, match="table"):
        BlockIndex(path, IDENTITY)


def test_a_table_of_another_key_is_refused(path: Path) -> None:
    build(path, OTHER, 100, [])

    with pytest.raises(ValueError, match="not a table of these blocks"):
        BlockIndex(path, IDENTITY)


@pytest.mark.parametrize("blocks", [10**6, 5 * 10**6, 1 << 23, 10**9])
def test_a_table_takes_two_to_four_bytes_a_block(blocks: int) -> None:
    assert 2 * blocks <= slots_for(blocks) * 16 <= 4 * blocks


@pytest.mark.parametrize(
    ("blocks", "learned", "fits"),
    [
        (FEWEST_SLOTS * 8, 0, True),
        (FEWEST_SLOTS * 16, FEWEST_SLOTS, True),
        (FEWEST_SLOTS * 16 + 16, 0, False),
        (0, 0, True),
        (100, FEWEST_SLOTS + 1, False),
    ],
)
def test_a_table_is_made_anew_when_it_is_small_or_written_over(
    path: Path, blocks: int, learned: int, *, fits: bool
) -> None:
    build(path, IDENTITY, 0, [])

    with BlockIndex(path, IDENTITY) as index:
        index.learned = learned
        assert is_fit(index, blocks) is fits


def test_a_table_for_far_more_blocks_than_there_are_is_made_anew(path: Path) -> None:
    build(path, IDENTITY, FEWEST_SLOTS * 16, [])

    with BlockIndex(path, IDENTITY) as index:
        assert is_fit(index, FEWEST_SLOTS * 16)
        assert not is_fit(index, 1000)


def test_what_a_killed_build_left_goes_and_what_another_is_writing_stays(path: Path) -> None:
    left, written = (path.with_name(f"{path.name}.{number:08}.part") for number in range(2))
    for part in (left, written):
        part.write_bytes(b"half")
    os.utime(left, (0, 0))

    build(path, IDENTITY, 100, [])

    assert sorted(path.parent.iterdir()) == [path, written]


def test_builds_at_once_do_not_take_each_others_files_away(path: Path) -> None:
    def pages() -> Iterator[tuple[int, Page]]:
        build(path, IDENTITY, 100, [])
        yield 1, page(0, hashes_of(1, 100))

    build(path, IDENTITY, 100, pages())

    with BlockIndex(path, IDENTITY) as index:
        assert index.look_up(hashes_of(1, 100)) == [(1, 0)]
    assert list(path.parent.iterdir()) == [path]
