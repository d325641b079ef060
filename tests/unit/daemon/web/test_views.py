# SPDX-License-Identifier: Apache-2.0
"""How sources and hosts are judged for people."""

from dataclasses import replace

import pytest

from snapvault.daemon.web.views import (
    Lamp,
    alarm_groups,
    groups,
    headline,
    known_runs,
    row,
    runs_of,
    source_href,
    upcoming,
)
from snapvault.model.objectives import DAEMON, RPO, SMALL
from snapvault.model.runs import RunState, SourceKey
from snapvault.model.status import SourceStatus, Status, VaultStatus
from tests.support.status_builder import (
    NOW,
    a_source,
    a_status,
    an_alarm,
    breached,
    failing,
    large_host,
    never,
    running,
    waiting,
)


@pytest.mark.parametrize(
    ("source", "lamp", "word"),
    [
        (a_source(), Lamp.GOOD, "protected"),
        (running(a_source()), Lamp.GOOD, "protected"),
        (breached(a_source()), Lamp.ALARM, "restore point too old"),
        (replace(breached(a_source()), alarms=()), Lamp.ALARM, "restore point too old"),
        (never(a_source()), Lamp.ALARM, "never backed up"),
        (failing(a_source()), Lamp.FAILED, "last run failed"),
        (waiting(a_source()), Lamp.WAITING, "waiting for its first run"),
        (a_source(enabled=False), Lamp.OFF, "policy is not enabled"),
        (replace(breached(a_source()), enabled=False), Lamp.ALARM, "restore point too old"),
    ],
)
def test_a_source_stands_as_its_objectives_say_and_then_its_last_run(
    source: SourceStatus, lamp: Lamp, word: str
) -> None:
    found = row(source)

    assert (found.lamp, found.word) == (lamp, word)


def test_several_alarms_of_a_source_are_all_named() -> None:
    key = "offsite/web01"
    source = a_source(
        alarms=(an_alarm(key), an_alarm(key, kind=SMALL), an_alarm(key, kind="odd-one"))
    )

    found = row(source)

    assert found.word == "restore point too old, suspiciously small, odd one"


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.INTERRUPTED, RunState.MISSED])
def test_a_run_that_went_wrong_is_a_problem_before_any_alarm(state: RunState) -> None:
    source = failing(a_source())
    assert source.last is not None
    source = replace(source, last=replace(source.last, state=state))

    found = row(source)

    assert found.has_problem


def test_what_has_problems_comes_first() -> None:
    sources = [
        a_source("a", policy="calm"),
        a_source("b", policy="rough"),
        breached(a_source("z", policy="rough")),
        failing(a_source("y", policy="rough")),
    ]

    found = groups(row(source) for source in sources)

    assert [group.name for group in found] == ["rough", "calm"]
    assert [one.source.key.source for one in found[0].rows] == ["z", "y", "b"]
    assert found[0].problems == 2


@pytest.mark.parametrize(
    ("status", "lamp", "text"),
    [
        (a_status(), Lamp.WAITING, "Nothing is backed up yet"),
        (a_status(a_source()), Lamp.GOOD, "The only source is protected"),
        (a_status(a_source("a"), a_source("b")), Lamp.GOOD, "All 2 sources are protected"),
        (
            a_status(a_source("a"), a_source("b"), waiting(a_source("c"))),
            Lamp.GOOD,
            "2 of 3 sources are protected",
        ),
        (
            a_status(a_source("a"), failing(a_source("b"))),
            Lamp.FAILED,
            "1 of 2 sources failed last time",
        ),
        (
            a_status(failing(a_source("a")), breached(a_source("b"))),
            Lamp.ALARM,
            "1 of 2 sources needs attention",
        ),
        (a_status(breached(a_source("a"))), Lamp.ALARM, "The only source needs attention"),
        (
            a_status(a_source("a"), alarms=(an_alarm("daemon", kind=DAEMON),)),
            Lamp.ALARM,
            "This host needs attention",
        ),
        (
            a_status(
                a_source("a"), vaults=(VaultStatus("offsite", "file:///srv", 0, 0, "is gone"),)
            ),
            Lamp.ALARM,
            "This host needs attention",
        ),
    ],
)
def test_the_headline_says_the_worst(status: Status, lamp: Lamp, text: str) -> None:
    found = headline(status, [row(source) for source in status.sources])

    assert (found.lamp, found.text) == (lamp, text)


def test_alarms_of_one_kind_stand_together_and_share_a_hint_they_all_have() -> None:
    alarms = [
        an_alarm("offsite/a", hint="Look."),
        an_alarm("offsite/b", hint="Look."),
        an_alarm("offsite/c", kind=SMALL, hint="One."),
        an_alarm("offsite/d", kind=SMALL, hint="Other."),
        an_alarm("daemon", kind=DAEMON),
    ]

    found = alarm_groups(alarms)

    assert [group.title for group in found] == [
        "Daemon",
        "Restore point too old",
        "Suspiciously small",
    ]
    assert [group.hint for group in found[1:]] == ["Look.", None]


def test_what_starts_next_is_a_retry_where_that_comes_first() -> None:
    status = a_status(
        failing(a_source("crm")),
        a_source("web01"),
        running(a_source("busy")),
        a_source("by-hand", next_start=None),
    )

    found = upcoming(status)

    assert [(source.key.source, again) for _, source, again in found] == [
        ("crm", True),
        ("web01", False),
    ]


def test_runs_that_several_parts_of_a_status_name_are_one() -> None:
    source = running(failing(a_source("crm")))
    status = a_status(source, a_source("web01"))

    found = runs_of(status, source.key)

    assert [run.state for run in found] == [
        RunState.RUNNING,
        RunState.FAILED,
        RunState.SUCCEEDED,
    ]
    assert len(known_runs(status)) == 4


def test_names_cannot_leave_their_place_in_an_address() -> None:
    found = source_href(SourceKey("a/b", 'x"><script>'))

    assert found == "/source/a%2Fb/x%22%3E%3Cscript%3E"


def test_the_part_of_an_rpo_that_is_used_up_ends_at_all_of_it() -> None:
    calm, late = row(a_source()), row(breached(a_source()))

    assert calm.used is not None
    assert 0.29 < calm.used < 0.3
    assert late.used == 1.0
    assert row(a_source(rpo=None)).used is None


def test_a_large_host_is_judged_whole() -> None:
    status = large_host()

    found = groups(row(source) for source in status.sources)

    assert sum(len(group.rows) for group in found) == 200
    assert status.at == NOW
    assert {alarm.kind for alarm in status.alarms} == {RPO}
