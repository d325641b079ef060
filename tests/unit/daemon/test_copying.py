# SPDX-License-Identifier: Apache-2.0
"""When copies are begun, tried again and alarmed of."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from snapvault.daemon.copying import Copies
from snapvault.errors import SourceError
from snapvault.model import objectives
from snapvault.model.copies import Behind, CopyNote, behind
from snapvault.model.policy import Policy, Retry
from snapvault.model.runs import PointSummary, SourceKey
from snapvault.ports.copying import CopyOrder
from snapvault.ports.orders import Ended
from tests.support.events import RecordedEvents
from tests.support.simulation import VAULT, a_policy
from tests.support.simulation import World as Simulated

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def point(number: int, source: str = "web01", vault: str = VAULT) -> PointSummary:
    taken = datetime(2026, 2, number, tzinfo=UTC)
    return PointSummary(SourceKey(vault, source), f"{number:016x}", taken, 1, 1, "crash")


@dataclass
class Copier:
    """Begins everything; copies end when they are told to."""

    begun: list[CopyOrder] = field(default_factory=list)
    order: CopyOrder | None = None
    status: int | None = None
    refuses: bool = False

    def start(self, order: CopyOrder) -> None:
        assert self.order is None
        if self.refuses:
            raise SourceError("no processes left")
        self.begun.append(order)
        self.order = order

    def ended(self) -> Ended[CopyOrder] | None:
        if self.order is None or self.status is None:
            return None
        over, self.order, status, self.status = self.order, None, self.status, None
        return Ended(over, status)

    def ask_to_end(self) -> None:
        self.status = -15 if self.order is not None else None

    def stop(self, seconds: float) -> None:
        self.ask_to_end()


@dataclass
class World:
    """A vault with two points, of which the copy has the first."""

    copier: Copier = field(default_factory=Copier)
    points: dict[str, list[PointSummary]] = field(
        default_factory=lambda: {VAULT: [point(1), point(2)], "second": [point(1)]}
    )
    note: CopyNote | None = None
    now: datetime = NOW

    def __post_init__(self) -> None:
        self.copies = Copies(
            self.copier,
            RecordedEvents(),
            points=lambda vault: self.points[vault],
            note=lambda to: self.note,
            note_failure=lambda to, reason: self.fails(reason),
        )
        self.follow(policy())

    def follow(self, *policies: Policy) -> None:
        self.copies.follow(Simulated([]).settings(), policies)

    def fails(self, message: str, *, retryable: bool = True) -> None:
        failures = self.note.failures + 1 if self.note else 1
        self.note = CopyNote(self.now, failures, message, None, retryable)

    def tick(self, later: timedelta = timedelta(0)) -> None:
        self.now += later
        self.copies.tick(self.now)


def policy(**more: object) -> Policy:
    one = replace(a_policy(), copy_to=("second",), retry=Retry(3, 5 * MINUTE, 15 * MINUTE))
    return replace(one, **more)  # type: ignore[arg-type] # the names of its fields


@pytest.fixture
def world() -> World:
    return World()


def test_a_copy_that_is_behind_is_made_and_one_that_is_not_is_left_alone(world: World) -> None:
    world.tick()
    (order,) = world.copier.begun
    assert (order.vault, order.to, order.sources) == (VAULT, "second", ("web01",))

    world.points["second"].append(point(2))
    world.note = CopyNote(NOW, copied_at=NOW)
    world.copier.status = 0
    world.tick(MINUTE)

    assert world.copies.is_idle
    assert len(world.copier.begun) == 1
    assert world.copies.findings() == {}
    assert world.copies.failed == 0


def test_a_copy_that_failed_is_tried_again_with_growing_pauses_and_alarms(world: World) -> None:
    tried = []
    for _ in range(60):
        before = len(world.copier.begun)
        world.tick(MINUTE)
        if len(world.copier.begun) > before:
            tried.append(world.now)
            world.fails("the store is away")
            world.copier.status = 14
            world.copies.tick(world.now)
        assert ("second" in world.copies.findings()) is (len(tried) >= 3)

    pauses = [later - earlier for earlier, later in pairwise(tried)]
    assert pauses[:4] == [5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 15 * MINUTE]
    finding = world.copies.findings()["second"]
    assert finding.kind == objectives.UNCOPIED
    assert "the store is away" in finding.message
    world.note = CopyNote(world.now, copied_at=world.now)
    assert world.copies.findings() == {}


def test_what_cannot_be_mended_by_trying_again_alarms_at_once(world: World) -> None:
    world.tick()
    world.fails("volume is damaged", retryable=False)
    world.copier.status = 13
    world.tick()

    assert "second" in world.copies.findings()
    assert world.copies.failed == 1


@pytest.mark.parametrize("status", [-9, 1])
def test_a_copy_whose_process_left_no_word_counts_as_failed(world: World, status: int) -> None:
    world.tick()
    world.copier.status = status
    world.tick()

    assert world.note is not None
    assert world.note.failures == 1
    assert world.copies.is_idle


def test_a_copy_that_cannot_be_begun_is_not_begun_again_and_again(world: World) -> None:
    world.copier.refuses = True
    for _ in range(5):
        world.tick()

    assert world.note is not None
    assert world.note.failures == 1


def test_disabled_policies_and_those_without_copies_ask_for_nothing(world: World) -> None:
    world.follow(policy(enabled=False), policy(name="other", copy_to=()))
    world.fails("once", retryable=False)

    world.tick()

    assert world.copier.begun == []
    assert world.copies.findings() == {}


def test_only_newer_points_than_the_copys_newest_count_as_behind() -> None:
    there = [point(2), point(3), point(5, "shop")]
    lacking = behind(
        [*map(point, range(1, 6)), point(7, "shop"), point(9, "other")], there, {"web01", "shop"}
    )

    assert lacking == Behind(3, datetime(2026, 2, 4, tzinfo=UTC))
    assert behind(there, there, {"web01", "shop"}) == Behind()
