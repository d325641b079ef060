# SPDX-License-Identifier: Apache-2.0
"""Pieces out of parts of volumes: each comes once and right, or is left to whole volumes."""

import random
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapvault.engine import excerpts
from snapvault.engine.contents import Contents
from snapvault.engine.excerpts import Excerpt, extract_parts
from snapvault.engine.extract import Plan
from snapvault.model.extents import FIRST_VOLUME, ZERO, ExtentMap, from_rows
from tests.support.vaults import MixedSource, VaultKit

MIB = 1 << 20
BLOCK = 4096


@pytest.fixture(autouse=True, scope="module")
def _always_parts() -> object:
    """Volumes of tests are small; here they are large enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(excerpts, "SMALLEST", 0)
        patch.setattr(excerpts, "WHOLE", 1000)
        yield


def disk_of(size: int, seed: int) -> bytearray:
    """Return bytes that pack to about half, in runs of some KiB."""
    chance = random.Random(seed)
    out = bytearray()
    while len(out) < size:
        out += chance.randbytes(chance.randrange(9000)) + b"%d" % seed * chance.randrange(9000)
    return out[:size]


def only(full: ExtentMap, blocks: set[int], size: int) -> ExtentMap:
    """Return a map with nothing but zeros outside some blocks."""
    rows: list[tuple[int, int, int]] = []
    starts = full.starts().tolist()
    for start, length, place, offset in zip(
        starts, full.length.tolist(), full.place.tolist(), full.offset.tolist(), strict=True
    ):
        for at in range(start, start + length, BLOCK):
            long = min(BLOCK, start + length - at)
            is_wanted = at // BLOCK in blocks and place >= FIRST_VOLUME
            row = (long, place, offset + at - start) if is_wanted else (long, ZERO, 0)
            before = rows[-1] if rows else (0, -1, 0)
            if row[1:] == (before[1], before[2] + before[0] * is_wanted):
                row = (before[0] + long, *before[1:])
                rows.pop()
            rows.append(row)
    return from_rows(rows, full.volumes)


def work_of(contents: Contents, blocks: set[int]) -> Plan:
    """Return the plan for some blocks of each stream."""
    maps = tuple(
        only(full, blocks, stream.size)
        for full, stream in zip(contents.maps, contents.streams, strict=True)
    )
    return replace(contents, maps=maps).plan()


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3 * MIB), st.integers(1, 2 * MIB)),
    blocks=st.sets(st.integers(0, 3 * MIB // BLOCK), max_size=40),
    run=st.one_of(st.integers(0, 300), st.just(600)),
    wrong=st.sets(st.integers(0, 60), max_size=2),
)
def test_each_wanted_byte_comes_once_and_right_or_is_in_the_rest(
    sizes: tuple[int, int], blocks: set[int], run: int, wrong: set[int]
) -> None:
    with tempfile.TemporaryDirectory(prefix="svt-") as name:
        kit = VaultKit(Path(name), block_size=BLOCK, volume_size=int(1.7 * MIB))
        disks = {f"disk{number}": disk_of(size, number + 7) for number, size in enumerate(sizes)}
        contents = kit.contents(kit.night(MixedSource(disks=dict(disks))).point)
        work = work_of(contents, blocks | set(range(100, 100 + run)))
        content = [bytes(disks[stream.name]) for stream in contents.streams]
        taken: list[tuple[int, int, int]] = []
        refused: list[int] = []

        def accept(number: int, offset: int, data: memoryview) -> bool:
            assert data == content[number][offset : offset + len(data)]
            if len(taken) in wrong:
                wrong.discard(len(taken))
                refused.append(offset)
                return False
            taken.append((number, offset, len(data)))
            return True

        found = extract_parts(
            kit.store,
            kit.recovery_sealer,
            work,
            dict.fromkeys(contents.volumes, 5 * MIB),
            accept,
        )

        rest = list(zip(*columns(found.rest), strict=True))
        assert sorted(taken + rest) == sorted(zip(*columns(work), strict=True))
        assert bool(rest) == bool(refused)
        assert_is_a_plan(found, work)


def columns(work: Plan) -> tuple[list[int], list[int], list[int]]:
    return work.stream.tolist(), work.offset.tolist(), work.length.tolist()


def assert_is_a_plan(found: Excerpt, work: Plan) -> None:
    """The rest has its pieces at the volumes that the whole had them at."""
    rest = found.rest
    assert len(rest.bounds) == len(rest.volumes) + 1
    assert rest.bounds[-1] == len(rest.raw)
    where = dict(zip(zip(*columns(work), strict=True), _volumes(work), strict=True))
    for piece, volume in zip(zip(*columns(rest), strict=True), _volumes(rest), strict=True):
        assert where[piece] == volume


def _volumes(work: Plan) -> list[str]:
    turns = np.repeat(np.arange(len(work.volumes)), np.diff(work.bounds))
    return [work.volumes[turn].volume for turn in turns.tolist()]
