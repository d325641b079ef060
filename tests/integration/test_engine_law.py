# SPDX-License-Identifier: Apache-2.0
"""The law: whatever happened, every committed point brings back the bytes its view showed."""

import os
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapvault.engine.verify import Level
from snapvault.errors import SourceError
from snapvault.model.point import Point
from tests.support.sources import Faults
from tests.support.stores import CrashingStore, PowerCut
from tests.support.vaults import (
    MixedSource,
    SparseContent,
    VaultKit,
    gnupg_sealers,
    require_whole,
)

pytestmark = pytest.mark.integration

BLOCK = 512
REGION = BLOCK << 16


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for the disk: the power is cut in the store here, and no disk loses it."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda descriptor: None)


@dataclass(frozen=True)
class Change:
    """Something done to a stream between two nights; places and lengths are in 1/1000 of it."""

    verb: Literal["write", "hole", "resize", "copy", "insert", "cut", "move", "repeat", "empty"]
    where: int
    amount: int
    seed: int


@dataclass(frozen=True)
class Night:
    """What happens before a night, and how the night ends.

    `limit` counts bytes read before the source fails, or writes before the power goes.
    """

    disk: tuple[Change, ...]
    stream: tuple[Change, ...]
    toggles: frozenset[str]
    end: Literal["done", "source", "finish", "before", "after"]
    limit: int
    lose_state: bool


changes = st.builds(
    Change,
    st.sampled_from(
        ["write", "write", "hole", "resize", "copy", "insert", "cut", "move", "repeat", "empty"]
    ),
    st.integers(0, 1000),
    st.integers(0, 1000),
    st.integers(0, 9),
)
nights = st.builds(
    Night,
    st.lists(changes, max_size=4).map(tuple),
    st.lists(changes, max_size=3).map(tuple),
    st.frozensets(st.sampled_from(["data", "binlog", "kind"]), max_size=1),
    st.sampled_from(["done", "done", "done", "source", "finish", "before", "after"]),
    st.integers(0, 12),
    st.sampled_from([False, False, False, True]),
)


