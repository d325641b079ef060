# SPDX-License-Identifier: Apache-2.0
"""What every history does (snapvault/ports/history.py)."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from snapvault.adapters.histories.sqlite import SqliteHistory
from snapvault.model.drills import DrillSummary, Verdict
from snapvault.model.notices import NotifierStanding
from snapvault.model.policy import Objectives
from snapvault.model.prunes import PruneState, PruneSummary
from snapvault.model.runs import Alarm, Failure, Run, RunState, SourceKey, Trigger
from snapvault.model.status import Following, Watched
from snapvault.model.usage import Usage
from snapvault.model.verifies import VerifySummary
from snapvault.ports.history import History
from tests.support.simulation import MemoryHistory

WEB = SourceKey("offsite", "web01")
SHOP = SourceKey("offsite", "shop")
NIGHT = datetime(2026, 11, 20, 1, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NOW = NIGHT + 30 * DAY

DONE = Run(
    id="20261120T013000Z-00000001",
    key=WEB,
    policy="nightly",
    state=RunState.SUCCEEDED,
    trigger=Trigger.CATCH_UP,
    started=NIGHT,
    due=NIGHT - HOUR,
    ended=NIGHT + timedelta(seconds=93.25),
    attempt=2,
    pid=4711,
    born=1234567,
    stopped=True,
    point="3f2a9c0d1e4b5a67",
    taken_at=NIGHT + timedelta(microseconds=1),
    size=5 << 40,
    counters={"read_bytes": 7, "stored_bytes": 3},
)
FAILED = replace(
    DONE,
    id="20261121T013000Z-00000002",
    state=RunState.FAILED,
    started=NIGHT + DAY,
    ended=NIGHT + DAY + HOUR,
    point=None,
    taken_at=None,
    size=None,
    counters={},
    failure=Failure('could not read "ü"', "Mount it.", 15, retryable=True),
)
AT_WORK = replace(
    DONE,
    id="20261122T013000Z-00000003",
    state=RunState.RUNNING,
    started=NIGHT + 2 * DAY,
    ended=None,
    point=None,
    taken_at=None,
    size=None,
    counters={},
)
MISSED = Run(
    id="20261123T013000Z-00000004",
    key=WEB,
    policy="nightly",
    state=RunState.MISSED,
    trigger=Trigger.SCHEDULE,
    started=NIGHT + 3 * DAY,
    ended=NIGHT + 3 * DAY,
    due=NIGHT + 3 * DAY - HOUR,
    missed=5,
    reason="its run of 00:30 was still at work",
)
OF_SHOP = replace(DONE, id="20261120T014500Z-00000005", key=SHOP, started=NIGHT + HOUR / 4)
DRILL = DrillSummary(
    id="20261120T040000Z-000000d1",
    key=WEB,
    kind="boot",
    point="3f2a9c0d1e4b5a67",
    ended=NIGHT + 3 * HOUR,
    verdict=Verdict.PASSED,
    seconds_to_ready=93.25,
    age=9000.5,
    reason="all checks passed",
)
FAILED_DRILL = replace(
    DRILL,
    id="20261121T040000Z-000000d2",
    point=None,
    ended=NIGHT + DAY,
    verdict=Verdict.FAILED,
    seconds_to_ready=None,
    age=None,
    reason='console showed no "ü"',
)
VERIFY = VerifySummary(
    id="20261120T050000Z-000000e1",
    vault="offsite",
    source=None,
    level="data",
    share=100.0,
    ended=NIGHT + 4 * HOUR,
    seconds=75.5,
    points=12,
    findings=0,
    requests=40,
)
DAMAGED = replace(
    VERIFY,
    id="20261121T050000Z-000000e2",
    share=12.5,
    ended=NIGHT + DAY,
    findings=2,
    message='volume "ü" is damaged',
)
STANDING = NotifierStanding(
    "ops",
    False,
    NIGHT,
    NIGHT + HOUR,
    "the server refused",
    5,
    failures=4,
    lost=1,
    dropped=2,
    waiting=3,
)
FOLLOWING = Following(
    pid=4711,
    is_round=True,
    sources=(
        Watched(
            WEB,
            "nightly",
            ("lvm", "image"),
            enabled=True,
            objectives=Objectives(rpo=26 * HOUR, drill=7 * DAY, min_size_percent=12.5),
            first_due=NIGHT,
            retry_at=NIGHT + HOUR,
        ),
        Watched(SHOP, "by-hand", ("mysql",), enabled=False, objectives=Objectives()),
    ),
)
ALARM = Alarm(str(WEB), "rpo", "too old", "Look.", NIGHT)


@pytest.fixture
def sqlite_history(tmp_path: Path) -> Iterator[History]:
    history = SqliteHistory(tmp_path / "state" / "history.sqlite")
    yield history
    history.close()


@pytest.fixture
def memory_history() -> History:
    return MemoryHistory()


@pytest.fixture(params=["sqlite_history", "memory_history"])
def history(request: pytest.FixtureRequest) -> History:
    adapter: History = request.getfixturevalue(request.param)
    return adapter


def fill(history: History, *runs: Run) -> None:
    for run in runs:
        history.put(run)


# --- runs -----------------------------------------------------------------------------------


def test_a_new_history_knows_nothing(history: History) -> None:
    assert history.runs() == []
    assert history.latest() == {}
    assert history.handled() == {}
    assert history.seen() == {}
    assert history.alarms(up=False) == []
    assert history.get(DONE.id) is None
    assert history.of_point("3f2a9c0d1e4b5a67") is None


@pytest.mark.parametrize("run", [DONE, FAILED, AT_WORK, MISSED], ids=lambda run: run.state)
def test_a_run_comes_back_as_it_was_put(history: History, run: Run) -> None:
    history.put(run)

    assert history.get(run.id) == run
    assert history.runs() == [run]


def test_putting_a_run_again_replaces_it(history: History) -> None:
    ended = replace(AT_WORK, state=RunState.SUCCEEDED, ended=NIGHT + 3 * DAY, point="aa")

    fill(history, AT_WORK, ended)

    assert history.runs() == [ended]
    assert history.runs(running=True) == []
    assert history.of_point("aa") == ended


def test_runs_come_newest_start_first(history: History) -> None:
    fill(history, FAILED, MISSED, DONE, AT_WORK)

    assert history.runs() == [MISSED, AT_WORK, FAILED, DONE]
    assert history.runs(limit=2) == [MISSED, AT_WORK]


def test_runs_are_picked_by_source_start_and_state(history: History) -> None:
    fill(history, DONE, FAILED, AT_WORK, OF_SHOP)

    assert history.runs(SHOP) == [OF_SHOP]
    assert history.runs(WEB, since=FAILED.started) == [AT_WORK, FAILED]
    assert history.runs(running=True) == [AT_WORK]
    assert history.runs(SHOP, running=True) == []
    assert history.runs(SourceKey("offsite", "web")) == []


def test_the_latest_of_each_source_ignores_what_was_missed(history: History) -> None:
    never_ran = replace(MISSED, id="20261123T013000Z-00000009", key=SourceKey("other", "web01"))
    fill(history, DONE, OF_SHOP, FAILED, MISSED, never_ran)

    assert history.latest() == {WEB: FAILED, SHOP: OF_SHOP}


def test_the_run_that_made_a_point_is_found(history: History) -> None:
    other = replace(DONE, id="20261125T013000Z-00000006", point="bb")
    fill(history, DONE, FAILED, other)

    assert history.of_point("3f2a9c0d1e4b5a67") == DONE
    assert history.of_point("bb") == other
    assert history.of_point("b") is None


# --- how far schedules were followed --------------------------------------------------------


def test_how_far_a_schedule_was_followed_is_replaced(history: History) -> None:
    history.set_handled(WEB, NIGHT + DAY)
    history.set_handled(WEB, NIGHT)
    history.set_handled(SHOP, NIGHT)

    assert history.handled() == {WEB: NIGHT, SHOP: NIGHT}
    assert history.seen() == {}


def test_by_which_schedule_a_source_was_followed_is_replaced(history: History) -> None:
    history.set_schedule(WEB, "0 2 * * * UTC None")
    history.set_schedule(SHOP, "1:00:00 None None")
    history.set_schedule(SHOP, "")

    assert history.schedules() == {WEB: "0 2 * * * UTC None", SHOP: ""}
    assert history.handled() == {}


def test_the_earliest_sight_of_a_source_stays(history: History) -> None:
    history.set_seen(WEB, NIGHT)
    history.set_seen(WEB, NIGHT + DAY)
    history.set_seen(SHOP, NIGHT)
    history.set_seen(SHOP, NIGHT - DAY)

    assert history.seen() == {WEB: NIGHT, SHOP: NIGHT - DAY}
    assert history.handled() == {}


# --- drills ---------------------------------------------------------------------------------


def test_a_history_without_drills_says_so(history: History) -> None:
    assert history.drills() == []
    assert history.last_drills() == {}
    assert history.last_drills(Verdict.PASSED) == {}


def test_drills_come_back_as_they_were_added_newest_end_first(history: History) -> None:
    of_shop = replace(DRILL, key=SHOP, ended=DRILL.ended + HOUR)
    for drill in (DRILL, FAILED_DRILL, of_shop):
        history.add_drill(drill)

    assert history.drills() == [FAILED_DRILL, of_shop, DRILL]
    assert history.drills(limit=1) == [FAILED_DRILL]
    assert history.drills(WEB) == [FAILED_DRILL, DRILL]
    assert history.drills(SourceKey("offsite", "web")) == []


def test_the_last_drill_and_the_last_good_one_of_each_source_are_known(history: History) -> None:
    older = replace(DRILL, id="20261119T040000Z-000000d0", ended=DRILL.ended - DAY)
    of_shop = replace(FAILED_DRILL, key=SHOP)
    for drill in (FAILED_DRILL, older, DRILL, of_shop):
        history.add_drill(drill)

    assert history.last_drills() == {WEB: FAILED_DRILL, SHOP: of_shop}
    assert history.last_drills(Verdict.PASSED) == {WEB: DRILL}
    assert history.last_drills(Verdict.SKIPPED) == {}


@pytest.mark.parametrize("first", [Verdict.FAILED, Verdict.SKIPPED, Verdict.PASSED])
def test_the_worst_step_of_a_drill_counts_for_its_source(history: History, first: Verdict) -> None:
    steps = [replace(DRILL, verdict=each, kind=each.value) for each in Verdict]
    steps.sort(key=lambda step: step.verdict is not first)

    for step in steps:
        history.add_drill(step)

    assert history.drills() == [replace(DRILL, verdict=Verdict.FAILED, kind="failed")]
    assert history.last_drills(Verdict.PASSED) == {}


# --- verifies and requests ------------------------------------------------------------------


def test_of_verifies_the_newest_of_each_level_and_end_counts(history: History) -> None:
    older = replace(VERIFY, id="e0", ended=VERIFY.ended - DAY)
    sample = replace(VERIFY, id="e3", share=5.0, ended=NIGHT + 2 * DAY)
    of_shop = replace(VERIFY, id="e4", source="shop", ended=NIGHT + 3 * DAY)
    objects = replace(VERIFY, id="e5", level="objects", ended=NIGHT + 4 * DAY)
    elsewhere = replace(VERIFY, id="e6", vault="near", ended=NIGHT + 5 * DAY)
    for verify in (DAMAGED, older, VERIFY, elsewhere, sample, objects, of_shop):
        history.add_verify(verify)

    assert history.verifies() == [elsewhere, objects, of_shop, sample, DAMAGED, VERIFY]


def test_of_prunes_the_newest_of_each_vault_and_end_counts(history: History) -> None:
    done = PruneSummary("p1", "offsite", NIGHT, 2.5, PruneState.DONE, removed=1, deleted_bytes=7)
    refused = replace(done, id="p2", ended=NIGHT + DAY, state=PruneState.REFUSED)
    refused = replace(refused, reasons=("one", "two"), hint="Look.")
    failed = replace(done, id="p3", state=PruneState.FAILED, retryable=True, failures=2)
    older = replace(done, id="p0", ended=NIGHT - DAY)
    near = replace(done, id="p4", vault="near", ended=NIGHT + 2 * DAY)
    for prune in (older, done, refused, failed, near, near):
        history.add_prune(prune)

    assert history.prunes() == [near, refused, failed, done]
    if isinstance(history, SqliteHistory):
        history.expire(NIGHT + 9 * DAY, now=NIGHT + 9 * DAY)
        assert history.prunes() == [near, refused, failed, done]


def test_requests_of_runs_and_verifies_are_counted_once(history: History) -> None:
    counted = replace(DONE, counters={"requests": 5})
    elsewhere = replace(counted, id="other", key=SourceKey("near", "web01"))
    fill(history, counted, AT_WORK, replace(counted, counters={"requests": 7}), elsewhere)
    for verify in (VERIFY, VERIFY, DAMAGED):
        history.add_verify(verify)

    assert history.requests() == {"offsite": 7 + 40 + 40, "near": 5}


def test_other_requests_are_added_to_those_of_runs_and_verifies(history: History) -> None:
    history.add_verify(VERIFY)
    for requests in (3, 0, 2):
        history.count_usage("offsite", "restore", Usage(gets=requests), NIGHT)
    history.count_usage("near", "prune", Usage(deletes=1), NIGHT)

    assert history.requests() == {"offsite": 40 + 5, "near": 1}


USAGE = Usage(3, 2, 1, bytes_up=900, bytes_down=70, volume_puts=2, volume_gets=1, volume_down=60)


def test_usage_is_summed_by_vault_and_verb_each_run_and_verify_once(history: History) -> None:
    counted = replace(DONE, counters=USAGE.counters())
    fill(history, AT_WORK, counted, counted)
    for _ in range(2):
        history.add_verify(replace(VERIFY, requests=6, usage=USAGE))
        history.count_usage("near", "restore", USAGE, NIGHT)

    assert history.usage() == {
        "offsite": {"backup": USAGE, "verify": USAGE},
        "near": {"restore": USAGE + USAGE},
    }
    assert history.verifies() == [replace(VERIFY, requests=6, usage=USAGE)]


def test_usage_can_be_asked_for_from_a_day_on(history: History) -> None:
    history.count_usage("offsite", "restore", Usage(gets=5), NIGHT - DAY)
    history.count_usage("offsite", "restore", Usage(gets=7), NIGHT)

    assert history.usage(NIGHT + HOUR) == {"offsite": {"restore": Usage(gets=7)}}
    assert history.usage() == {"offsite": {"restore": Usage(gets=12)}}


# --- what a daemon leaves for others --------------------------------------------------------


def test_how_notifiers_stand_is_replaced(history: History) -> None:
    assert history.notifiers() == []
    history.set_notifiers([STANDING, NotifierStanding("gone")])

    history.set_notifiers([replace(STANDING, waiting=0), NotifierStanding("boss")])

    assert history.notifiers() == [NotifierStanding("boss"), replace(STANDING, waiting=0)]


def test_what_a_scheduler_goes_by_is_left_and_taken_away(history: History) -> None:
    assert history.following() is None

    history.set_following(FOLLOWING)

    assert history.following() == FOLLOWING
    history.set_following(None)
    assert history.following() is None


# --- alarms ---------------------------------------------------------------------------------


def test_an_alarm_that_is_up_is_raised_once_and_keeps_its_beginning(history: History) -> None:
    again = replace(ALARM, message="older still", hint=None, raised=NIGHT + HOUR)

    assert history.raise_alarm(ALARM)
    assert not history.raise_alarm(again)

    assert history.alarms() == [replace(again, raised=NIGHT)]


def test_alarms_of_other_subjects_and_kinds_are_others(history: History) -> None:
    others = [replace(ALARM, kind="failing"), replace(ALARM, subject=str(SHOP))]

    assert all(history.raise_alarm(alarm) for alarm in [ALARM, *others])

    assert len(history.alarms()) == 3


def test_a_cleared_alarm_is_over_and_can_be_raised_again(history: History) -> None:
    history.raise_alarm(ALARM)

    cleared = history.clear_alarm(ALARM.subject, ALARM.kind, NIGHT + HOUR)
    again = history.clear_alarm(ALARM.subject, ALARM.kind, NIGHT + HOUR)

    assert cleared == replace(ALARM, cleared=NIGHT + HOUR)
    assert again is None
    assert history.alarms() == []
    assert history.raise_alarm(replace(ALARM, raised=NIGHT + DAY))
    assert history.alarms(up=False) == [replace(ALARM, raised=NIGHT + DAY), cleared]
    assert history.alarms(up=False, since=NIGHT + HOUR) == [replace(ALARM, raised=NIGHT + DAY)]


# --- forgetting: what is in memory does not last long enough ---------------------------------


def test_what_ended_long_ago_is_forgotten(sqlite_history: History) -> None:
    second = replace(DONE, id="20261120T040000Z-00000007", started=NIGHT + HOUR)
    fill(sqlite_history, DONE, second, FAILED, AT_WORK, MISSED, OF_SHOP)
    sqlite_history.raise_alarm(ALARM)
    sqlite_history.clear_alarm(ALARM.subject, ALARM.kind, NIGHT + HOUR)
    sqlite_history.raise_alarm(replace(ALARM, raised=NIGHT + HOUR))

    count = sqlite_history.expire(NIGHT + 10 * DAY, now=NOW)

    # The newest success of each source stays, and so does what is not over.
    assert count == 3
    assert sqlite_history.runs() == [AT_WORK, second, OF_SHOP]
    assert sqlite_history.alarms(up=False) == [replace(ALARM, raised=NIGHT + HOUR)]


def test_of_old_drills_the_newest_of_each_verdict_stays(sqlite_history: History) -> None:
    older = replace(DRILL, id="20261119T040000Z-000000d0", ended=DRILL.ended - DAY)
    again = replace(FAILED_DRILL, id="20261122T040000Z-000000d3", ended=NIGHT + 2 * DAY)
    for drill in (older, DRILL, FAILED_DRILL, again):
        sqlite_history.add_drill(drill)

    sqlite_history.expire(DRILL.ended, now=NOW)

    assert sqlite_history.drills() == [again, FAILED_DRILL, DRILL]
    sqlite_history.expire(NIGHT + 10 * DAY, now=NOW)
    assert sqlite_history.drills() == [again, DRILL]


def test_requests_of_forgotten_runs_stay_counted(sqlite_history: History) -> None:
    counted = replace(DONE, counters={"requests": 5})
    fill(sqlite_history, counted, replace(counted, id="newer", started=NIGHT + HOUR))

    forgotten = sqlite_history.expire(NIGHT + 10 * DAY, now=NOW)

    assert forgotten == 1
    assert sqlite_history.requests() == {"offsite": 10}


def test_when_it_was_expired_last_is_remembered(sqlite_history: History) -> None:
    assert sqlite_history.expired() is None

    sqlite_history.expire(NIGHT, now=NOW)
    sqlite_history.expire(NIGHT, now=NOW - DAY)

    assert sqlite_history.expired() == NOW - DAY


@pytest.mark.parametrize(
    ("share", "at_least", "first"),
    [(0.0, 0, DONE), (0.24, 0, DONE), (0.25, 0, OF_SHOP), (0.75, 2, AT_WORK), (0.25, 2, FAILED)],
)
def test_the_oldest_of_the_runs_end_at_a_time(
    history: History, share: float, at_least: int, first: Run
) -> None:
    assert history.started_by(share, at_least=at_least) is None

    fill(history, AT_WORK, FAILED, OF_SHOP, DONE)

    assert history.started_by(share, at_least=at_least) == first.started
    assert history.started_by(share, at_least=4) is None


def test_what_ended_since_is_kept(sqlite_history: History) -> None:
    fill(sqlite_history, DONE, FAILED)

    assert sqlite_history.expire(FAILED.started, now=NOW) == 0
    assert sqlite_history.runs() == [FAILED, DONE]
