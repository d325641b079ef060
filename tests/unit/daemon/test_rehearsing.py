# SPDX-License-Identifier: Apache-2.0
"""When drills are begun, and what is made of how they end."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from snapvault.adapters.histories.sqlite import SqliteHistory
from snapvault.config.zones import zone_named
from snapvault.daemon.learning import LookNote
from snapvault.daemon.rehearsing import Rehearsals
from snapvault.errors import SourceError
from snapvault.model.drills import DrillSummary, Verdict
from snapvault.model.policy import DrillSpec, Objectives, Policy, Schedule
from snapvault.model.rehearsal import DrillStep, FilesDrill
from snapvault.model.runs import SourceKey
from snapvault.model.settings import Settings
from snapvault.ports.orders import Ended
from snapvault.ports.rehearsals import DrillOrder
from tests.support.events import RecordedEvents
from tests.support.simulation import VAULT, a_policy
from tests.support.simulation import World as Simulated

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)  # a Sunday
HOUR = timedelta(hours=1)
WEB01 = SourceKey(VAULT, "web01")


@dataclass
class Rehearser:
    """Begins everything, and ends when the test says so."""

    begun: list[DrillOrder] = field(default_factory=list)
    order: DrillOrder | None = None
    status: int | None = None
    refuses: bool = False
    asked: int = 0
    is_deaf: bool = False
    """It ends only when it is killed."""

    def start(self, order: DrillOrder) -> None:
        assert self.order is None
        if self.refuses:
            raise SourceError("no processes left")
        self.begun.append(order)
        self.order = order

    def ended(self) -> Ended[DrillOrder] | None:
        if self.order is None or self.status is None:
            return None
        over, self.order = Ended(self.order, self.status), None
        self.status = None
        return over

    def ask_to_end(self) -> None:
        self.asked += 1
        if self.order is not None and not self.is_deaf:
            self.status = -15

    def stop(self, seconds: float) -> None:
        if self.order is not None:
            self.status = -15

    def drills(self) -> list[str]:
        return [order.policy.name for order in self.begun if order.policy]


def rehearsed(name: str = "nightly", *, every: timedelta = 24 * HOUR, **more: Any) -> Policy:
    spec = DrillSpec((DrillStep("web01", FilesDrill()),), schedule=Schedule(every=every, **more))
    return replace(a_policy(), name=name, drill=spec)


def settings() -> Settings:
    vaults: Any = {VAULT: "nobody looks into it here"}
    return replace(Simulated([]).settings(), vaults=vaults)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[SqliteHistory]:
    opened = SqliteHistory(tmp_path / "history.sqlite")
    yield opened
    opened.close()


@dataclass
class World:
    history: SqliteHistory
    looked: LookNote
    now: datetime = START
    rehearser: Rehearser = field(default_factory=Rehearser)
    log: RecordedEvents = field(default_factory=RecordedEvents)

    def begin(self, *policies: Policy, is_round: bool = False) -> None:
        self.rehearsals = Rehearsals(
            self.history,
            self.rehearser,
            self.log,
            zone_of=zone_named,
            looked=self.looked,
            is_round=is_round,
        )
        self.rehearsals.follow(settings(), policies, self.now)

    def run(self, span: timedelta, *, status: int | None = 0) -> None:
        """Let time pass; a drill ends with this status a minute later (None: not at all)."""
        until = self.now + span
        while self.now < until:
            self.now += timedelta(minutes=1)
            if self.rehearser.order is not None:
                is_drill = self.rehearser.order.policy is not None
                self.rehearser.status = status if is_drill else 0
            self.rehearsals.tick(self.now)

    def summary(self, verdict: Verdict = Verdict.PASSED, *, source: SourceKey = WEB01) -> None:
        name = f"d{self.now:%d%H}"
        self.history.add_drill(
            DrillSummary(name, source, "files", "p", self.now, verdict, 1.0, 1.0, "")
        )


@pytest.fixture
def world(history: SqliteHistory, tmp_path: Path) -> World:
    return World(history, LookNote(tmp_path))


def test_a_drill_begins_when_it_is_due_and_not_again_before_the_next(world: World) -> None:
    world.begin(rehearsed())

    world.run(59 * HOUR)

    assert world.rehearser.drills() == ["nightly", "nightly"]
    assert world.rehearsals.next_starts()["nightly"] == datetime(2026, 3, 4, tzinfo=UTC)


def test_drills_of_several_policies_run_one_after_the_other(world: World) -> None:
    world.begin(rehearsed("a"), rehearsed("b"))
    world.run(12 * HOUR + timedelta(minutes=1), status=None)
    first = world.rehearser.drills()

    world.run(2 * HOUR)

    assert first == ["a"]
    assert world.rehearser.drills() == ["a", "b"]


def test_a_drill_that_was_missed_is_made_up_for_once(world: World) -> None:
    world.summary()
    world.now += 72 * HOUR

    world.begin(rehearsed())
    world.run(2 * HOUR)

    assert world.rehearser.drills() == ["nightly"]


def test_a_drill_of_one_source_by_hand_is_not_the_one_that_was_missed(world: World) -> None:
    steps = tuple(DrillStep(source, FilesDrill()) for source in ("web01", "db01"))
    policy = rehearsed()
    assert policy.drill is not None
    world.summary(source=SourceKey(VAULT, "db01"))
    world.now += 71 * HOUR
    world.summary()
    world.now += HOUR

    world.begin(replace(policy, drill=replace(policy.drill, steps=steps)))
    world.run(2 * HOUR)

    assert world.rehearser.drills() == ["nightly"]


def test_a_drill_is_not_made_up_for_where_the_policy_says_so(world: World) -> None:
    world.summary()
    world.now += 72 * HOUR

    world.begin(rehearsed(catch_up=False))
    world.run(2 * HOUR)

    assert world.rehearser.drills() == []


def test_what_is_new_in_a_policy_is_asked_for_from_now_on(world: World) -> None:
    world.history.set_seen(WEB01, START - 90 * 24 * HOUR)
    world.begin(a_policy())
    world.run(HOUR)

    world.rehearsals.follow(settings(), [rehearsed()], world.now)
    world.run(2 * HOUR)

    assert world.rehearser.drills() == []


def test_a_reload_that_changes_nothing_begins_nothing_again(world: World) -> None:
    world.begin(rehearsed())
    world.run(13 * HOUR)

    world.rehearsals.follow(settings(), [rehearsed()], world.now)
    world.run(HOUR)

    assert world.rehearser.drills() == ["nightly"]


@pytest.mark.parametrize("status", [-9, 1, 10])
def test_a_drill_that_dies_without_a_report_is_one_that_failed(world: World, status: int) -> None:
    world.begin(rehearsed())

    world.run(13 * HOUR, status=status)

    (drill,) = world.history.drills(WEB01)
    assert (drill.verdict, drill.kind) == (Verdict.FAILED, "files")
    assert str(abs(status)) in drill.reason
    assert world.rehearser.drills() == ["nightly"]


@pytest.mark.parametrize("status", [0, 17])
def test_what_a_drill_reported_itself_is_not_reported_again(world: World, status: int) -> None:
    world.begin(rehearsed())

    world.run(13 * HOUR, status=status)

    assert world.history.drills(WEB01) == []


def test_a_drill_that_cannot_be_begun_is_one_that_failed_and_not_tried_all_the_time(
    world: World,
) -> None:
    world.begin(rehearsed())
    world.rehearser.refuses = True

    world.run(14 * HOUR)

    (drill,) = world.history.drills(WEB01)
    assert "no processes left" in drill.reason


def test_a_drill_that_was_stopped_with_the_daemon_is_begun_again(world: World) -> None:
    world.summary()
    world.begin(rehearsed())
    world.run(12 * HOUR + timedelta(minutes=1), status=None)
    world.rehearsals.stop(world.now, 10.0)

    world.begin(rehearsed())
    world.run(timedelta(minutes=2), status=None)

    assert world.rehearser.drills() == ["nightly", "nightly"]
    assert len(world.history.drills(WEB01)) == 1


def test_reports_of_other_hosts_are_looked_at_now_and_then(world: World) -> None:
    asked = replace(a_policy(), objectives=Objectives(drill=timedelta(days=7)))
    world.begin(asked)

    world.run(12 * HOUR)

    assert [order.policy for order in world.rehearser.begun] == [None, None]
    assert {order.vaults for order in world.rehearser.begun} == {(VAULT,)}


def test_rounds_look_at_reports_of_other_hosts_no_more_often_than_the_daemon(world: World) -> None:
    asked = replace(a_policy(), objectives=Objectives(drill=timedelta(days=7)))
    for _ in range(12):
        world.begin(asked, is_round=True)
        world.run(timedelta(minutes=2))
        world.now += HOUR

    assert len(world.rehearser.begun) == 2


def test_a_note_of_a_look_that_is_damaged_or_of_another_vault_is_none(tmp_path: Path) -> None:
    note = LookNote(tmp_path)
    note.write(["one"], START)

    assert note.last(["one"]) == START
    assert note.last(["one", "other"]) is None
    (tmp_path / "drills-looked-for.json").write_bytes(b'{"at": 7, "vaults": ["one"]}')
    assert note.last(["one"]) is None


@pytest.mark.parametrize("is_deaf", [False, True])
def test_a_vault_that_does_not_answer_holds_up_no_drill(world: World, *, is_deaf: bool) -> None:
    world.rehearser.is_deaf = is_deaf
    world.begin(rehearsed(every=HOUR))

    for _ in range(61):
        world.now += timedelta(minutes=1)
        world.rehearsals.tick(world.now)

    assert world.rehearser.drills() == ["nightly"]
    assert world.log.warnings == [
        f'reports of drills could not be fetched within 15m from vault "{VAULT}"'
    ]


def test_a_drill_may_take_longer_than_a_look_at_reports(world: World) -> None:
    world.begin(rehearsed(every=24 * HOUR))

    world.run(14 * HOUR, status=None)

    assert world.rehearser.drills() == ["nightly"]
    assert world.rehearser.asked == 0


def test_drills_of_one_vault_do_not_keep_us_from_learning_of_another(world: World) -> None:
    hourly = rehearsed(every=HOUR)
    other = replace(rehearsed("other", every=365 * 24 * HOUR), vault="other")
    world.begin(hourly)
    both: Any = {VAULT: "one", "other": "another"}
    world.rehearsals.follow(replace(settings(), vaults=both), [hourly, other], world.now)

    world.run(12 * HOUR)

    learned = [order.vaults for order in world.rehearser.begun if order.policy is None]
    assert learned == [("offsite", "other")] * 2


def test_nobody_is_asked_where_no_policy_speaks_of_drills(world: World) -> None:
    world.begin(a_policy(), replace(rehearsed("off"), enabled=False))

    world.run(48 * HOUR)

    assert world.rehearser.begun == []
