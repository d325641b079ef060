# SPDX-License-Identifier: Apache-2.0
"""What tags tell to be as it was is not hashed, and every night comes back all the same."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from blake3 import blake3

from snapvault.engine import blocks, reading
from snapvault.engine.grains import GRAIN
from snapvault.engine.spare_file import SpareFile
from snapvault.engine.tags import UNIT, Tags
from snapvault.formats.signatures import REGION_BLOCKS, hashes_from
from snapvault.model.point import Point
from snapvault.model.policy import Hints
from tests.support.hints import HintedSource
from tests.support.vaults import MixedSource, SparseContent, VaultKit, require_whole

BLOCK = 4096
UNITS = 10
SIZE = UNITS * UNIT + 3 * BLOCK + 1000
NO_HINTS = Hints(full_read_every=timedelta(0))


@pytest.fixture(autouse=True)
def no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it be the turn of units of which these disks have none."""
    monkeypatch.setattr("snapvault.engine.tags.turn", lambda: UNITS)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many bytes were hashed in blocks, run by run; tags are there on any processor."""
    found: list[int] = []
    real = blocks.block_hashes

    def counted(view: memoryview, key: bytes, block_size: int) -> bytes:
        found.append(len(view))
        return real(view, key, block_size)

    monkeypatch.setattr(blocks, "block_hashes", counted)
    monkeypatch.setattr(reading, "are_cheap", lambda: True)
    return found


def a_kit(folder: Path) -> VaultKit:
    return VaultKit(folder / "kit", block_size=BLOCK)


def a_disk(seed: int) -> bytes:
    return random.Random(seed).randbytes(SIZE)


def tags_of(kit: VaultKit) -> Path:
    (path,) = (kit.folder / "state" / "sources" / "web01" / "heads").glob("*/root.tags")
    return path


def write(source: MixedSource, at: int, data: bytes) -> None:
    content = bytearray(cast(bytes, source.disks["root"]))
    content[at : at + len(data)] = data
    source.disks["root"] = bytes(content)


def require_true_digest(kit: VaultKit, source: MixedSource, point: Point) -> None:
    """Hold the content digest against one of all blocks, hashed anew."""
    data = source.at(point)["root"]
    key = kit.contents(point).hash_key
    raw = b"".join(
        blake3(block, key=key).digest(16) if any(block) else bytes(16)
        for block in (data[at : at + BLOCK] for at in range(0, len(data), BLOCK))
    )
    assert point.streams[0].digest == blake3(hashes_from(raw).tobytes()).hexdigest()


# --- the law --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_every_night_comes_back_and_has_the_digest_of_all_its_blocks(
    seed: int, tmp_path: Path, hashed: list[int]
) -> None:
    chance = random.Random(seed)
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(seed)})
    points = []
    for _ in range(8):
        points.append(kit.night(source).point)
        content = bytearray(source.at(points[-1])["root"])
        for _ in range(chance.randrange(4)):
            edge = chance.choice([UNIT, BLOCK]) * chance.randrange(UNITS)
            at = max(0, edge + chance.choice([-1, 0, 1, 600, BLOCK]))
            length = chance.choice([1, 2, BLOCK, UNIT, 2 * UNIT + 5])
            zeros = chance.random() < 0.3
            content[at : at + length] = bytes(length) if zeros else chance.randbytes(length)
        if chance.random() < 0.3:
            content += chance.randbytes(chance.choice([1, BLOCK, UNIT]))
        if chance.random() < 0.3:
            del content[-chance.choice([1, BLOCK, UNIT, 3 * UNIT]) :]
        source.disks["root"] = bytes(content)

    assert sum(hashed) < len(points) * SIZE / 2
    require_whole(kit, source, points)
    for point in points:
        require_true_digest(kit, source, point)


def test_what_a_platform_tells_and_what_it_hides_comes_back(
    tmp_path: Path, hashed: list[int]
) -> None:
    chance = random.Random(4)
    kit = a_kit(tmp_path)
    source = HintedSource({"root": SparseContent(SIZE)})
    source.disks["root"].write(0, a_disk(1)[: 6 * UNIT])
    kept: list[tuple[Point, bytes]] = []
    for night in range(7):
        kept.append((kit.night(source).point, source.disks["root"].to_bytes()))
        for _ in range(3):
            source.disks["root"].write(chance.randrange(5 * UNIT), chance.randbytes(30))
        source.platform.hidden = {2} if night == 3 else set()
        # A whole night without what the platform tells.
        kit.options = replace(kit.options, hints=NO_HINTS if night == 4 else Hints())

    assert sum(hashed) < len(kept) * SIZE
    for point, content in (kept[0], kept[3], kept[6]):
        assert kit.restored(point) == {"root": content}


# --- what is hashed -------------------------------------------------------------------------------


def test_only_units_that_changed_and_the_end_are_hashed(tmp_path: Path, hashed: list[int]) -> None:
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(1)})
    kit.night(source)
    end = SIZE - UNITS * UNIT
    nights = []

    for at in (None, 3 * UNIT + 5, None):
        if at is not None:
            write(source, at, b"changed")
        hashed.clear()
        nights.append((kit.night(source).point, sum(hashed)))

    assert [found for _, found in nights] == [end, end + UNIT, end]
    assert [point.counters["changed_bytes"] for point, _ in nights] == [0, GRAIN, 0]
    require_whole(kit, source, [point for point, _ in nights])


def test_what_a_platform_tells_to_be_unchanged_keeps_its_tags(
    tmp_path: Path, hashed: list[int]
) -> None:
    kit = a_kit(tmp_path)
    source = HintedSource({"root": SparseContent(SIZE)})
    source.disks["root"].write(0, a_disk(1))
    kit.night(source)
    source.disks["root"].write(3 * UNIT, b"changed")
    kit.night(source)
    kit.options = replace(kit.options, hints=NO_HINTS)
    hashed.clear()

    kit.night(source)

    # What was read of unit 3 was less than all of it, so it lost its tag.
    assert sum(hashed) == SIZE - UNITS * UNIT + UNIT


def test_one_unit_in_many_is_hashed_whatever_its_tag_says(
    tmp_path: Path, hashed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(1)})
    kit.night(source)
    monkeypatch.setattr("snapvault.engine.tags.turn", lambda: 3)
    hashed.clear()

    point = kit.night(source).point

    assert sum(hashed) == SIZE - UNITS * UNIT + UNIT
    assert point.counters["changed_bytes"] == 0


# --- the cache ------------------------------------------------------------------------------------


def test_without_finer_hashes_there_are_no_tags(tmp_path: Path, hashed: list[int]) -> None:
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(1)})
    kit.night(source)
    kit.options = replace(kit.options, fine_hashes=0)

    kit.night(source)

    assert not list(kit.folder.rglob("*.tags"))
    assert sum(hashed) == 2 * SIZE


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-9] + b"\0" * 9),
    ],
    ids=["lost", "cut", "empty", "damaged"],
)
def test_a_file_that_is_not_as_it_was_costs_a_night_of_hashing(
    spoil: Callable[[Path], None], tmp_path: Path, hashed: list[int]
) -> None:
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(1)})
    kit.night(source)
    spoil(tags_of(kit))
    write(source, UNIT, b"changed")
    hashed.clear()

    point = kit.night(source).point

    assert sum(hashed) == SIZE
    require_whole(kit, source, [point])
    require_true_digest(kit, source, point)


def test_the_tags_of_another_night_count_for_nothing(tmp_path: Path, hashed: list[int]) -> None:
    kit, source = a_kit(tmp_path), MixedSource(disks={"root": a_disk(1)})
    kit.night(source)
    old = tags_of(kit).read_bytes()
    write(source, UNIT, b"changed")
    kit.night(source)
    tags_of(kit).write_bytes(old)
    write(source, UNIT, a_disk(1)[UNIT : UNIT + 7])

    point = kit.night(source).point

    assert point.counters["changed_bytes"] > 0
    require_whole(kit, source, [point])


def test_a_file_that_cannot_be_read_has_no_tags(tmp_path: Path) -> None:
    broken = Path("/proc/self/mem")  # opens, and its first bytes cannot be read

    with SpareFile(tmp_path / "tags") as file, Tags(broken, file, BLOCK, 1 << 20) as tags:
        before = tags.before(0, 3 * UNIT)

    assert (before.first, before.tags.tobytes()) == (0, bytes(3 * 16))


@pytest.mark.parametrize("block_size", [512, 4096, 32768])
def test_regions_have_tags_of_their_own_whatever_the_size_of_a_block(
    block_size: int, tmp_path: Path
) -> None:
    region = REGION_BLOCKS * block_size
    units = {0: 0, 1: 5, 3: region // UNIT - 1}  # one in each region, and none in the third
    same = np.ones(REGION_BLOCKS, dtype=bool)
    data = memoryview(a_disk(1))[:UNIT]

    for night in ("first", "second"):
        old = tmp_path / "first" if night == "second" else None
        with SpareFile(tmp_path / night) as file, Tags(old, file, block_size, 1 << 20) as tags:
            for number, unit in units.items():
                at = number * region + unit * UNIT
                before = tags.before(at, at + UNIT)
                tagged = tags.of(at, data)
                blocks_of_unit = tags.unchanged(tagged, before, at, UNIT // block_size)
                assert blocks_of_unit.all() == blocks_of_unit.any() == (night == "second")
                # The second night reads only what is in the second region.
                if night == "first" or number == 1:
                    tags.take(tagged)
                tags.end_region(number, same)

    assert (tmp_path / "second").read_bytes() == (tmp_path / "first").read_bytes()


@pytest.mark.parametrize("most", [0, 31, 32, 100, 1 << 20])
def test_the_file_takes_no_more_than_it_may(most: int, tmp_path: Path) -> None:
    data = memoryview(a_disk(1))
    path = tmp_path / "tags"

    with SpareFile(path) as file, Tags(None, file, BLOCK, most) as tags:
        tags.take(tags.of(0, data))
        same = np.ones(-(-SIZE // BLOCK), dtype=bool)
        tags.end_region(0, same)

    assert path.stat().st_size <= max(most, 32)
    assert (path.stat().st_size > 32) == (most >= 32 + 8 + UNITS * 18)


def test_bytes_that_moved_to_another_unit_have_another_tag(tmp_path: Path) -> None:
    data = a_disk(1)[:UNIT]

    with SpareFile(tmp_path / "tags") as file, Tags(None, file, BLOCK, 1 << 20) as tags:
        tagged = tags.of(0, memoryview(data + data))

    assert tagged.tags[0] != tagged.tags[1]
