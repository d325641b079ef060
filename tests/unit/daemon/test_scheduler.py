# SPDX-License-Identifier: Apache-2.0
"""What the scheduler does, tells and remembers, in a world whose clock is moved."""

import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time
from itertools import pairwise
from pathlib import Path

import pytest

from snapvault.config.problems import Problem
from snapvault.errors import ConfigError, StoreUnavailableError
from snapvault.model.notices import NoticeKind
from snapvault.model.objectives import DAEMON, EMPTY, FAILED, MISSED, NEVER, POLICY, RPO
from snapvault.model.policy import Objectives, Retry, Window
from snapvault.model.runs import Run, RunState, SourceKey, Trigger
from snapvault.ports.jobs import Order
from tests.support.simulation import (
    BROKEN,
    HELD,
    START,
    UNREACHABLE,
    Killed,
    Outcome,
    World,
    a_policy,
)

WEB01 = SourceKey("offsite", "web01")
SUBJECT = str(WEB01)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
FIRST_DUE = datetime(2026, 3, 3, 2, 0, tzinfo=UTC)
DAILY = Objectives(rpo=26 * HOUR)


def failing(number: int, failure: object = UNREACHABLE) -> dict[str, object]:
    """Have the first jobs of a world fail, and those after them succeed."""
    left = [failure] * number

    def outcome(_: Order) -> Outcome:
        return Outcome(minutes=1, failure=left.pop()) if left else Outcome()  # type: ignore[arg-type]

    return {"outcome": outcome}


def story(world: World, source: str = "web01") -> list[tuple[str, str, int]]:
    """Return state, trigger and attempt of each run."""
    return [(run.state.value, run.trigger.value, run.attempt) for run in world.runs(source)]


# --- the plain nights -----------------------------------------------------------------------


def test_a_new_source_waits_for_its_schedule_and_then_runs_every_night() -> None:
    world = World([a_policy()])

    world.run(days=3)

    assert [run.due for run in world.runs()] == [FIRST_DUE + n * DAY for n in range(3)]
    assert all(run.started == run.due and run.ended for run in world.runs())
    assert world.told() == ['backup of "web01" started', 'backup of "web01" succeeded'] * 3
    assert world.up() == set()


def test_a_job_gets_the_policy_the_settings_and_the_source() -> None:
    orders: list[Order] = []
    policy = a_policy()

    def outcome(order: Order) -> Outcome:
        orders.append(order)
        return Outcome()

    world = World([policy], outcome=outcome)

    world.run(days=1)

    (order,) = orders
    assert (order.policy, order.source) == (policy, policy.sources[0])
    assert order.run.state is RunState.RUNNING
    assert order.settings == world.settings()


def test_sources_of_disabled_policies_and_of_those_without_a_schedule_do_not_run() -> None:
    world = World(
        [a_policy("off", "a", enabled=False), replace(a_policy("by-hand", "b"), schedule=None)]
    )

    world.run(days=2)

    assert world.started == []
    assert world.scheduler.next_starts() == {}


def test_a_source_without_a_schedule_does_not_keep_the_scheduler_awake_after_a_jump() -> None:
    world = World([replace(a_policy(), schedule=None)])
    world.run(minutes=1)
    world.set_clock(hours=-3)
    world.scheduler.tick(world.now)

    assert world.scheduler.tick(world.now + timedelta(seconds=1)) == 5


def test_a_due_that_comes_while_its_run_goes_on_is_run_right_after() -> None:
    minutes = iter([200.0, 1.0, 1.0, 1.0, 1.0])
    world = World(
        [a_policy(every=HOUR)], now=START + MINUTE, outcome=lambda _: Outcome(next(minutes))
    )

    world.run(hours=5, minutes=30)

    runs = [(run.state.value, run.due.hour if run.due else None) for run in world.runs()]
    # Started at 13:00, it went on until 16:20: what was due at 14:00 and 15:00 is reported.
    assert sorted(runs, key=lambda run: run[1] or 0) == [
        ("succeeded", 13),
        ("missed", 15),
        ("succeeded", 16),
        ("succeeded", 17),
    ]
    (late,) = [run for run in world.runs() if run.due and run.due.hour == 16]
    assert late.started == datetime(2026, 3, 2, 16, 20, tzinfo=UTC)
    assert late.trigger is Trigger.SCHEDULE


