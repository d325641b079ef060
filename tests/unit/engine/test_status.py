# SPDX-License-Identifier: Apache-2.0
"""A status is put together from points, history and policies, and judged by points alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from snapvault.adapters.recording import lost
from snapvault.adapters.run_logs import FolderRunLogs
from snapvault.engine.status import (
    DAYS,
    Host,
    Memory,
    VaultPoints,
    assemble,
    remember,
    scheduled,
    watch,
)
from snapvault.engine.troubles import Troubles
from snapvault.model import drills, objectives
from snapvault.model.drills import DrillSummary
from snapvault.model.objectives import RpoState
from snapvault.model.policy import CommandSpec, Objectives, Policy, Schedule, SourceSpec, StreamSpec
from snapvault.model.prunes import PruneState, PruneSummary
from snapvault.model.runs import (
    Alarm,
    Failure,
    PointSummary,
    Progress,
    Run,
    RunState,
    SourceKey,
    Trigger,
)
from snapvault.model.status import Status, Watched
from snapvault.model.verifies import VerifySummary
from tests.support.simulation import MemoryHistory

NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WEB = SourceKey("offsite", "web01")
SHOP = SourceKey("offsite", "shop")
HOST = Host("host1", "0.4")
AT_WORK = replace(HOST, daemon_pid=1, daemon_since=NOW - DAY)


def a_policy(*names: str, **changes: Any) -> Policy:
    spec = CommandSpec(("true",))
    sources = tuple(SourceSpec(name, (StreamSpec("dump", spec),)) for name in names)
    base = Policy(
        name="nightly",
        path=Path("/etc/snapvault/policies/nightly.yaml"),
        vault="offsite",
        sources=sources,
        schedule=Schedule(cron="30 1 * * *"),
        objectives=Objectives(rpo=timedelta(hours=26)),
    )
    return replace(base, **changes)


def a_point(key: SourceKey, taken_at: datetime) -> PointSummary:
    return PointSummary(key, f"{taken_at:%y%m%d%H}", taken_at, 700, 5, "crash")


def a_run(number: int, state: RunState, started: datetime, **changes: Any) -> Run:
    ended = None if state is RunState.RUNNING else started + HOUR
    run = Run(str(number), WEB, "nightly", state, Trigger.SCHEDULE, started, ended=ended)
    return replace(run, **changes)


def zone(name: str | None) -> tzinfo:
    return UTC if name is None else ZoneInfo(name)


def settled(run: Run) -> Run:
    """Take process 4711 for one that is gone."""
    return lost(run, NOW) if run.pid == 4711 and run.state is RunState.RUNNING else run


def look(
    *policies: Policy,
    points: tuple[PointSummary, ...] = (),
    memory: Memory | None = None,
    watched: Sequence[Watched] | None = None,
    host: Host = HOST,
    is_known: bool = True,
) -> Status:
    memory = memory or Memory()
    return assemble(
        host,
        scheduled(policies, zone, memory.seen, now=NOW) if watched is None else watched,
        {"offsite": VaultPoints("s3://bucket", points, is_known=is_known)},
        memory,
        now=NOW,
        problems=["a broken file"],
    )


@pytest.fixture
def history() -> MemoryHistory:
    return MemoryHistory()


@pytest.fixture
def memory(history: MemoryHistory, tmp_path: Path) -> Callable[[], Memory]:
    return lambda: remember(history, FolderRunLogs(tmp_path), settled)


# --- sources --------------------------------------------------------------------------------


def test_sources_come_by_policy_and_name() -> None:
    status = look(a_policy("web01", "shop"), a_policy("mail", name="hourly"))

    assert [(each.policy, each.key.source) for each in status.sources] == [
        ("hourly", "mail"),
        ("nightly", "shop"),
        ("nightly", "web01"),
    ]
    assert status.sources[0].kinds == ("command",)


def test_a_source_is_judged_by_its_points_alone(history: MemoryHistory) -> None:
    points = (a_point(WEB, NOW - 3 * DAY), a_point(WEB, NOW - 2 * DAY), a_point(SHOP, NOW - HOUR))
    done = a_run(1, RunState.SUCCEEDED, NOW - HOUR, point="unknown")

    status = look(
        a_policy("web01", "shop"), points=points, memory=Memory(last={WEB: done}, runs=(done,))
    )

    shop, web = status.sources
    assert (shop.verdict.rpo, web.verdict.rpo) == (RpoState.MET, RpoState.BREACHED)
    assert web.newest == points[1]
    assert web.points == points[:2]
    assert [alarm.kind for alarm in web.alarms] == [objectives.RPO]
    assert status.alarms == web.alarms


def test_points_are_shown_for_five_weeks(history: MemoryHistory) -> None:
    points = (a_point(WEB, NOW - timedelta(days=DAYS + 1)), a_point(WEB, NOW - HOUR))

    (source,) = look(a_policy("web01"), points=points).sources

    assert source.points == points[1:]


def test_nothing_is_promised_of_a_disabled_policy() -> None:
    points = (a_point(WEB, NOW - 30 * DAY),)

    (source,) = look(a_policy("web01", enabled=False), points=points).sources

    assert source.verdict.rpo is RpoState.NONE
    assert source.alarms == ()
    assert source.next_start is None


def test_a_source_that_was_never_backed_up_alarms_once_its_time_has_come() -> None:
    new, old = ({WEB: NOW - HOUR}, {WEB: NOW - 5 * DAY})

    waiting = look(a_policy("web01"), memory=Memory(seen=new))
    overdue = look(a_policy("web01"), memory=Memory(seen=old))

    assert waiting.alarms == ()
    assert [alarm.kind for alarm in overdue.alarms] == [objectives.NEVER]
    assert overdue.alarms[0].raised < NOW


# --- what the history says ------------------------------------------------------------------


def test_last_success_and_run_at_work_are_told_apart(
    history: MemoryHistory, memory: Callable[[], Memory]
) -> None:
    success = a_run(1, RunState.SUCCEEDED, NOW - 3 * DAY)
    failed = a_run(2, RunState.FAILED, NOW - 2 * DAY)
    missed = a_run(3, RunState.MISSED, NOW - DAY)
    running = a_run(4, RunState.RUNNING, NOW - HOUR)
    for run in (a_run(0, RunState.SUCCEEDED, NOW - 4 * DAY), success, failed, missed, running):
        history.put(run)

    status = look(a_policy("web01"), memory=memory())

    (source,) = status.sources
    assert (source.running, source.last, source.success) == (running, failed, success)
    assert status.failures == (missed, failed)
    assert status.runs[:2] == (running, missed)


def test_a_run_whose_process_is_gone_is_not_at_work(
    history: MemoryHistory, memory: Callable[[], Memory]
) -> None:
    history.put(a_run(1, RunState.RUNNING, NOW - HOUR, pid=4711))

    status = look(a_policy("web01"), memory=memory())

    (source,) = status.sources
    assert source.running is None
    assert source.last is not None
    assert source.last.state is RunState.INTERRUPTED
    assert status.failures == (source.last,)
    assert history.by_id["1"].state is RunState.RUNNING


def test_the_progress_of_a_run_at_work_is_shown(history: MemoryHistory, tmp_path: Path) -> None:
    run = a_run(1, RunState.RUNNING, NOW - HOUR, id="20261120T080000Z-1a2b3c4d")
    history.put(run)
    logs = FolderRunLogs(tmp_path)
    log = logs.open(run.id)
    progress = Progress(run.id, "reading root", 5, 10, NOW)
    log.progress(progress)

    status = look(a_policy("web01"), memory=remember(history, logs, settled))
    log.close()

    assert status.sources[0].progress == progress


def test_a_vault_counts_all_its_points() -> None:
    points = (a_point(WEB, NOW - 90 * DAY), a_point(WEB, NOW), a_point(SHOP, NOW))

    (vault,) = look(a_policy("web01"), points=points).vaults

    assert (vault.name, vault.store, vault.points, vault.stored) == (
        "offsite",
        "s3://bucket",
        3,
        15,
    )
    assert vault.problem is None


def test_a_catalog_that_was_there_and_is_lost_is_told() -> None:
    done = a_run(1, RunState.SUCCEEDED, NOW - HOUR)

    new = look(a_policy("web01"), is_known=False)
    forgotten = look(a_policy("web01"), is_known=False, memory=Memory(succeeded={WEB: done}))

    assert new.vaults[0].problem is None
    assert "lost" in str(forgotten.vaults[0].problem)


# --- drills, verifies, requests, notifiers --------------------------------------------------


def a_drill(ended: datetime, verdict: drills.Verdict, key: SourceKey = WEB) -> DrillSummary:
    return DrillSummary(
        f"d{ended:%d%H}",
        key,
        "boot",
        "p1",
        ended,
        verdict,
        90.0,
        3600.0,
        "why",
    )


def a_verify(level: str, findings: int) -> VerifySummary:
    return VerifySummary("v1", "offsite", None, level, 100.0, NOW - HOUR, 9.0, 3, findings)


def test_the_last_drills_are_shown_with_their_sources_and_alone(
    history: MemoryHistory, memory: Callable[[], Memory]
) -> None:
    good = a_drill(NOW - 2 * DAY, drills.Verdict.PASSED)
    bad = a_drill(NOW - DAY, drills.Verdict.FAILED)
    of_another = a_drill(NOW - HOUR, drills.Verdict.PASSED, SHOP)
    for drill in (good, bad, of_another):
        history.add_drill(drill)

    status = look(
        a_policy("web01", objectives=Objectives(rto=HOUR)),
        points=(a_point(WEB, NOW - HOUR),),
        memory=memory(),
    )

    (source,) = status.sources
    assert (source.drill, source.good_drill, source.rto) == (bad, good, HOUR)
    assert status.drills == (of_another, bad, good)
    assert [alarm.kind for alarm in source.alarms] == [objectives.DRILL_FAILED]
    assert source.alarms[0].raised == bad.ended


def test_a_good_drill_keeps_the_objective_of_drills(
    history: MemoryHistory, memory: Callable[[], Memory]
) -> None:
    policy = a_policy("web01", objectives=Objectives(drill=7 * DAY))
    points = (a_point(WEB, NOW - HOUR),)
    history.set_seen(WEB, NOW - 90 * DAY)

    overdue = look(policy, points=points, memory=memory())
    history.add_drill(a_drill(NOW - DAY, drills.Verdict.PASSED))
    drilled = look(policy, points=points, memory=memory())

    assert [alarm.kind for alarm in overdue.alarms] == [objectives.DRILL]
    assert drilled.alarms == ()


def test_a_vault_shows_its_requests_and_verifies(
    history: MemoryHistory, memory: Callable[[], Memory]
) -> None:
    history.put(a_run(1, RunState.SUCCEEDED, NOW - HOUR, counters={"requests": 7}))
    history.add_verify(replace(a_verify("data", 0), requests=5))

    (vault,) = look(a_policy("web01"), memory=memory()).vaults

    assert vault.requests == 12
    assert [verify.level for verify in vault.verifies] == ["data"]
    assert vault.pruned_at is None


def test_what_a_verify_found_alarms_without_a_daemon_too() -> None:
    found, elsewhere = a_verify("data", 2), replace(a_verify("data", 2), vault="gone")

    status = look(a_policy("web01"), memory=Memory(verifies=(found, elsewhere)))

    (alarm,) = status.alarms
    assert (alarm.subject, alarm.kind, alarm.raised) == ("offsite", objectives.DAMAGED, found.ended)


def test_a_prune_that_refused_alarms_without_a_daemon_too() -> None:
    refused = PruneSummary("p1", "offsite", NOW, 1.0, PruneState.REFUSED, reasons=("it is gone",))

    status = look(a_policy("web01"), memory=Memory(prunes=(refused, replace(refused, vault="x"))))

    (alarm,) = status.alarms
    assert (alarm.subject, alarm.kind) == ("offsite", objectives.UNPRUNED)
    assert "it is gone" in alarm.message
    assert status.vaults[0].prune == refused


def test_a_vault_that_is_not_as_it_was_left_alarms_without_a_daemon_too() -> None:
    wrong = Troubles(("it is gone",), NOW)
    vaults = {"offsite": VaultPoints("s3://bucket", (), troubles=wrong)}

    status = assemble(HOST, (), vaults, Memory(), now=NOW, problems=())

    (alarm,) = status.alarms
    assert (alarm.subject, alarm.kind, alarm.raised) == ("offsite", objectives.TROUBLED, NOW)
    assert "it is gone" in alarm.message


# --- alarms ---------------------------------------------------------------------------------


def an_alarm(kind: str, **changes: Any) -> Alarm:
    return replace(Alarm(str(WEB), kind, "as it was", None, NOW - 2 * DAY), **changes)


def test_a_daemon_at_work_has_the_word_on_alarms() -> None:
    alarms = (an_alarm(objectives.SMALL),)

    status = look(
        a_policy("web01"),
        points=(a_point(WEB, NOW - 9 * DAY),),
        memory=Memory(alarms=alarms),
        host=AT_WORK,
    )

    assert status.alarms == status.sources[0].alarms == alarms
    assert status.daemon_pid == 1


def test_without_a_daemon_an_alarm_that_points_disprove_is_over() -> None:
    alarms = (an_alarm(objectives.RPO), an_alarm(objectives.POLICY, subject="nightly"))

    status = look(
        a_policy("web01"), points=(a_point(WEB, NOW - HOUR),), memory=Memory(alarms=alarms)
    )

    assert status.alarms == alarms[1:]


def test_without_a_daemon_an_alarm_keeps_its_beginning() -> None:
    alarms = (an_alarm(objectives.RPO),)

    status = look(
        a_policy("web01"), points=(a_point(WEB, NOW - 9 * DAY),), memory=Memory(alarms=alarms)
    )

    (alarm,) = status.alarms
    assert alarm.raised == alarms[0].raised
    assert alarm.message != "as it was"


@pytest.mark.parametrize(
    ("state", "started", "count"),
    [
        (RunState.SUCCEEDED, NOW - DAY, 0),
        (RunState.SUCCEEDED, NOW - 3 * DAY, 1),
        (RunState.FAILED, NOW - DAY, 1),
    ],
)
def test_without_a_daemon_a_success_ends_what_failed(
    state: RunState, started: datetime, count: int
) -> None:
    last = a_run(1, state, started, failure=Failure("x", None, 15, retryable=False))

    status = look(
        a_policy("web01"),
        points=(a_point(WEB, NOW - HOUR),),
        memory=Memory(alarms=(an_alarm(objectives.FAILED),), last={WEB: last}),
    )

    assert len(status.alarms) == count


# --- what comes next ------------------------------------------------------------------------


def test_the_schedule_says_what_is_next_where_nobody_else_does() -> None:
    by_hand = a_policy("shop", name="manual", schedule=None)
    nowhere = a_policy("mail", name="x", schedule=Schedule(cron="0 * * * *", timezone="No/Where"))

    def known(name: str | None) -> tzinfo:
        if name is not None:
            raise ValueError(name)
        return UTC

    watched = scheduled([a_policy("web01"), by_hand, nowhere], known, {}, now=NOW)

    assert [each.next_start for each in watched] == [
        None,
        datetime(2026, 11, 21, 1, 30, tzinfo=UTC),
        None,
    ]


def test_a_scheduler_has_the_word_on_what_is_next() -> None:
    watched = watch(
        [a_policy("web01", "shop")],
        first_dues={},
        next_starts={WEB: NOW + HOUR},
        retries={WEB: NOW + HOUR},
    )

    status = look(watched=watched)

    shop, web = status.sources
    assert (shop.next_start, shop.retry_at) == (None, None)
    assert (web.next_start, web.retry_at) == (NOW + HOUR, NOW + HOUR)


def test_problems_are_handed_on() -> None:
    assert look().problems == ("a broken file",)
