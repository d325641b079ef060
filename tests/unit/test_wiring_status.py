# SPDX-License-Identifier: Apache-2.0
"""Whose word on sources counts: that of who follows them, or else of the policies as they are."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from snapvault.model.policy import Objectives
from snapvault.model.runs import SourceKey
from snapvault.model.status import Following, Watched
from snapvault.wiring.status import _followed

NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
OWN = Watched(
    SourceKey("offsite", "web01"),
    "nightly",
    ("lvm",),
    enabled=True,
    objectives=Objectives(rpo=26 * HOUR),
    next_start=NOW + 16 * HOUR,
)
KNOWN = replace(OWN, retry_at=NOW + HOUR, next_start=NOW + 17 * HOUR)
BROKEN = replace(KNOWN, key=SourceKey("offsite", "shop"), policy="databases")
DAEMON = Following(812, is_round=False, sources=(KNOWN, BROKEN))


def test_a_daemon_at_work_has_the_word_on_what_it_follows() -> None:
    sources, told = _followed([OWN], DAEMON, daemon=812)

    assert sources == [BROKEN, KNOWN]
    assert told == []


def test_a_policy_that_the_daemon_has_not_read_is_told_of() -> None:
    new = replace(OWN, key=SourceKey("offsite", "mail"), policy="extra")
    idle = replace(new, key=SourceKey("offsite", "old"), policy="retired", enabled=False)

    sources, told = _followed([OWN, new, idle], DAEMON, daemon=812)

    assert [(each.key.source, each.next_start) for each in sources] == [
        ("shop", BROKEN.next_start),
        ("mail", None),
        ("web01", KNOWN.next_start),
        ("old", None),
    ]
    assert len(told) == 1
    assert 'does not follow policy "extra" yet' in told[0]


def test_what_a_daemon_left_that_is_dead_or_another_counts_no_more() -> None:
    for daemon in (None, 4711):
        assert _followed([OWN], DAEMON, daemon=daemon) == ([OWN], [])
    assert _followed([OWN], None, daemon=812) == ([OWN], [])


def test_between_rounds_the_policies_count_with_what_the_last_round_is_to_try_again() -> None:
    left = replace(DAEMON, is_round=True)

    sources, told = _followed([OWN], left, daemon=None)

    assert sources == [replace(OWN, retry_at=KNOWN.retry_at)]
    assert told == []