def test_a_tick_with_nothing_due_costs_next_to_nothing_and_asks_nobody() -> None:
    world = World([a_policy("nightly", *(f"s{n:03}" for n in range(200)), objectives=DAILY)])
    world.run(minutes=10)
    calls, reads = world.history.calls, world.reads
    spent = []

    for _ in range(120):
        world.now += timedelta(seconds=5)
        begun = time.thread_time()  # whatever else has the processor meanwhile
        world.scheduler.tick(world.now)
        spent.append(time.thread_time() - begun)

    # Now and then it asks for drills, verifies and prunes; 200 sources ask nothing.
    assert world.history.calls - calls <= 5 * 4
    assert world.reads == reads
    assert sorted(spent)[60] < 0.002


# --- limits and order -----------------------------------------------------------------------


def test_two_hundred_due_at_once_keep_to_the_limits_and_go_by_their_objectives() -> None:
    tight = a_policy(
        "tight", *(f"t{n:03}" for n in range(100)), objectives=Objectives(rpo=25 * HOUR)
    )
    wide = a_policy(
        "wide", *(f"w{n:03}" for n in range(100)), objectives=Objectives(rpo=100 * HOUR), max_jobs=2
    )
    world = World([tight, wide], max_jobs=5, now=FIRST_DUE - 10 * MINUTE)
    for number, policy in enumerate((tight, wide)):
        for spec in policy.sources:
            age = 20 * HOUR + (int(spec.name[1:]) + number) * MINUTE
            world.add_point(SourceKey("offsite", spec.name), START - age)

    world.run(hours=6)

    assert Counter(run.key.source for run in world.started) == Counter(
        spec.name for policy in (tight, wide) for spec in policy.sources
    )
    assert world.most == 5
    assert world.most_of["wide"] == 2
    by_name = [run.key.source for run in world.started]
    assert by_name[:100] == [f"t{n:03}" for n in reversed(range(100))]
    assert by_name[100:] == [f"w{n:03}" for n in reversed(range(100))]


def test_a_full_policy_does_not_hold_up_others() -> None:
    first = a_policy("first", "a1", "a2", "a3", max_jobs=1)
    second = a_policy("second", "b1")
    world = World([first, second], max_jobs=3)

    world.run(hours=14, minutes=1)

    assert {run.key.source for run in world.started} == {"a1", "b1"}


def test_one_that_fails_for_long_at_each_of_its_dues_does_not_keep_others_from_their_turn() -> None:
    def outcome(order: Order) -> Outcome:
        return Outcome(70, BROKEN) if order.run.key.source == "stuck" else Outcome(20)

    world = World([a_policy("hourly", "stuck", "a", "b", every=HOUR)], max_jobs=1, outcome=outcome)

    world.run(hours=24)

    done = Counter(run.key.source for run in world.started)
    assert min(done["a"], done["b"]) > 5
    assert done["stuck"] > 5


# --- what was missed ------------------------------------------------------------------------


def test_five_missed_nights_are_caught_up_with_once_and_the_others_reported_once() -> None:
    world = World([a_policy()])
    world.run(days=1)
    world.off(days=5)

    world.run(minutes=10)

    caught_up, missed = world.runs()[-1], world.runs()[-2]
    if caught_up.state is RunState.MISSED:
        caught_up, missed = missed, caught_up
    assert (caught_up.trigger, caught_up.due) == (Trigger.CATCH_UP, FIRST_DUE + 5 * DAY)
    assert (missed.state, missed.missed, missed.due) == (
        RunState.MISSED,
        4,
        FIRST_DUE + 4 * DAY,
    )
    assert world.told(NoticeKind.MISSED) == ['4 backups of "web01" were missed']
    assert world.told(NoticeKind.RECOVERY) == ['backup of "web01" happens again']
    assert world.up() == set()


def test_without_catching_up_a_missed_night_is_reported_and_stays_alarming() -> None:
    world = World([a_policy(schedule={"catch_up": False})])
    world.run(days=1)
    world.off(days=1)

    world.run(hours=1)

    assert story(world)[-1] == ("missed", "schedule", 1)
    assert world.up() == {(SUBJECT, MISSED)}
    world.run(days=1)
    assert world.up() == set()


