# SPDX-License-Identifier: Apache-2.0
"""Which prunes somebody must look at, and until when."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from snapvault.model.prunes import PruneState, PruneSummary, newest, unpruned

NOW = datetime(2026, 11, 22, 6, 45, tzinfo=UTC)
DONE = PruneSummary("p0", "offsite", NOW, 5.0, PruneState.DONE)


def later(days: int, state: PruneState, **changes: Any) -> PruneSummary:
    ended = NOW + timedelta(days=days)
    return replace(DONE, id=f"p{days}", ended=ended, state=state, **changes)


def test_a_refusal_counts_until_a_prune_was_done() -> None:
    refused = later(1, PruneState.REFUSED)

    assert unpruned([refused, DONE]) == {"offsite": refused}
    assert unpruned([later(2, PruneState.DONE), refused, DONE]) == {}
    assert unpruned([later(2, PruneState.DONE, vault="near"), refused]) == {"offsite": refused}


def test_a_failure_counts_once_it_will_not_mend_itself() -> None:
    denied = later(1, PruneState.FAILED, failures=1)
    unreached = later(1, PruneState.FAILED, retryable=True, failures=2)
    for_long = replace(unreached, failures=3)

    assert unpruned([DONE, denied]) == {"offsite": denied}
    assert unpruned([DONE, unreached]) == {}
    assert unpruned([DONE, for_long]) == {"offsite": for_long}


def test_a_failure_that_may_mend_itself_does_not_end_what_was_refused() -> None:
    refused = later(1, PruneState.REFUSED)
    unreached = later(2, PruneState.FAILED, retryable=True, failures=1)

    assert unpruned([refused, unreached]) == {"offsite": refused}


def test_the_newest_prune_of_a_vault_is_told_from_those_of_others() -> None:
    refused = later(1, PruneState.REFUSED)

    assert newest([refused, DONE, later(2, PruneState.DONE, vault="near")], "offsite") == refused
    assert newest([DONE], "near") is None
