# SPDX-License-Identifier: Apache-2.0
"""Policies in plain words, and as JSON."""

import json
from dataclasses import replace
from datetime import time, timedelta
from pathlib import Path

import pytest

from snapvault.cli.policy_words import policy_document, policy_lines, rate_words
from snapvault.model.notices import Wish
from snapvault.model.policy import (
    CommandSpec,
    Limits,
    Objectives,
    Policy,
    Retention,
    Retry,
    Schedule,
    SourceSpec,
    StreamSpec,
    UploadSpan,
    Window,
)
from snapvault.model.settings import (
    HostLimits,
    MailSettings,
    NotifierSettings,
    PingSettings,
    Settings,
    WebhookSettings,
)

HOUR = timedelta(hours=1)
COMMAND = StreamSpec("command", CommandSpec(("dump",), environment={"PASSWORD": "hunter2"}))
POLICY = Policy("nightly", Path("/p.yaml"), "offsite", (SourceSpec("shop", (COMMAND,), True),))
NIGHTLY = replace(
    POLICY,
    schedule=Schedule(cron="30 1 * * *", jitter=HOUR, window=Window(time(1), time(6))),
    objectives=Objectives(26 * HOUR, HOUR, timedelta(days=90), min_size_percent=50.0),
    retention=Retention(last=3, within=timedelta(days=2)),
    max_jobs=1,
    retry=Retry(5, timedelta(minutes=1), HOUR),
    limits=Limits(10_000_000, 100 << 20, io_class="idle"),
    notify=("hook",),
)
SETTINGS = Settings(
    Path("/s.yaml"),
    Path("/state"),
    Path("/policies"),
    {},
    notify={
        "ops": NotifierSettings("ops", MailSettings("h", "a@h", ("b@h",))),
        "hook": NotifierSettings(
            "hook", WebhookSettings("http://h/hunter2"), frozenset((Wish.ALWAYS,))
        ),
        "watch": NotifierSettings("watch", PingSettings("http://h/hunter2")),
    },
    limits=HostLimits(
        50_000_000,
        (
            UploadSpan(Window(time(8), time(18)), 5_000_000),
            UploadSpan(Window(time(1), time(2)), None),
        ),
        200_000_000,
        Limits(nice=10, io_class="best-effort", io_level=7),
    ),
)


def test_a_full_policy_says_what_will_happen() -> None:
    lines = policy_lines(NIGHTLY, SETTINGS, ["Fri", "Sat"])

    assert lines == [
        'policy "nightly" in file "/p.yaml"',
        "  vault         offsite",
        '  runs          cron "30 1 * * *" (local time)',
        "                starts between 01:00 and 06:00 only",
        "                starts up to 1h later, by chance",
        "                makes up once for a missed run",
        "                backs up at most 1 source at one time",
        "  next runs     Fri",
        "                Sat",
        "  keeps         3 last, everything of the last 2d",
        "  RPO           the newest restore point is at most 1d 2h old",
        "  RTO           a restore takes at most 1h",
        "  drills        the newest that went well is at most 90d old",
        "  suspicious    a restore point of less than 50% of the one before",
        (
            "  retries       up to 4 times, after 1m, then twice as long each time, up to 1h,"
            " inside the window"
        ),
        (
            "  limits        each run uploads at most 10 MB/s, reads at most 100.0 MiB/s, has nice"
            " value 10 and disk priority idle"
        ),
        "                all runs of this host together upload at most 50 MB/s",
        "                from 08:00 to 18:00 all runs of this host together upload at most 5 MB/s",
        "                from 01:00 to 02:00 all runs of this host together upload without limit",
        "                all runs of this host together read at most 200 MB/s",
        "  tells         hook of everything",
        "  volumes       64.0 MiB before compression, zstd level 3",
        "  samples       0.1% of what a platform says is unchanged,",
        "                and everything once the last full read is 30d old",
        "  rewrites      at most 15% on top of what changes, so that old volumes go",
        "  source shop: output of: dump; with PASSWORD in its environment",
    ]


def test_a_bare_policy_says_that_nothing_is_set() -> None:
    lines = policy_lines(POLICY, replace(SETTINGS, limits=HostLimits()), ["none by itself"])

    for line in (
        "  runs          only when asked",
        "  keeps         everything",
        "  drills        not set",
        "  suspicious    not set",
        "  retries       none",
        "  limits        none of its own",
        "  tells         ops of failure, recovery, breach",
        "                hook of everything",
        "                watch of every run",
    ):
        assert line in lines


def test_nobody_is_told_where_the_policy_says_so() -> None:
    assert "  tells         nobody" in policy_lines(replace(POLICY, notify=()), SETTINGS, [])
    assert policy_document(replace(POLICY, notify=()), SETTINGS)["notify"] == []


@pytest.mark.parametrize(
    ("retry", "said"),
    [
        (Retry(1), "none"),
        (Retry(2, HOUR, HOUR), "once, after 1h"),
        (Retry(3, HOUR, HOUR), "up to 2 times, after 1h"),
    ],
)
def test_pauses_are_said_as_far_as_there_are_any(retry: Retry, said: str) -> None:
    policy = replace(POLICY, schedule=Schedule(every=HOUR), retry=retry)

    assert f"  retries       {said}" in policy_lines(policy, SETTINGS, [])


def test_json_has_what_the_words_have() -> None:
    document = policy_document(NIGHTLY, SETTINGS)

    assert document["objectives"] == {
        "rpo_seconds": 93600.0,
        "rto_seconds": 3600.0,
        "drill_seconds": 7776000.0,
        "min_size_bytes": None,
        "min_size_percent": 50.0,
    }
    assert document["max_jobs"] == 1
    assert document["retry"] == {
        "attempts": 5,
        "delay_seconds": 60.0,
        "max_delay_seconds": 3600.0,
    }
    assert document["limits"] == {
        "upload_bytes_per_second": 10_000_000,
        "read_bytes_per_second": 104_857_600,
        "nice": 10,
        "io": "idle",
    }
    assert document["notify"] == ["hook"]
    assert "hunter2" not in json.dumps(document)


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (1000, "1 kB/s"),
        (12_500_000, "12.5 MB/s"),
        (3_000_000_000, "3 GB/s"),
        (1024, "1.0 KiB/s"),
        (1_234_567, "1.2 MiB/s"),
    ],
)
def test_rates_are_said_in_the_unit_they_were_meant_in(rate: int, said: str) -> None:
    assert rate_words(rate) == said