def test_a_clock_that_jumps_by_years_is_survived() -> None:
    world = World([a_policy(every=HOUR)])
    world.run(hours=2, minutes=10)
    world.set_clock(days=4000)

    world.run(hours=2, minutes=10)

    (notice,) = [each for each in world.notices if each.kind is NoticeKind.MISSED]
    assert "at least 1000" in notice.title
    assert story(world)[-1] == ("succeeded", "schedule", 1)


def test_a_clock_set_back_an_hour_does_not_run_the_night_twice() -> None:
    world = World([a_policy()])
    world.run_until(FIRST_DUE + 30 * MINUTE)
    world.set_clock(hours=-1)

    world.run(days=1, hours=1)

    assert [run.due for run in world.runs()] == [FIRST_DUE, FIRST_DUE + DAY]
    assert world.told(NoticeKind.MISSED) == []


def test_a_clock_that_was_a_day_ahead_silences_nobody_and_repeats_nothing() -> None:
    world = World([a_policy("nightly", "a"), a_policy("hourly", "b", every=HOUR)])
    world.run(days=1)
    world.set_clock(days=1)
    world.run(minutes=10)
    world.set_clock(days=-1)
    before, set_back = len(world.started), world.now

    world.run(days=2, hours=12)

    nightly = [run for run in world.runs("a") if run.state is RunState.SUCCEEDED]
    assert len({run.due for run in nightly}) == len(nightly) == 3
    hourly = [run for run in world.started[before:] if run.key.source == "b"]
    gaps = {later.started - earlier.started for earlier, later in pairwise(hourly)}
    assert gaps == {HOUR}
    assert hourly[0].started - set_back <= HOUR


def test_a_clock_that_jumps_forward_and_back_and_forward_reports_nothing_twice() -> None:
    world = World([a_policy(every=HOUR)], now=START + 10 * MINUTE)
    world.run(hours=10)
    world.set_clock(hours=-5)
    world.run(seconds=30)
    world.set_clock(hours=5)

    world.run(hours=2)

    assert world.told(NoticeKind.MISSED) == []
    assert len({run.due for run in world.runs()}) == len(world.runs()) == 12


def test_two_daylight_saving_nights_have_one_run_each() -> None:
    for change in (datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)):
        policy = a_policy(cron="30 2 * * *", schedule={"timezone": "Europe/Paris"})
        world = World([policy], now=change)

        world.run(days=2)

        assert len(world.runs()) == 2
        assert world.told(NoticeKind.MISSED) == []


# --- failures -------------------------------------------------------------------------------


def test_a_failed_run_is_tried_again_and_nobody_is_alarmed_if_that_helps() -> None:
    world = World([a_policy()], **failing(2))  # type: ignore[arg-type]

    world.run(days=1)

    assert story(world) == [
        ("failed", "schedule", 1),
        ("failed", "retry", 2),
        ("succeeded", "retry", 3),
    ]
    assert [run.started for run in world.runs()] == [
        FIRST_DUE,
        FIRST_DUE + 6 * MINUTE,  # a minute of work, five of patience
        FIRST_DUE + 17 * MINUTE,
    ]
    failures = [each for each in world.notices if each.kind is NoticeKind.FAILURE]
    assert [each.retry_at for each in failures] == [
        FIRST_DUE + 6 * MINUTE,
        FIRST_DUE + 17 * MINUTE,
    ]
    assert world.history.all_alarms == []


def test_a_run_that_fails_for_good_alarms_until_the_next_success() -> None:
    world = World([a_policy()], **failing(3))  # type: ignore[arg-type]
    world.add_point(WEB01, START - HOUR)
    world.run(days=1)

    assert world.up() == {(SUBJECT, FAILED)}
    last = [each for each in world.notices if each.kind is NoticeKind.FAILURE][-1]
    assert (last.retry_at, last.title) == (None, 'backup of "web01" failed')
    world.run(days=1)
    assert world.up() == set()
    assert world.told(NoticeKind.RECOVERY) == ['backup of "web01" works again']


