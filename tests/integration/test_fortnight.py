# SPDX-License-Identifier: Apache-2.0
"""A fortnight of fifty sources, in which much goes wrong: no run is lost, and none happens twice.

What should have happened is found here by going through every minute of it.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time
from zoneinfo import ZoneInfo

import pytest

from snapvault.model.notices import NoticeKind
from snapvault.model.policy import Objectives, Policy, Window
from snapvault.model.runs import Run, RunState
from snapvault.ports.jobs import Order
from tests.support.simulation import UNREACHABLE, Outcome, World, a_policy

PARIS = ZoneInfo("Europe/Paris")
NEW_YORK = ZoneInfo("America/New_York")
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

# European clocks go forward in the night to the 29th.
START = datetime(2026, 3, 23, 12, 2, tzinfo=UTC)  # a Monday
END = START + 15 * DAY
SET_BACK_AT = datetime(2026, 4, 2, 15, 2, tzinfo=UTC)
SET_FORWARD_AT = datetime(2026, 4, 3, 15, 32, tzinfo=UTC)
NO_NETWORK = (datetime(2026, 3, 30, 18, tzinfo=UTC), datetime(2026, 3, 31, 5, 40, tzinfo=UTC))
OFF = (
    (datetime(2026, 3, 25, 22, 11, tzinfo=UTC), datetime(2026, 3, 26, 7, 4, tzinfo=UTC)),
    (datetime(2026, 3, 31, 23, 0, tzinfo=UTC), datetime(2026, 4, 1, 4, 30, tzinfo=UTC)),
)
STOPS = [datetime(2026, 3, 24, 13, 4, tzinfo=UTC) + n * 43 * HOUR for n in range(8)]
KILLS = [datetime(2026, 3, 24, 0, 35, tzinfo=UTC) + n * 37 * HOUR for n in range(9)]


@dataclass(frozen=True)
class Rule:
    """A policy, and in other words when it is due and when its window is open."""

    policy: Policy

    def is_due(self, moment: datetime) -> bool:
        paris, new_york = moment.astimezone(PARIS), moment.astimezone(NEW_YORK)
        match self.policy.name:
            case "nightly":
                return (paris.hour, paris.minute) == (1, 30)
            case "weekly":
                return (paris.weekday(), paris.hour, paris.minute) == (6, 3, 0)
            case "hourly":
                return moment.minute == 0
            case "dusk":
                return moment.minute == 0 and moment.hour % 6 == 0
            case _:
                in_hours = new_york.weekday() < 5 and 8 <= new_york.hour <= 18
                return in_hours and new_york.minute % 30 == 0

    def is_open(self, moment: datetime) -> bool:
        hour = moment.astimezone(PARIS).hour
        match self.policy.name:
            case "nightly":
                return 1 <= hour < 6
            case "dusk":
                return hour >= 20 or hour < 8
            case _:
                return True

    def expected(self) -> list[datetime]:
        """Return the dues that want a run each: of those that wait for one opening, the last."""
        found: list[datetime] = []
        waiting: datetime | None = None
        moment = START.replace(second=0)
        while moment <= END:
            if self.is_due(moment):
                waiting = moment
            if waiting is not None and self.is_open(moment):
                found.append(waiting)
                waiting = None
            moment += MINUTE
        return found


def rules() -> list[Rule]:
    paris = {"timezone": "Europe/Paris"}
    policies = [
        a_policy(
            "nightly",
            *names("n"),
            cron="30 1 * * *",
            schedule=paris
            | {"jitter": 10 * MINUTE, "window": Window(clock_time(1), clock_time(6))},
            objectives=Objectives(rpo=26 * HOUR),
            max_jobs=4,
        ),
        a_policy("weekly", *names("w"), cron="0 3 * * 0", schedule=paris),
        a_policy(
            "hourly",
            *names("h"),
            every=HOUR,
            schedule={"jitter": 5 * MINUTE},
            objectives=Objectives(rpo=3 * HOUR),
        ),
        a_policy(
            "dusk",
            *names("d"),
            every=6 * HOUR,
            schedule=paris | {"window": Window(clock_time(20), clock_time(8))},
        ),
        a_policy(
            "office",
            *names("o"),
            cron="*/30 8-18 * * 1-5",
            schedule={"timezone": "America/New_York", "catch_up": False},
        ),
    ]
    return [Rule(policy) for policy in policies]


def names(letter: str) -> list[str]:
    return [f"{letter}{number}" for number in range(10)]


def outcome(order: Order) -> Outcome:
    run = order.run
    minutes = 2 + sum(map(ord, f"{run.key}{run.due}")) % 9
    if NO_NETWORK[0] <= run.started < NO_NETWORK[1]:
        return Outcome(0.5, UNREACHABLE)
    return Outcome(minutes)


def live(world: World) -> None:
    """Live through it all, in the order of the clock on the wall."""
    changes: list[tuple[datetime, str]] = [(at, "stop") for at in STOPS]
    changes += [(at, "kill") for at in KILLS]
    changes += [(since, "off") for since, _ in OFF]
    changes += [(SET_BACK_AT, "back"), (SET_FORWARD_AT, "forward")]
    for at, what in sorted(changes):
        if at <= world.now:
            continue  # the clock was set forward over it, or the machine was off
        world.run_until(at)
        match what:
            case "stop":
                world.scheduler.stop(world.now, 60)
                world.off(seconds=20)
            case "kill":
                world.off(seconds=5)
            case "off":
                world.off(seconds=(dict(OFF)[at] - at).total_seconds())
            case "back":
                world.set_clock(hours=-1)
            case "forward":
                world.set_clock(days=1)
    world.run_until(END)


@pytest.fixture(scope="module")
def fortnight() -> World:
    policies = [rule.policy for rule in rules()]
    world = World(policies, now=START, max_jobs=8, outcome=outcome, kept=20)
    world.longest_step = timedelta(seconds=5)  # as a daemon
    live(world)
    return world


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.policy.name)
def test_every_run_that_was_due_happened_once_or_is_reported_as_missed(
    fortnight: World, rule: Rule
) -> None:
    expected = rule.expected()
    # What was due a moment before the end may still wait for its jitter or its turn.
    settled = [due for due in expected if due < END - HOUR]
    # A clock set back by an hour shows these a second time, and they are due again.
    again = [due for due in expected if SET_BACK_AT - HOUR < due <= SET_BACK_AT]
    again = again if rule.policy.name == "office" else []

    for source in rule.policy.sources:
        followed = accounted(fortnight.runs(source.name), expected)

        assert {due for due in settled if not followed[due]} == set()
        twice = {due for due, times in followed.items() if times > 1}
        assert twice <= set(again)
        assert followed.keys() <= set(expected)


def accounted(runs: Sequence[Run], expected: list[datetime]) -> Counter[datetime]:
    """Count how often each due was run, or reported as missed."""
    followed: Counter[datetime] = Counter()
    stopped: set[datetime] = set()  # a run that was stopped is none, unless nothing follows it
    for run in runs:
        assert run.due is not None
        if run.state is RunState.MISSED:
            last = expected.index(run.due)
            followed.update(expected[last - run.missed + 1 : last + 1])
        elif run.stopped:
            stopped.add(run.due)
        elif run.attempt == 1:
            followed[run.due] += 1
    return followed + Counter(stopped - followed.keys())


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.policy.name)
def test_nothing_started_early_or_outside_its_window(fortnight: World, rule: Rule) -> None:
    for source in rule.policy.sources:
        for run in fortnight.runs(source.name):
            if run.state is not RunState.MISSED:
                assert run.due is not None
                assert run.started >= run.due
                assert rule.is_open(run.started)


def test_the_limits_held_and_there_was_something_to_limit(fortnight: World) -> None:
    assert fortnight.most == 8
    assert fortnight.most_of["nightly"] <= 4


def test_all_of_it_happened(fortnight: World) -> None:
    runs = fortnight.history.runs(limit=10**9)
    states = Counter(run.state for run in runs)
    triggers = Counter(run.trigger.value for run in runs)

    assert states[RunState.SUCCEEDED] > 5000
    assert min(states[state] for state in RunState if state is not RunState.RUNNING) > 10
    assert min(triggers[name] for name in ("schedule", "catch-up", "retry")) > 10
    assert states[RunState.RUNNING] == len(fortnight.jobs.running())


def test_attempts_follow_each_other_and_end_with_the_third(fortnight: World) -> None:
    attempts: dict[tuple[object, object], list[int]] = defaultdict(list)
    for run in fortnight.history.runs(limit=10**9)[::-1]:
        if run.state is RunState.MISSED or run.stopped:
            continue
        if run.due not in (None, *set_back_dues()):
            attempts[run.key, run.due].append(run.attempt)

    assert all(found == list(range(1, len(found) + 1)) for found in attempts.values())
    assert max(map(len, attempts.values())) == 3


def set_back_dues() -> list[datetime]:
    return [SET_BACK_AT.replace(minute=0), SET_BACK_AT.replace(hour=14, minute=30)]


def test_what_was_missed_and_what_failed_for_good_was_told(fortnight: World) -> None:
    runs = fortnight.history.runs(limit=10**9)
    missed = {run.id for run in runs if run.state is RunState.MISSED}

    told = [each.run for each in fortnight.notices if each.kind is NoticeKind.MISSED]
    given_up = [
        each.run
        for each in fortnight.notices
        if each.kind is NoticeKind.FAILURE and each.retry_at is None
    ]

    assert {run.id for run in told if run} == missed
    assert len(told) == len(missed)
    # In a night without network each of the ten hourly sources gave up at several dues.
    assert len({(run.key, run.due) for run in given_up if run}) > 50


def test_in_the_end_no_alarm_is_left(fortnight: World) -> None:
    raised = Counter(alarm.kind for alarm in fortnight.history.all_alarms)

    assert fortnight.up() == set()
    assert {"failing", "missed", "rpo"} <= raised.keys()
