# SPDX-License-Identifier: Apache-2.0
"""What a daemon leaves for other processes: as soon as it has changed, and once."""

import os
from datetime import UTC, datetime, timedelta

import pytest

from snapvault.daemon.handover import Handover
from snapvault.daemon.telling import Telling
from snapvault.errors import ConfigError
from snapvault.model.policy import Objectives
from tests.support.events import RecordedEvents
from tests.support.simulation import UNREACHABLE, Outcome, World, a_policy

FIRST = datetime(2026, 3, 3, 2, 0, tzinfo=UTC)


@pytest.fixture
def world() -> World:
    failed = [UNREACHABLE]
    world = World(
        [a_policy(objectives=Objectives(rpo=timedelta(hours=26)))],
        outcome=lambda _: Outcome(1, failed.pop() if failed else None),
    )
    world.run(minutes=1)
    return world


@pytest.fixture
def handover(world: World) -> Handover:
    return Handover(world.history, world.scheduler, Telling({}, RecordedEvents()))


def test_what_is_left_is_what_the_scheduler_goes_by(world: World, handover: Handover) -> None:
    handover.leave(world.policies)
    first = world.history.left
    world.run_until(FIRST + timedelta(minutes=2))
    handover.leave(world.policies)

    assert first is not None
    assert (first.pid, first.is_round) == (os.getpid(), False)
    (before,) = first.sources
    assert (before.next_start, before.retry_at, before.first_due) == (FIRST, None, FIRST)
    assert before.objectives.rpo == timedelta(hours=26)
    assert world.history.left is not None
    (after,) = world.history.left.sources
    assert after.retry_at == FIRST + timedelta(minutes=6)


def test_what_has_not_changed_is_not_written_again(world: World, handover: Handover) -> None:
    handover.leave(world.policies)
    calls = world.history.calls

    handover.leave(world.policies)

    assert world.history.calls == calls
    handover.forget()
    handover.leave(world.policies)
    assert world.history.calls == calls + 2


def test_what_could_not_be_written_is_written_later(world: World, handover: Handover) -> None:
    world.history.fault = ConfigError("full")
    handover.leave(world.policies)
    world.history.fault = None

    handover.leave(world.policies)

    assert world.history.left is not None


def test_at_its_end_a_daemon_leaves_nothing_and_a_round_what_it_goes_by(
    world: World, handover: Handover
) -> None:
    handover.leave(world.policies)

    handover.close(world.policies, is_round=True)
    of_round = world.history.left
    handover.close(world.policies, is_round=False)

    assert of_round is not None
    assert of_round.is_round
    assert world.history.left is None