def test_a_failure_that_trying_again_cannot_mend_is_told_at_once() -> None:
    world = World([a_policy()], **failing(1, BROKEN))  # type: ignore[arg-type]
    world.add_point(WEB01, START - HOUR)

    world.run_until(FIRST_DUE + 2 * MINUTE)

    (notice,) = [each for each in world.notices if each.kind is NoticeKind.FAILURE]
    assert (notice.message, notice.hint, notice.retry_at) == (BROKEN.message, BROKEN.hint, None)
    assert world.up() == {(SUBJECT, FAILED)}
    world.run(hours=5)
    assert len(world.runs()) == 1


def test_a_source_held_by_a_manual_run_is_tried_again_without_a_word() -> None:
    world = World([a_policy()], **failing(6, HELD))  # type: ignore[arg-type]

    world.run(days=1)

    assert story(world)[-1] == ("succeeded", "retry", 1)
    assert world.told(NoticeKind.FAILURE) == []


def test_an_attempt_that_waits_survives_a_restart() -> None:
    world = World([a_policy()], **failing(2))  # type: ignore[arg-type]
    world.run_until(FIRST_DUE + 2 * MINUTE)
    world.off(minutes=1)

    world.run(hours=1)

    assert [run.attempt for run in world.runs()] == [1, 2, 3]
    assert world.runs()[1].started == FIRST_DUE + 6 * MINUTE


def test_an_attempt_that_misses_its_window_is_given_up_and_told() -> None:
    policy = a_policy(
        schedule={"window": Window(clock_time(1), clock_time(6))},
        retry=Retry(attempts=9, delay=3 * HOUR, max_delay=3 * HOUR),
    )
    world = World([policy], **failing(1))  # type: ignore[arg-type]
    world.add_point(WEB01, START - HOUR)
    world.run_until(FIRST_DUE + 2 * MINUTE)
    world.off(hours=6)

    world.run(minutes=1)

    assert world.up() == {(SUBJECT, FAILED)}
    assert [each.retry_at for each in world.notices if each.kind is NoticeKind.FAILURE][-1] is None


# --- objectives -----------------------------------------------------------------------------


def test_a_breached_objective_is_told_once_and_so_is_its_end() -> None:
    world = World([a_policy(objectives=DAILY)], **failing(3))  # type: ignore[arg-type]
    world.add_point(WEB01, START - HOUR)

    world.run(hours=25)
    assert (SUBJECT, RPO) not in world.up()
    world.run(minutes=1)
    assert (SUBJECT, RPO) in world.up()
    world.run(days=2)

    assert [each.alarm for each in world.notices if each.kind is NoticeKind.BREACH] == [RPO]
    assert world.told(NoticeKind.RECOVERY).count('"web01" is backed up in time again') == 1
    assert world.up() == set()


def test_a_first_backup_at_work_is_not_blamed_for_not_being_there() -> None:
    world = World([a_policy(objectives=Objectives())], outcome=lambda _: Outcome(minutes=300))

    world.run_until(FIRST_DUE + 4 * HOUR)

    assert world.up() == set()


def test_a_source_that_never_gets_its_backup_alarms() -> None:
    world = World([a_policy()], outcome=lambda _: Outcome(1, BROKEN))

    world.run_until(FIRST_DUE + 10 * MINUTE)

    assert world.up() == {(SUBJECT, FAILED), (SUBJECT, NEVER)}


def test_a_run_at_work_ends_no_alarm_of_a_source_that_was_never_backed_up() -> None:
    world = World([a_policy(every=HOUR)], outcome=lambda _: Outcome(30, BROKEN))

    world.run(hours=12)

    assert world.up() == {(SUBJECT, FAILED), (SUBJECT, NEVER)}
    assert world.told(NoticeKind.RECOVERY) == []


def test_a_backup_by_hand_ends_the_alarms() -> None:
    world = World([a_policy(objectives=DAILY)], outcome=lambda _: Outcome(1, BROKEN))
    world.run(days=3)
    assert world.up() == {(SUBJECT, FAILED), (SUBJECT, NEVER)}
    world.add_point(WEB01, world.now)

    world.run(minutes=12)

    assert world.up() == set()


def test_a_catalog_that_cannot_be_read_changes_nothing() -> None:
    world = World([a_policy(objectives=DAILY)])
    world.run(days=1)
    world.unreadable = ConfigError("could not read the catalog")

    world.run(hours=12)

    assert world.up() == set()
    assert "points.unreadable" in world.events.warnings


