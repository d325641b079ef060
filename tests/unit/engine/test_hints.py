# SPDX-License-Identifier: Apache-2.0
"""What a platform tells of changes is used, and not believed."""

import contextlib
import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapvault.engine.vault import Held
from snapvault.errors import SourceError
from snapvault.model.point import Point
from snapvault.model.policy import Hints
from snapvault.ports.source import Trust
from tests.support.hints import PAGE, HintedSource, Platform
from tests.support.stores import CrashingStore, PowerCut
from tests.support.vaults import SparseContent, VaultKit

MIB = 1 << 20


def filled(size: int, seed: int = 1) -> SparseContent:
    content = SparseContent(size)
    content.write(0, random.Random(seed).randbytes(size))
    return content


def require(kit: VaultKit, held: Held, disks: Mapping[str, SparseContent]) -> None:
    assert kit.restored(held.point) == {name: disk.to_bytes() for name, disk in disks.items()}


def counters(point: Point) -> tuple[int, int, int]:
    found = point.counters
    return found["read_bytes"], found["sampled_bytes"], found["hint_mismatches"]


def test_a_night_reads_what_changed_and_a_sample(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path, block_size=PAGE)
    source = HintedSource({"root": filled(4 * MIB)})
    kit.night(source)

    source.disks["root"].write(3 * MIB + 5, b"changed")
    held = kit.night(source)

    assert counters(held.point) == (11 * PAGE, 10 * PAGE, 0)
    require(kit, held, source.disks)


def test_what_was_discarded_is_zeros_without_being_read(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path, block_size=PAGE)
    source = HintedSource({"root": filled(4 * MIB)})
    kit.night(source)

    source.disks["root"].write(MIB, bytes(MIB))
    held = kit.night(source)

    assert counters(held.point) == (10 * PAGE, 10 * PAGE, 0)
    require(kit, held, source.disks)


@pytest.mark.parametrize(("trust", "least"), [(Trust.COMPARED, 10), (Trust.TRACKED, 30)])
def test_the_sample_is_a_share_of_the_platforms_chunks_and_never_tiny(
    tmp_path: Path, trust: Trust, least: int
) -> None:
    platform = Platform(grain=4 * PAGE, trust=trust)
    kit = VaultKit(tmp_path, block_size=PAGE, volume_size=4 * MIB)
    source = HintedSource({"root": filled(8 * MIB)}, platform)
    kit.options = replace(kit.options, hints=Hints(sample_percent=10))
    kit.night(source)

    tenth = kit.night(source)
    kit.options = replace(kit.options, hints=Hints(sample_percent=0.1))
    little = kit.night(source)

    assert tenth.point.counters["sampled_bytes"] == 52 * 4 * PAGE  # of 512 chunks
    assert little.point.counters["sampled_bytes"] == least * 4 * PAGE


def test_a_change_that_was_not_told_is_found_by_the_sample_and_everything_is_read(
    tmp_path: Path,
) -> None:
    kit = VaultKit(tmp_path, block_size=PAGE)
    source = HintedSource({"root": filled(10 * PAGE)})
    kit.night(source)

    source.platform.hidden = {7}
    source.disks["root"].write(7 * PAGE, b"not told")
    held = kit.night(source)

    read, sampled, mismatches = counters(held.point)
    assert (read - sampled, mismatches) == (10 * PAGE, 1)
    assert kit.events.warnings == [
        (
            'stream "root" of source "web01" is read as a whole: the platform told that it did not'
            f" change at offset {7 * PAGE}, but it did"
        )
    ]
    require(kit, held, source.disks)


def test_a_hole_counts_though_the_platform_did_not_tell_of_it(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path, block_size=PAGE)
    source = HintedSource({"root": filled(MIB)})
    kit.night(source)

    source.platform.hidden = {7}
    source.disks["root"].write(7 * PAGE, bytes(PAGE))
    held = kit.night(source)

    require(kit, held, source.disks)


@pytest.mark.parametrize(
    "nonsense",
    [
        [(0, 2 * MIB)],
        [(PAGE, 2 * PAGE), (0, PAGE)],
        [(0, 2 * PAGE), (PAGE, 3 * PAGE)],
        [(PAGE, PAGE)],
    ],
    ids=["beyond the end", "out of order", "overlapping", "empty"],
)
def test_ranges_that_cannot_be_are_no_hint(tmp_path: Path, nonsense: list[tuple[int, int]]) -> None:
    kit = VaultKit(tmp_path, block_size=PAGE)
    source = HintedSource({"root": filled(MIB)})
    kit.night(source)

    source.platform.nonsense = nonsense
    source.disks["root"].write(100 * PAGE, b"new")
    held = kit.night(source)

    assert counters(held.point) == (MIB, 0, 1)
    assert kit.events.names().count("hint.wrong") == 1
    require(kit, held, source.disks)


def test_a_disk_is_read_as_a_whole_when_its_last_full_read_is_old(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path, block_size=PAGE)
    kit.options = replace(kit.options, hints=Hints(full_read_every=timedelta(days=3)))
    source = HintedSource({"root": filled(MIB)})

    reads = [kit.night(source).point.counters["read_bytes"] for _ in range(8)]

    few = 10 * PAGE
    assert reads == [MIB, few, few, MIB, few, few, MIB, few]


