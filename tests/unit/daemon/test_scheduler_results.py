# SPDX-License-Identifier: Apache-2.0
"""What the scheduler makes of drills and verifies, and of runs that take too long."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from snapvault.errors import ConfigError
from snapvault.model.drills import DrillSummary, Verdict
from snapvault.model.notices import NoticeKind
from snapvault.model.objectives import DAMAGED, DRILL, DRILL_FAILED, MISSED, RPO, TROUBLED, UNPRUNED
from snapvault.model.policy import Objectives
from snapvault.model.prunes import PruneState, PruneSummary
from snapvault.model.runs import Run, RunState, SourceKey, Trigger
from snapvault.model.verifies import VerifySummary
from snapvault.ports.jobs import Order
from tests.support.simulation import START, VAULT, Outcome, World, a_policy

WEB01 = SourceKey(VAULT, "web01")
MINUTE = timedelta(minutes=1)
WEEKLY = Objectives(drill=timedelta(days=7))


def a_drill(world: World, verdict: Verdict = Verdict.PASSED, **changes: Any) -> None:
    """Have a drill end now."""
    base = DrillSummary(
        f"d-{world.now:%d%H%M}", WEB01, "boot", "p-1", world.now, verdict, 90.0, 60.0, "no login"
    )
    world.history.add_drill(replace(base, **changes))


def a_verify(world: World, findings: int = 0, **changes: Any) -> None:
    """Have a verify end now."""
    base = VerifySummary(
        f"v-{world.now:%d%H%M}", VAULT, None, "data", 100.0, world.now, 60.0, 3, findings, "bad"
    )
    world.history.add_verify(replace(base, **changes))


def a_prune(world: World, state: PruneState, **changes: Any) -> None:
    """Have a prune end now."""
    base = PruneSummary(f"p-{world.now:%d%H%M}", VAULT, world.now, 3.0, state)
    world.history.add_prune(replace(base, **changes))


def alarm(world: World, kind: str) -> str:
    """Return what an alarm that is up says."""
    (found,) = [each for each in world.history.alarms() if each.kind == kind]
    return found.message


# --- drills and verifies --------------------------------------------------------------------


def test_a_good_drill_ends_that_one_is_overdue() -> None:
    world = World([a_policy(objectives=WEEKLY)])
    world.run(days=8)
    overdue = world.up()

    a_drill(world)
    world.run(minutes=3)

    assert overdue == {(str(WEB01), DRILL)}
    assert world.up() == set()
    world.run(days=8)
    assert world.up() == {(str(WEB01), DRILL)}


def test_a_failed_drill_is_told_once_and_over_when_one_passes() -> None:
    world = World([a_policy()])
    world.run(days=1)

    a_drill(world, Verdict.FAILED)
    world.run(days=1)
    a_drill(world, Verdict.SKIPPED)
    world.run(days=1)
    still = world.up()
    a_drill(world)
    world.run(minutes=3)

    assert still == {(str(WEB01), DRILL_FAILED)}
    assert world.up() == set()
    assert world.told(NoticeKind.BREACH) == ['drill of "web01" failed']
    assert world.told(NoticeKind.RECOVERY) == ['drill of "web01" passes again']


def test_drills_are_known_after_a_restart_and_while_the_history_cannot_be_read() -> None:
    world = World([a_policy(objectives=WEEKLY)])
    world.run(days=6)
    a_drill(world)
    world.off(minutes=1)

    world.run(days=3)
    world.history.fault = ConfigError("full")
    world.run(days=1)

    assert (str(WEB01), DRILL) not in {(one.subject, one.kind) for one in world.history.all_alarms}


def test_damage_that_a_verify_found_is_told_once_and_over_when_one_is_clean() -> None:
    world = World([a_policy()])
    world.run(days=1)

    a_verify(world, 2)
    world.run(days=1)
    a_verify(world, share=10.0)
    world.run(days=1)
    still = world.up()
    a_verify(world)
    world.run(minutes=3)

    assert still == {(VAULT, DAMAGED)}
    assert world.up() == set()
    assert world.told(NoticeKind.BREACH) == ['a verify of vault "offsite" found damage']
    assert world.told(NoticeKind.RECOVERY) == ['vault "offsite" verifies clean again']
    assert {notice.vault for notice in world.notices if notice.alarm == DAMAGED} == {VAULT}


def test_a_prune_that_refuses_is_told_once_and_over_when_one_is_done() -> None:
    world = World([a_policy()])
    world.run(days=1)

    for reason in ("a point is gone", "another point is gone"):
        a_prune(world, PruneState.REFUSED, reasons=(reason, "and more"))
        world.run(days=1)
    a_prune(world, PruneState.FAILED, reasons=("no answer",), retryable=True, failures=1)
    world.run(days=1)
    still, said = world.up(), alarm(world, UNPRUNED)
    a_prune(world, PruneState.DONE)
    world.run(minutes=3)

    assert still == {(VAULT, UNPRUNED)}
    assert said == f'prune of vault "{VAULT}" refuses: another point is gone, and 1 more reason'
    assert world.up() == set()
    assert world.told(NoticeKind.BREACH) == [f'vault "{VAULT}" is not pruned']
    assert world.told(NoticeKind.RECOVERY) == [f'vault "{VAULT}" is pruned again']


def test_a_vault_that_is_not_as_it_was_left_is_told_once_and_over_when_it_is_again() -> None:
    wrong: list[str] = []
    world = World([a_policy()], extra={"troubles": lambda: {VAULT: wrong}})
    world.run(days=1)
    before = world.up()

    wrong.append('restore point "a1" was in the vault and is gone')
    world.run(minutes=3)
    wrong.append("and another one")
    world.run(days=1)
    still, said = world.up(), alarm(world, TROUBLED)
    wrong.clear()
    world.run(minutes=3)

    told = f'vault "{VAULT}": restore point "a1" was in the vault and is gone'
    assert before == set()
    assert still == {(VAULT, TROUBLED)}
    assert said == f"{told}, and 1 more problem"
    assert world.up() == set()
    assert world.told(NoticeKind.BREACH) == [f'vault "{VAULT}" is not as it was left']
    assert world.told(NoticeKind.RECOVERY) == [f'vault "{VAULT}" is as it should be again']
    assert {notice.vault for notice in world.notices if notice.alarm == TROUBLED} == {VAULT}


def test_damage_of_a_vault_that_no_policy_has_is_nobodys_alarm() -> None:
    world = World([a_policy()])

    a_verify(world, 2, vault="gone")
    world.run(minutes=3)

    assert world.up() == set()


# --- runs that take longer than their schedule leaves them ----------------------------------


def each_minute(minutes: float, **values: Any) -> World:
    """Build a source that is due each minute and whose runs take that long."""
    policy = a_policy(every=MINUTE, **values)
    return World([policy], outcome=lambda _: Outcome(minutes=minutes))


def test_runs_that_their_own_forerunner_kept_from_happening_are_told_once_as_such() -> None:
    world = each_minute(1.5)

    world.run(hours=1)

    assert len(world.told(NoticeKind.MISSED)) == 1
    assert world.told(NoticeKind.RECOVERY) == []
    assert [(one.kind, one.cleared) for one in world.history.all_alarms] == [(MISSED, None)]
    (missed,) = [run for run in world.runs() if run.state is RunState.MISSED]
    assert missed.missed + len(world.started) in range(59, 62)
    assert missed.due is not None
    assert f"{missed.due:%H:%M}" in alarm(world, MISSED)
    assert missed.reason is not None
    assert missed.reason in alarm(world, MISSED)
    (notice,) = [each for each in world.notices if each.kind is NoticeKind.MISSED]
    assert notice.message == (
        "the run due at 2026-03-02 12:03 UTC did not happen: its run of 12:02 UTC was still at work"
    )
    assert "takes longer than its schedule leaves it" in str(notice.hint)


def test_it_is_over_when_a_run_ends_before_the_next_is_due() -> None:
    minutes = [1.5] * 10
    world = World(
        [a_policy(every=MINUTE)],
        outcome=lambda _: Outcome(minutes=minutes.pop() if minutes else 0.5),
    )
    world.run(minutes=14)
    during = world.up()

    world.run(minutes=10)

    assert during == {(str(WEB01), MISSED)}
    assert world.up() == set()
    assert len(world.told(NoticeKind.RECOVERY)) == 1


def test_a_run_of_somebody_else_may_be_what_was_still_at_work() -> None:
    world = World([a_policy()])
    world.run(hours=1)
    by_hand = Run("by-hand", WEB01, "nightly", RunState.RUNNING, Trigger.MANUAL, world.now, pid=1)
    world.history.put(by_hand)
    world.alive = lambda _: True
    world.now += timedelta(seconds=1)
    world.scheduler._find_others(world.now)
    world.run(days=3)

    world.history.put(replace(by_hand, state=RunState.SUCCEEDED, ended=world.now))
    world.run(minutes=1)

    assert "its run of 13:00 UTC was still at work" in alarm(world, MISSED)


def test_a_night_without_power_is_not_blamed_on_a_run() -> None:
    world = World([a_policy()], outcome=lambda _: Outcome(minutes=10))
    world.run_until(START + timedelta(hours=14, minutes=5))

    world.off(days=3)

    assert "still at work" not in alarm(world, MISSED)


# --- objectives that are met for moments only -----------------------------------------------


def test_an_rpo_that_is_breached_each_time_is_told_as_one_until_it_is_met_for_good() -> None:
    minutes = [1.5] * 30

    def outcome(_: Order) -> Outcome:
        return Outcome(minutes=minutes.pop() if minutes else 0.5)

    rpo = timedelta(seconds=80)
    world = World([a_policy(every=MINUTE, objectives=Objectives(rpo=rpo))], outcome=outcome)
    world.run(minutes=40)
    told = [title for title in world.told() if "as often" in title or "in time again" in title]
    during, said = world.up(), alarm(world, RPO)

    world.run(minutes=20)

    often, again = "is not backed up as often as promised", "is backed up in time again"
    assert told == [f'"web01" {often}', f'"web01" {again}'] * 2 + [f'"web01" {often}']
    assert (str(WEB01), RPO) in during
    assert "breached" in said
    assert (str(WEB01), RPO) not in world.up()
    assert world.told(NoticeKind.RECOVERY).count(f'"web01" {again}') == 3


@pytest.mark.parametrize("nights", [2, 5])
def test_an_rpo_that_was_breached_once_is_over_with_the_next_restore_point(nights: int) -> None:
    world = World([a_policy(objectives=Objectives(rpo=timedelta(hours=26)))])
    world.run(days=3)
    world.off(days=nights)

    world.run(minutes=30)

    assert world.up() == set()
