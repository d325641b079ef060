# SPDX-License-Identifier: Apache-2.0
"""When prunes are begun, and what is made of how they end."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from snapvault.adapters.histories.sqlite import SqliteHistory
from snapvault.config.zones import zone_named
from snapvault.daemon.pruning import Prunes
from snapvault.errors import ConfigError, SourceError
from snapvault.model.policy import Policy, Schedule
from snapvault.model.prunes import PruneState, PruneSummary
from snapvault.model.runs import SourceKey
from snapvault.model.settings import Settings, VaultSettings
from snapvault.ports.orders import Ended
from snapvault.ports.pruning import PruneOrder
from tests.support.events import RecordedEvents
from tests.support.simulation import VAULT, a_policy
from tests.support.simulation import World as Simulated

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
AT_SIX = Schedule(cron="30 6 * * *", timezone="UTC")


@dataclass
class Pruner:
    """Begins everything; prunes end as the world says, a minute later."""

    begun: list[str] = field(default_factory=list)
    order: PruneOrder | None = None
    status: int | None = None
    refuses: bool = False

    def start(self, order: PruneOrder) -> None:
        assert self.order is None
        if self.refuses:
            raise SourceError("no processes left")
        self.begun.append(order.vault)
        self.order = order

    def ended(self) -> Ended[PruneOrder] | None:
        if self.order is None or self.status is None:
            return None
        over, self.order = Ended(self.order, self.status), None
        self.status = None
        return over

    def ask_to_end(self) -> None:
        self.status = -15 if self.order is not None else None

    def stop(self, seconds: float) -> None:
        self.ask_to_end()


def settings(**schedules: Schedule | None) -> Settings:
    given = schedules or {VAULT: AT_SIX}
    vaults = {
        name: VaultSettings(name, "file:///srv", ("r",), "s", prune=schedule)
        for name, schedule in given.items()
    }
    return replace(Simulated([]).settings(), vaults=vaults)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[SqliteHistory]:
    opened = SqliteHistory(tmp_path / "history.sqlite")
    yield opened
    opened.close()


@dataclass
class World:
    history: SqliteHistory
    now: datetime = START
    pruner: Pruner = field(default_factory=Pruner)
    log: RecordedEvents = field(default_factory=RecordedEvents)
    known: set[str] = field(default_factory=set)

    def begin(self, *policies: Policy, **schedules: Schedule | None) -> None:
        ids = count(1)
        self.pruner.order = self.pruner.status = None
        self.prunes = Prunes(
            self.history,
            self.pruner,
            self.log,
            zone_of=zone_named,
            host="host1",
            new_id=lambda: f"noted-{self.now:%d%H%M}-{next(ids)}",
            is_known=lambda vault: vault in self.known,
        )
        self.prunes.follow(settings(**schedules), policies or [a_policy()], self.now)

    def run(self, span: timedelta, *, ends: PruneState | int | None = PruneState.DONE) -> None:
        """Let time pass; a prune ends a minute later: so, or with a status and no word."""
        until = self.now + span
        while self.now < until:
            self.now += timedelta(minutes=1)
            if self.pruner.order is not None and ends is not None:
                self.end(ends)
            self.prunes.tick(self.now)

    def end(self, how: PruneState | int, **more: Any) -> None:
        if isinstance(how, int):
            self.pruner.status = how
            return
        assert self.pruner.order is not None
        self.pruner.status = {PruneState.DONE: 0, PruneState.REFUSED: 13}.get(how, 14)
        self.remember(how, vault=self.pruner.order.vault)

    def remember(self, how: PruneState, *, vault: str = VAULT) -> None:
        known = [each for each in self.history.prunes() if each.vault == vault]
        failures = known[0].failures + 1 if known and how is PruneState.FAILED else 1
        name = f"p-{vault}-{self.now:%d%H%M}"
        self.history.add_prune(
            PruneSummary(name, vault, self.now, 1.0, how, retryable=True, failures=failures)
        )


@pytest.fixture
def world(history: SqliteHistory) -> World:
    return World(history)


def test_a_vault_is_pruned_once_a_day(world: World) -> None:
    world.begin()

    world.run(3 * DAY)

    assert world.pruner.begun == [VAULT] * 3


def test_a_copy_is_pruned_as_soon_as_there_is_one(world: World) -> None:
    policy = replace(a_policy(), vault="a", copy_to=("b",))
    world.begin(policy, a=None, b=AT_SIX)
    world.run(DAY)
    assert world.pruner.begun == []

    world.known = {"b"}
    world.run(DAY)

    assert world.pruner.begun == ["b"]


def test_vaults_are_pruned_one_after_the_other_and_those_that_shall_not_be_never(
    world: World,
) -> None:
    policies = [replace(a_policy(), name=name, vault=name) for name in ("a", "b", "c", "unknown")]
    world.begin(*policies, a=AT_SIX, b=AT_SIX, c=None, unused=AT_SIX)

    world.run(DAY, ends=None)
    first = list(world.pruner.begun)
    world.run(HOUR)

    assert first == ["a"]
    assert world.pruner.begun == ["a", "b"]


def test_a_prune_that_was_missed_is_made_up_for_once(world: World) -> None:
    world.remember(PruneState.DONE)
    world.now += 5 * DAY

    world.begin()
    world.run(2 * HOUR)

    assert world.pruner.begun == [VAULT]


def test_rounds_prune_once_a_day_though_each_is_a_process_of_its_own(world: World) -> None:
    world.history.set_seen(SourceKey(VAULT, "web01"), START)
    for _ in range(48):
        world.begin()
        world.run(timedelta(minutes=3))
        world.now += timedelta(minutes=57)

    assert world.pruner.begun == [VAULT] * 2


def test_what_is_asked_for_anew_counts_from_now_on(world: World) -> None:
    world.history.set_seen(SourceKey(VAULT, "web01"), START - 90 * DAY)
    world.begin(**{VAULT: None})
    world.run(HOUR)

    world.prunes.follow(settings(), [a_policy()], world.now)
    world.run(HOUR)

    assert world.pruner.begun == []


def test_a_reload_that_changes_nothing_begins_nothing_again(world: World) -> None:
    world.begin()
    world.run(DAY)

    world.prunes.follow(settings(), [a_policy()], world.now)
    world.run(HOUR)

    assert world.pruner.begun == [VAULT]


def test_a_prune_that_failed_is_tried_again_a_few_times_a_day(world: World) -> None:
    world.begin()

    world.run(DAY, ends=PruneState.FAILED)

    assert world.pruner.begun == [VAULT] * 3
    assert world.prunes.failed == 1


def test_a_prune_that_refused_is_not_tried_again_before_the_next_day(world: World) -> None:
    world.begin()

    world.run(2 * DAY, ends=PruneState.REFUSED)

    assert world.pruner.begun == [VAULT] * 2
    assert world.prunes.failed == 2


@pytest.mark.parametrize("status", [-9, 1])
def test_a_prune_that_dies_without_a_word_is_one_that_failed(world: World, status: int) -> None:
    world.begin()

    world.run(DAY, ends=status)

    (summary,) = world.history.prunes()
    assert (summary.state, summary.failures) == (PruneState.FAILED, 3)
    assert str(abs(status)) in summary.reasons[0]


def test_a_prune_that_cannot_be_begun_is_one_that_failed_and_not_tried_all_the_time(
    world: World,
) -> None:
    world.begin()
    world.pruner.refuses = True

    world.run(DAY)

    (summary,) = world.history.prunes()
    assert "no processes left" in summary.reasons[0]
    assert len(world.log.warnings) == 1


def test_a_prune_that_was_stopped_with_the_daemon_is_begun_again(world: World) -> None:
    world.history.set_seen(SourceKey(VAULT, "web01"), START)
    world.begin()
    world.run(19 * HOUR, ends=None)
    world.prunes.stop(10.0)

    world.begin()
    world.run(timedelta(minutes=2), ends=None)

    assert world.pruner.begun == [VAULT] * 2
    assert world.history.prunes() == []


def test_a_clock_that_was_years_ahead_leaves_no_vault_alone(world: World) -> None:
    world.now += 900 * DAY
    world.begin()
    world.run(DAY)
    world.now -= 900 * DAY

    world.prunes.tick(world.now)
    world.run(DAY)

    assert world.pruner.begun == [VAULT] * 2


def test_a_history_that_cannot_be_read_holds_up_no_prune(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ConfigError("full")

    world.begin()
    for name in ("prunes", "add_prune", "seen"):
        monkeypatch.setattr(world.history, name, full)

    world.run(2 * DAY, ends=0)

    assert world.pruner.begun == [VAULT] * 2