# --- policies that come and go --------------------------------------------------------------


def test_a_reload_leaves_running_jobs_alone() -> None:
    world = World([a_policy()], outcome=lambda _: Outcome(minutes=60))
    world.run_until(FIRST_DUE + MINUTE)

    world.reload(a_policy("other", "db01"))
    world.run(hours=2)

    assert story(world) == [("succeeded", "schedule", 1)]
    assert 'backup of "web01" succeeded' in world.told()


def test_a_source_added_by_a_reload_waits_for_its_schedule() -> None:
    world = World([a_policy()])
    world.run(hours=1)

    world.reload(a_policy(), a_policy("hourly", "db01", every=HOUR))
    world.run(hours=1, minutes=30)

    assert len(world.runs("db01")) == 1


def test_another_schedule_does_not_count_what_it_would_have_missed() -> None:
    world = World([a_policy()])
    world.run(days=1, minutes=30)

    world.reload(a_policy(every=HOUR))
    world.run(minutes=20)

    assert len(world.runs()) == 1
    assert world.told(NoticeKind.MISSED) == []
    world.run(minutes=20)
    assert len(world.runs()) == 2


def test_a_start_after_a_kill_does_not_count_what_another_schedule_would_have_missed() -> None:
    world = World([a_policy()])
    world.run(days=1, hours=9)
    world.policies = [a_policy(every=HOUR)]

    world.off(minutes=1)
    world.run(minutes=20)

    assert len(world.runs()) == 1
    assert world.told(NoticeKind.MISSED) == []
    world.off(hours=3)  # with the same schedule again
    world.run(minutes=1)
    assert world.told(NoticeKind.MISSED) != []


def test_another_jitter_or_another_zone_by_the_same_name_is_no_other_schedule() -> None:
    world = World([a_policy()])
    world.run(days=1)
    world.policies = [a_policy(schedule={"jitter": 5 * MINUTE})]

    world.off(days=2)
    world.run(hours=1)

    assert [run.trigger for run in world.runs()][-1] is Trigger.CATCH_UP


@pytest.mark.parametrize("how", ["removed", "disabled", "by hand"])
@pytest.mark.parametrize("noticed", ["reload", "start"])
def test_a_source_that_comes_back_was_not_missed_while_it_was_away(how: str, noticed: str) -> None:
    stays = a_policy("other", "db01")
    away = {
        "removed": [stays],
        "disabled": [stays, replace(a_policy(), enabled=False)],
        "by hand": [stays, replace(a_policy(), schedule=None)],
    }[how]
    world = World([stays, a_policy()])
    world.run(days=1)
    if noticed == "reload":
        world.reload(*away)
    else:
        world.policies = away
        world.off(minutes=1)
    world.run(days=3)

    world.policies = [stays, a_policy()]
    world.off(minutes=1)
    world.run(hours=1)

    assert world.told(NoticeKind.MISSED) == []
    assert len(world.runs()) == 1


def test_a_source_whose_policy_was_broken_for_days_is_made_up_for() -> None:
    stays = a_policy("other", "db01")
    problem = Problem(Path("/etc/snapvault/policies/nightly.yaml"), 'unknown key "shedule"')
    world = World([stays, a_policy()])
    world.run(days=1)
    world.policies, world.problems = [stays], [problem]
    world.off(minutes=1)
    world.run(days=3)

    world.policies, world.problems = [stays, a_policy()], []
    world.off(minutes=1)
    world.run(hours=1)

    assert [run.state for run in world.runs()][-1] is RunState.SUCCEEDED
    assert world.runs()[-1].trigger is Trigger.CATCH_UP


def test_a_failed_run_is_tried_again_under_another_schedule_or_told() -> None:
    for schedule, told in (("0 3 * * *", False), ("5 2 * * *", True)):
        world = World([a_policy(retry=Retry(delay=20 * MINUTE))], **failing(1))  # type: ignore[arg-type]
        world.run_until(FIRST_DUE + 10 * MINUTE)
        world.reload(a_policy(cron=schedule, retry=Retry(delay=20 * MINUTE)))
        world.run(minutes=30)

        given_up = [each for each in world.notices if each.kind is NoticeKind.FAILURE][1:]
        assert len(given_up) == told
        assert (story(world)[-1] == ("succeeded", "retry", 2)) is not told


