# SPDX-License-Identifier: Apache-2.0
"""When a thin snapshot can be compared with the kept one, and what it is worth."""

from dataclasses import replace

import pytest

from snapvault.adapters.sources.lvm_commands import Volume
from snapvault.adapters.sources.lvm_hints import comparable
from snapvault.adapters.sources.lvm_plan import Plan
from snapvault.adapters.sources.lvm_take import combined
from snapvault.adapters.sources.lvm_thin import is_too_old
from snapvault.ports.source import Consistency
from tests.support.events import RecordedEvents

NONE, CRASH, FILE_SYSTEM, APPLICATION = Consistency
ORIGIN = Volume("vg0", "data", "u1", 1 << 30, "", (253, 1), pool="p1", thin_id=1)
KEPT = replace(ORIGIN, name="snapvault_data", uuid="u2", thin_id=2)
PLAN = Plan("data", ORIGIN, frozenset())


def test_the_kept_snapshot_of_the_same_pool_and_size_is_comparable() -> None:
    events = RecordedEvents()

    assert comparable(PLAN, {"data": KEPT}, {"data": "u2"}, events) == KEPT
    assert events.events == []


def test_a_first_run_has_nothing_to_compare_with_and_nothing_to_warn_of() -> None:
    events = RecordedEvents()

    assert comparable(PLAN, {}, {}, events) is None
    assert events.events == []


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (None, "the snapshot of the last restore point is gone"),
        (replace(KEPT, pool="p2"), "is in another pool"),
        (replace(KEPT, size=1 << 29), "was resized"),
        (replace(KEPT, size=1 << 31), "was resized"),
    ],
)
def test_what_cannot_be_compared_is_warned_of(kept: Volume | None, words: str) -> None:
    events = RecordedEvents()

    found = comparable(PLAN, {} if kept is None else {"data": kept}, {"data": "u2"}, events)

    assert found is None
    assert events.names() == ["hint.lost"]
    assert 'logical volume "vg0/data" is read as a whole' in events.warnings[0]
    assert words in events.warnings[0]


@pytest.mark.parametrize(
    ("own", "promises", "worth"),
    [
        ([CRASH], [], CRASH),
        ([FILE_SYSTEM], [], FILE_SYSTEM),
        ([FILE_SYSTEM, CRASH], [], CRASH),
        ([CRASH], [APPLICATION], APPLICATION),
        ([FILE_SYSTEM], [NONE, CRASH], FILE_SYSTEM),
    ],
)
def test_snapshots_are_worth_the_weakest_or_what_was_promised_for_all(
    own: list[Consistency], promises: list[Consistency], worth: Consistency
) -> None:
    assert combined(own, promises) is worth


@pytest.mark.parametrize(
    ("version", "verdict"),
    [("0.7.3", True), ("0.7.4", False), ("0.9.0", False), ("1.0.12", False), ("?", True)],
)
def test_a_thin_delta_that_misses_changes_is_known_by_its_version(
    version: str,
    verdict: bool,  # noqa: FBT001 - a test's parameters have no other way
) -> None:
    assert is_too_old(version) is verdict