def test_marks_of_the_parent_come_back_and_only_committed_points_have_any(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path, block_size=PAGE)
    source = HintedSource({"root": filled(MIB)})
    first = kit.night(source)

    source.faults.on_finish = True
    with pytest.raises(SourceError):
        kit.night(source)
    source.faults.on_finish = False
    second = kit.night(source)

    assert source.record.marks_given == [{}, {"root": "s1"}, {"root": "s1"}]
    assert source.record.committed == [first.point.point, second.point.point]
    assert list(source.platform.snapshots) == ["s3"]


@pytest.mark.parametrize(
    ("before", "after"),
    [(10 * PAGE + 100, 20 * PAGE), (20 * PAGE, 10 * PAGE + 100), (5 * PAGE, 0), (0, PAGE)],
)
def test_the_block_at_the_end_of_a_disk_that_was_resized_is_read(
    tmp_path: Path, before: int, after: int
) -> None:
    kit = VaultKit(tmp_path, block_size=PAGE)
    source = HintedSource({"root": filled(before)})
    kit.night(source)

    # The platform's chunks stay as they are: what lies beyond the end reads as zeros.
    source.platform.hidden = set(range(30))
    source.disks["root"].resize(after)
    held = kit.night(source)

    assert held.point.counters["hint_mismatches"] == 0
    require(kit, held, source.disks)


def test_a_platform_that_cannot_let_go_does_not_undo_the_point(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path, block_size=PAGE)
    source = HintedSource({"root": filled(MIB)})
    source.faults.on_committed = True

    held = kit.night(source)

    require(kit, held, source.disks)
    assert kit.events.warnings == ['source "memory" broke']


def test_a_lost_vault_state_goes_on_from_the_marks_in_the_bucket(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path, block_size=PAGE)
    source = HintedSource({"root": filled(MIB)})
    kit.night(source)

    kit.lose_state()
    source.disks["root"].write(0, b"changed")
    held = kit.night(source)

    assert counters(held.point) == (11 * PAGE, 10 * PAGE, 0)
    require(kit, held, source.disks)


def test_an_unchanged_disk_keeps_its_maps_and_gets_tonights_mark(tmp_path: Path) -> None:
    kit = VaultKit(tmp_path, block_size=PAGE)
    source = HintedSource({"root": filled(MIB)})
    first = kit.night(source)

    second = kit.night(source)

    before, now = first.point.streams[0], second.point.streams[0]
    assert (before.mark, now.mark) == ("s1", "s2")
    assert now == replace(before, mark="s2")


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[list[tuple[str, int, int]], str, int]]:
    change = st.tuples(
        st.sampled_from(["write", "write", "discard", "resize"]),
        st.integers(0, 1000),
        st.integers(0, 1000),
    )
    ends = st.sampled_from(["done", "done", "done", "source", "finish", "before", "after", "state"])
    night = st.tuples(st.lists(change, max_size=4), ends, st.integers(0, 9))
    return draw(st.lists(night, min_size=1, max_size=6))


@given(histories(), st.sampled_from([1, 3, 16]), st.integers(0, 5))
@settings(max_examples=40)
def test_whatever_happened_every_point_brings_back_what_its_view_showed(
    tmp_path_factory: pytest.TempPathFactory,
    history: list[tuple[list[tuple[str, int, int]], str, int]],
    pages_a_grain: int,
    seed: int,
) -> None:
    kit = VaultKit(tmp_path_factory.mktemp("hints"), block_size=512)
    source = HintedSource({"root": filled(70_000, seed)}, Platform(grain=pages_a_grain * PAGE))
    expected: dict[str, bytes] = {}

    for changes, end, limit in [*history, ([], "done", 0)]:
        disk = source.disks["root"]
        for verb, where, amount in changes:
            if verb == "resize":
                disk.resize(100_000 * amount // 1000)
            else:
                data = random.Random(amount).randbytes(20_000 * amount // 1000)
                disk.write(disk.size * where // 1000, data if verb == "write" else bytes(len(data)))
        shown = disk.to_bytes()
        expected[live(kit, source, end, limit)] = shown

    for held in kit.inventory().held:
        assert kit.restored(held.point) == {"root": expected[held.point.streams[0].mark or ""]}


def live(kit: VaultKit, source: HintedSource, end: str, limit: int) -> str:
    """Live through a night, good or bad; return the name of its snapshot."""
    source.faults.after_bytes = limit * 8000 if end == "source" else None
    source.faults.on_finish = end == "finish"
    store = None
    if end in ("before", "after"):
        when: Literal["before", "after"] = "before" if end == "before" else "after"
        store = CrashingStore(kit.store, writes_before_crash=limit, when=when)
    if end == "state":
        kit.lose_state()
    with contextlib.suppress(SourceError, PowerCut):
        kit.night(source, store)
    return f"s{source.record.opened}"