def change_disk(disk: SparseContent, change: Change, largest: int) -> None:
    where = disk.size * change.where // 1000
    amount = min(20_000, disk.size * change.amount // 1000)
    if change.verb in ("hole", "cut"):
        disk.write(where, bytes(amount))
    elif change.verb in ("resize", "empty"):
        # Sizes around multiples of the block, and anything.
        size = largest * change.amount // 1000
        disk.resize(0 if change.verb == "empty" else size - size % BLOCK + change.where % 3 * 255)
    elif change.verb in ("copy", "move", "repeat"):
        disk.write(where, random.Random(change.seed % 2).randbytes(BLOCK) * (amount // BLOCK + 1))
    else:
        disk.write(where, random.Random(change.seed).randbytes(amount))


def changed_stream(data: bytes, change: Change) -> bytes:
    where = len(data) * change.where // 1000
    amount = len(data) * change.amount // 4000
    head, part, tail = data[:where], data[where : where + amount], data[where + amount :]
    new = random.Random(change.seed).randbytes(1 + change.amount * 60)
    answers: dict[str, Callable[[], bytes]] = {
        "write": lambda: head + new[:amount] + tail,
        "hole": lambda: head + bytes(len(part)) + tail,
        "insert": lambda: head + new + part + tail,
        "resize": lambda: head + new[:500] + part + tail,
        "copy": lambda: data + part,
        "cut": lambda: head + tail,
        "move": lambda: tail + part + head,
        "repeat": lambda: head + part * 3 + tail,
        "empty": lambda: b"" if change.amount % 2 else new,
    }
    return answers[change.verb]()[:400_000]


def live(kit: VaultKit, source: MixedSource, history: list[Night], largest: int) -> list[Point]:
    """Live through a history, with a good night at its end; return what was reported as done."""
    done: list[Point] = []
    for night in history:
        prepare(source, night, largest)
        if night.lose_state:
            kit.lose_state()
        committed = run(kit, source, night)
        done += [committed] if committed else []
    source.faults = Faults()
    done.append(kit.night(source).point)
    return done


def prepare(source: MixedSource, night: Night, largest: int) -> None:
    for name in night.toggles & {"data"}:
        if name in source.disks:
            del source.disks[name]
        else:
            data = source.disks[name] = SparseContent(5000)
            data.write(100, b"data" * 300)
    if "binlog" in night.toggles and source.streams.pop("binlog", None) is None:
        source.streams["binlog"] = random.Random(3).randbytes(3000)
    if "kind" in night.toggles:
        # A stream that was a disk last night comes as bytes tonight, and back.
        if source.streams.pop("odd", None) is None:
            source.disks.pop("odd", None)
            source.streams["odd"] = b"odd" * 700
        else:
            odd = source.disks["odd"] = SparseContent(2100)
            odd.write(0, b"odd" * 700)
    root = source.disks["root"]
    assert isinstance(root, SparseContent)
    for change in night.disk:
        change_disk(root, change, largest)
    for change in night.stream:
        source.streams["dump"] = changed_stream(source.streams["dump"], change)


def run(kit: VaultKit, source: MixedSource, night: Night) -> Point | None:
    source.faults = Faults()
    if night.end == "source":
        source.faults = Faults(after_bytes=night.limit * 40_000)
    elif night.end == "finish":
        source.faults = Faults(on_finish=True)
    try:
        if night.end in ("before", "after"):
            when: Literal["before", "after"] = "before" if night.end == "before" else "after"
            store = CrashingStore(kit.store, writes_before_crash=night.limit, when=when)
            return kit.night(source, store).point
        return kit.night(source).point
    except (SourceError, PowerCut):
        return None


def require_law(kit: VaultKit, source: MixedSource, done: list[Point]) -> None:
    inventory = kit.inventory()
    there = [held.point for held in inventory.held]
    assert inventory.problems == ()
    assert [point.sequence for point in there] == list(range(1, len(there) + 1))
    # A power cut right after the manifest leaves a point that nobody reported; it is whole too.
    assert {point.point for point in done} <= {point.point for point in there}
    require_whole(kit, source, there)
    assert kit.verify(Level.FULL).findings == ()
    assert kit.verify(Level.DATA, kit.host()).findings == ()
    assert source.record.left_open == 0


@settings(max_examples=40)
@given(st.lists(nights, min_size=1, max_size=9))
def test_every_committed_point_restores_to_its_bytes_whatever_happened(
    history: list[Night],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        kit = VaultKit(Path(folder), volume_size=32 << 10)
        source = sample_source(size=150_000)

        done = live(kit, source, history, largest=200_000)

        require_law(kit, source, done)


@settings(max_examples=8)
@given(st.lists(nights, min_size=2, max_size=6))
def test_disks_of_several_regions_obey_the_law_too(history: list[Night]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        kit = VaultKit(Path(folder))
        source = sample_source(size=REGION + 70_001)

        done = live(kit, source, history, largest=2 * REGION + 5000)

        require_law(kit, source, done)


def test_a_long_history_over_gnupg_obeys_the_law(tmp_path: Path) -> None:
    chance = random.Random(7)
    history = [
        Night(
            disk=tuple(a_change(chance) for _ in range(3)),
            stream=tuple(a_change(chance) for _ in range(2)),
            toggles=frozenset(chance.sample(["data", "binlog", "kind"], chance.choice([0, 1]))),
            end=chance.choice(["done", "done", "source", "finish", "before", "after"]),
            limit=chance.randrange(6),
            lose_state=chance.random() < 0.2,
        )
        for _ in range(8)
    ]
    with gnupg_sealers() as sealers:
        kit = VaultKit(tmp_path, sealers=sealers, volume_size=64 << 10)
        source = sample_source(size=100_000)

        done = live(kit, source, history, largest=150_000)

        require_law(kit, source, done)


def test_logs_of_more_than_a_hundred_nights_obey_the_law(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path)
    source = MixedSource(disks={"root": SparseContent(3_000_000)})
    disk = source.disks["root"]
    assert isinstance(disk, SparseContent)
    for number in range(732):
        disk.write(number * 4096 + 512, random.Random(number).randbytes(1024))
    lengths = set()

    for number in range(140):
        if number == 70:
            disk.resize(2_000_100)
        if number == 72:
            disk.resize(3_000_000)
        disk.write(number * 4096, random.Random(number).randbytes(64))
        if number % 13 == 0:
            kit.lose_state()
        (stream,) = kit.night(source).point.streams
        lengths.add((len(stream.map_log), len(stream.signature_log)))

    points = [held.point for held in kit.inventory().held]
    assert max(length for _, length in lengths) == 64
    require_whole(kit, source, [*points[::9], points[69], points[71], points[-1]])


def a_change(chance: random.Random) -> Change:
    return Change(
        chance.choice(
            ["write", "hole", "resize", "copy", "insert", "cut", "move", "repeat", "empty"]
        ),
        chance.randrange(1001),
        chance.randrange(1001),
        chance.randrange(10),
    )


def sample_source(size: int) -> MixedSource:
    disk = SparseContent(size)
    disk.write(1000, random.Random(1).randbytes(60_000))
    disk.write(size - 9000, random.Random(2).randbytes(9000))
    return MixedSource(disks={"root": disk}, streams={"dump": random.Random(4).randbytes(50_000)})