def test_a_restart_in_order_does_not_count_what_another_schedule_would_have_missed() -> None:
    world = World([a_policy()])
    world.run(days=1, minutes=30)
    world.scheduler.stop(world.now, 60)
    world.policies = [a_policy(every=HOUR)]

    world.off(minutes=1)
    world.run(minutes=20)

    assert len(world.runs()) == 1
    assert world.told(NoticeKind.MISSED) == []


def test_the_alarms_of_a_source_that_left_end_without_a_word() -> None:
    world = World([a_policy()], outcome=lambda _: Outcome(1, BROKEN))
    world.run(days=1)

    world.reload(a_policy("other", "db01"))

    assert world.up() == set()
    assert world.told(NoticeKind.RECOVERY) == []


def test_a_broken_policy_file_alarms_until_it_is_mended() -> None:
    problem = Problem(Path("/etc/snapvault/policies/nightly.yaml"), "no such key", "Remove it.")
    world = World([a_policy()])
    world.run(minutes=1)

    world.reload(a_policy(), problems=[problem])
    world.reload(a_policy(), problems=[problem])
    assert world.up() == {("nightly.yaml", POLICY)}
    world.reload(a_policy())

    assert world.up() == set()
    assert world.told() == ['"nightly.yaml" cannot be used', '"nightly.yaml" can be used again']


@pytest.mark.parametrize(
    ("policies", "subject"),
    [
        ([], "policies"),
        ([a_policy(enabled=False)], "policies"),
        ([a_policy(), replace(a_policy("hollow"), sources=())], "hollow"),
    ],
    ids=["no policy", "none enabled", "one without sources"],
)
def test_policies_that_back_up_nothing_alarm(policies: list[object], subject: str) -> None:
    world = World(policies)  # type: ignore[arg-type]

    world.run(minutes=1)

    assert world.up() == {(subject, EMPTY)}


def test_of_two_policies_with_one_source_the_first_has_it() -> None:
    world = World([a_policy("a"), a_policy("b", "web01", every=HOUR)])

    world.run(days=1)

    assert {run.policy for run in world.runs()} == {"a"}
    assert world.up() == {("b", POLICY)}


def test_a_policy_whose_zone_is_unknown_alarms_and_the_others_go_on() -> None:
    wrong = a_policy("wrong", "db01", schedule={"timezone": "Mars/Olympus"})
    world = World([wrong, a_policy()])

    world.run(days=1)

    assert ("wrong", POLICY) in world.up()
    assert len(world.runs()) == 1


# --- a history that is lost -----------------------------------------------------------------


@pytest.mark.parametrize("since", [timedelta(0), 3 * HOUR, 20 * HOUR])
def test_backups_go_on_without_a_history_and_are_written_down_once_it_is_back(
    since: timedelta,
) -> None:
    world = World([a_policy()])
    if since:
        world.run_until(START + since)
    world.history.fault = ConfigError("the disk is full")

    world.run_until(START + 3 * DAY)
    assert len(world.started) == 3
    assert world.told(NoticeKind.BREACH) == ["the daemon has a problem"]
    assert world.told().count('backup of "web01" succeeded') == 3
    world.history.fault = None
    world.run(minutes=5)

    assert [run.state for run in world.runs() if run.due][-1] is RunState.SUCCEEDED
    assert world.told(NoticeKind.RECOVERY) == ["the daemon works again"]
    assert world.up() == set()
    assert [alarm.kind for alarm in world.history.all_alarms] == [DAEMON]


def test_what_a_lost_history_needs_to_know_is_written_again() -> None:
    world = World(
        [a_policy("nightly", "web01", "db01", retry=Retry(delay=HOUR), objectives=DAILY)],
        outcome=lambda order: Outcome(10, UNREACHABLE if order.run.key == WEB01 else None),
        now=FIRST_DUE - HOUR,
    )
    world.add_point(WEB01, FIRST_DUE - 2 * DAY)
    world.run(hours=1, minutes=11)
    before, up = world.history, world.up()
    assert (SUBJECT, RPO) in up
    world.history.by_id, world.history.marks, world.history.schedule_of = {}, {}, {}
    world.history.all_alarms = []

    world.scheduler.remember_all()

    assert world.up() == up
    assert set(before.handled().values()) == {FIRST_DUE}
    world.off(minutes=1)
    world.outcome = lambda _: Outcome()
    world.run(hours=2)
    assert story(world) == [("failed", "schedule", 1), ("succeeded", "retry", 2)]


