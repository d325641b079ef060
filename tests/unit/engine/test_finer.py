# SPDX-License-Identifier: Apache-2.0
"""Blocks that change again: only grains of them are stored, and every night comes back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from snapvault.adapters.targets.in_place import open_in_place
from snapvault.engine.in_place import restore_in_place
from snapvault.engine.verify import Level
from snapvault.formats import names
from snapvault.model.extents import PARENT, ExtentMap
from snapvault.model.point import Point
from snapvault.model.policy import Rewriting
from tests.support.served import opened
from tests.support.vaults import MixedSource, SparseContent, VaultKit, require_whole

BLOCK = 4096
GRAIN = 512
SIZE = 60 * BLOCK + 1000


def disk(seed: int, size: int = SIZE) -> bytearray:
    return bytearray(random.Random(seed).randbytes(size))


def edited(content: bytearray, chance: random.Random) -> bytearray:
    """Return a disk after a day: small writes at places that are often the same, and others."""
    now = bytearray(content)
    for _ in range(chance.randrange(1, 12)):
        at = min(len(now) - 1, int(chance.random() ** 3 * len(now)))
        length = chance.choice([1, 8, 150, 511, 513, 700, BLOCK, 3 * BLOCK])
        kind = chance.random()
        data = bytes(length) if kind < 0.15 else chance.randbytes(length)
        now[at : at + length] = data[: len(now) - at]
    if chance.random() < 0.1:
        now += chance.randbytes(chance.choice([1, GRAIN, BLOCK, 5000]))
    if chance.random() < 0.1:
        del now[-chance.choice([1, GRAIN, BLOCK, 5000]) :]
    return now


def pieces_of(kit: VaultKit, point: Point) -> int:
    """Return in how many places the blocks of a point lie that lie in several."""
    (extents,) = kit.contents(point).maps
    return int((extents.starts() % np.uint64(BLOCK) != 0).sum())


def in_place(kit: VaultKit, point: Point, path: Path) -> bytes:
    (stream,) = point.streams
    words = {"target": path.name}
    target = open_in_place(path, stream.size, words, devices=kit.folder / "devices", force=False)
    restore_in_place(kit.recovery(), kit.contents(point), [target])
    return path.read_bytes()


@pytest.mark.parametrize("seed", range(6))
def test_every_night_of_a_history_comes_back_in_every_way(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    kit = VaultKit(tmp_path / "kit", block_size=BLOCK)
    if seed % 2:
        kit.options = replace(kit.options, rewriting=Rewriting(100.0))
    source = MixedSource(disks={"root": disk(seed)})
    points = []
    for night in range(14):
        if night == 7 and seed % 3 == 0:
            kit.lose_state()
        points.append(kit.night(source).point)
        source.disks["root"] = edited(source.disks["root"], chance)
    there = tmp_path / "disk.img"
    there.write_bytes(chance.randbytes(SIZE))

    assert sum(pieces_of(kit, point) for point in points) > 20
    require_whole(kit, source, points)
    for point in points:
        expected = source.at(point)["root"]
        assert in_place(kit, point, there) == expected
        with opened(kit, point) as found:
            size = len(expected)
            for _ in range(5):
                at = chance.randrange(size)
                length = chance.randrange(size - at)
                assert bytes(found.disks[0].read(at, length)) == expected[at : at + length]
    assert kit.verify(Level.FULL).findings == ()