# --- stops and starts -----------------------------------------------------------------------


def test_a_stop_remembers_what_was_cut_off_and_the_next_start_resumes_it() -> None:
    world = World([a_policy()], outcome=lambda _: Outcome(minutes=60))
    world.run_until(FIRST_DUE + 10 * MINUTE)

    world.scheduler.stop(world.now, 60)
    assert story(world) == [("interrupted", "schedule", 1)]
    world.off(minutes=1)
    world.run(hours=2)

    assert story(world) == [("interrupted", "schedule", 1), ("succeeded", "retry", 1)]
    assert world.up() == set()


def test_a_stop_at_night_wakes_nobody_and_uses_up_no_attempt() -> None:
    world = World([a_policy(retry=Retry(attempts=1))], outcome=lambda _: Outcome(minutes=60))
    world.run_until(FIRST_DUE + 10 * MINUTE)

    world.scheduler.stop(world.now, 60)
    world.off(seconds=20)
    world.run(hours=2)

    cut_off, resumed = world.runs()
    assert cut_off.stopped
    assert cut_off.failure is not None
    assert "stopped with the daemon" in cut_off.failure.message
    assert resumed.started < cut_off.started + 11 * MINUTE
    assert resumed.state is RunState.SUCCEEDED
    assert {notice.kind for notice in world.notices} == {NoticeKind.START, NoticeKind.SUCCESS}
    assert world.history.all_alarms == []


def test_a_run_that_a_stop_cut_off_and_that_cannot_go_on_is_told_at_the_next_start() -> None:
    window = Window(clock_time(2), clock_time(3))
    world = World([a_policy(schedule={"window": window})], outcome=lambda _: Outcome(minutes=60))
    world.run_until(FIRST_DUE + 10 * MINUTE)
    world.scheduler.stop(world.now, 60)
    assert world.told(NoticeKind.FAILURE) == []

    world.off(hours=5)

    assert world.told(NoticeKind.FAILURE) == ['backup of "web01" failed']
    assert (SUBJECT, FAILED) in world.up()


def test_a_run_that_failed_just_before_a_stop_is_told() -> None:
    world = World([a_policy()], outcome=lambda _: Outcome(10, BROKEN))
    world.run_until(FIRST_DUE + 9 * MINUTE)
    world.now = FIRST_DUE + 10 * MINUTE

    world.scheduler.stop(world.now, 60)

    assert world.told(NoticeKind.FAILURE) == ['backup of "web01" failed']


def test_a_run_that_outlives_the_daemon_holds_its_source_until_it_ends() -> None:
    world = World([a_policy(every=HOUR)], outcome=lambda _: Outcome(minutes=10_000))
    world.run(hours=1, minutes=10)
    (run,) = world.runs()
    living = {run.id}
    world.alive = lambda each: each.id in living
    world.off(minutes=1)
    world.run(hours=3)
    assert len(world.started) == 1

    point = world.add_point(WEB01, world.now)
    done = replace(
        run, state=RunState.SUCCEEDED, ended=world.now, point=point.point, taken_at=point.taken_at
    )
    world.history.put(done)
    living.clear()
    world.run(minutes=2)

    assert len(world.started) == 2
    assert 'backup of "web01" succeeded' in world.told()


def test_a_manual_run_holds_its_source_and_its_death_is_recorded() -> None:
    world = World([a_policy()])
    manual = Run("m1", WEB01, "nightly", RunState.RUNNING, Trigger.MANUAL, START - MINUTE, pid=77)
    world.history.put(manual)
    living = {"m1"}
    world.alive = lambda each: each.id in living
    world.run(hours=15)
    assert world.started == []

    living.clear()
    world.run(minutes=2)

    assert [run.state.value for run in world.runs()] == ["interrupted", "running"]
    assert world.told(NoticeKind.FAILURE) == []


def test_a_source_that_somebody_has_begun_by_hand_meanwhile_is_not_started_in_vain() -> None:
    world = World([a_policy(cron="30 2 * * *")], outcome=lambda _: Outcome(failure=HELD))
    world.alive = lambda run: run.id == "m1"
    world.run_until(FIRST_DUE + 29 * MINUTE)
    manual = Run("m1", WEB01, "nightly", RunState.RUNNING, Trigger.MANUAL, world.now, pid=77)
    world.history.put(manual)

    world.run(minutes=10)

    assert world.started == []
    assert world.told() == []
    world.outcome = lambda _: Outcome()
    world.history.put(replace(manual, state=RunState.FAILED, ended=world.now, failure=BROKEN))
    world.run(minutes=2)
    assert len(world.started) == 1


def test_one_round_runs_what_is_due_and_waits_for_nothing_else() -> None:
    policies = [a_policy("nightly", *(f"s{n}" for n in range(5)))]
    world = World(policies, max_jobs=2)
    world.run(hours=1)
    world.off(days=1)

    while not world.scheduler.round_over():
        world.now += MINUTE
        world.scheduler.tick(world.now)

    assert len(world.started) == 5
    assert all(world.runs(f"s{n}")[-1].state is RunState.SUCCEEDED for n in range(5))


# --- kill -9 --------------------------------------------------------------------------------


def rough_days(world: World) -> None:
    """Five nights: one with a network that fails, two missed, and one with a broken disk."""
    after_a_kill(world, FIRST_DUE + DAY - HOUR)
    world.now = FIRST_DUE + 3 * DAY - HOUR
    world.boot()
    after_a_kill(world, START + 5 * DAY)


def after_a_kill(world: World, end: datetime) -> None:
    """Let time go by; whenever the scheduler is killed, start another one."""
    while True:
        try:
            world.run_until(end)
        except Killed:
            world.boot()
        else:
            return


def rough_world() -> World:
    def outcome(order: Order) -> Outcome:
        night = (order.run.due or START) - FIRST_DUE
        if night < DAY:
            return Outcome(1, UNREACHABLE if order.run.attempt < 2 else None)
        if order.run.key.source == "db01" and night < 3 * DAY:
            return Outcome(1, BROKEN)
        return Outcome(5)

    return World([a_policy("nightly", "web01", "db01")], outcome=outcome)


def count_writes() -> list[str]:
    world = rough_world()
    written: list[str] = []
    world.history.after_write = written.append
    rough_days(world)
    return written


WRITES = count_writes()


def test_the_killed_world_writes_everything_that_can_be_written() -> None:
    assert set(WRITES) == {
        "seen",
        "handled",
        "schedule",
        "run running",
        "run failed",
        "run succeeded",
        "run missed",
        f"alarm {FAILED}",
        f"alarm {MISSED}",
        f"cleared {FAILED}",
        f"cleared {MISSED}",
    } | {f"{verb} {NEVER}" for verb in ("alarm", "cleared") if f"{verb} {NEVER}" in WRITES}


@pytest.mark.parametrize("number", range(len(WRITES)), ids=lambda n: f"{n}-{WRITES[n]}")
def test_a_scheduler_killed_after_any_write_is_followed_by_one_that_goes_on(number: int) -> None:
    world = rough_world()
    left = [number]

    def cut(_: str) -> None:
        left[0] -= 1
        if left[0] == -1:
            raise Killed

    world.history.after_write = cut
    rough_days(world)

    for source in ("web01", "db01"):
        runs = world.runs(source)
        done = Counter(run.due for run in runs if run.state is RunState.SUCCEEDED)
        missed = sum(run.missed for run in runs if run.state is RunState.MISSED)
        assert not [run for run in runs if run.state is RunState.RUNNING]
        assert max(done.values()) == 1
        # Every night was run, or is reported, and none of them is both.
        failed = {run.due for run in runs} - done.keys()
        failed -= {run.due for run in runs if run.state is RunState.MISSED}
        assert len(done) + len(failed) + missed == 5
        assert failed <= ({FIRST_DUE + 2 * DAY} if source == "db01" else set())
    assert world.up() == set()


def test_a_store_that_cannot_be_reached_for_points_is_no_bug() -> None:
    world = World([a_policy()])
    world.unreadable = StoreUnavailableError("could not reach the store")

    world.run(days=1)

    assert len(world.started) == 1
